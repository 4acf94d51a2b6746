/* What a search shows first: the page that teaches a word, then guides, then the API reference. */
const BEST_PAGE = {
  animate: "tutorial", boundary: "equation", certificate: "reading-a-certificate", checkpoint: "storage",
  cluster: "sweeps", command: "command-line", csv: "storage", diffusion: "from-my-equation", drift: "from-my-equation",
  error: "equation", experiment: "experiments", export: "storage", fipy: "methods", fokker: "from-my-equation",
  force: "from-my-equation", friction: "equation", grid: "choosing-a-method", infinity: "equation",
  install: "tutorial", interrupt: "storage", jko: "methods", kernel: "equation", langevin: "comparison", load: "storage",
  mckean: "from-my-equation", method: "choosing-a-method", mobility: "equation", movie: "tutorial", network: "models",
  noise: "from-my-equation", obstacle: "starts-and-obstacles", own: "tutorial", particles: "comparison",
  passage: "first-passage", periodic: "equation", plot: "tutorial", porous: "from-my-equation",
  potential: "from-my-equation", progress: "watching", resume: "storage", save: "storage", sde: "from-my-equation",
  sgd: "comparison", speed: "how-it-compares", stationary: "methods", step: "schemes", stop: "watching",
  sweep: "sweeps", term: "recipes", toml: "command-line", units: "from-my-equation", walls: "equation",
};

// var: Sphinx declares the same name again.
var Scorer = {
  score: ([page, , , , score]) => {
    const words = (new URLSearchParams(window.location.search).get("q") || "").toLowerCase().split(/[^a-z0-9]+/);
    if (words.some((word) => BEST_PAGE[word] === page)) return score + 200;
    return page.startsWith("api/") ? score : score + 3;
  },
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
