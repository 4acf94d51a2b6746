"""The publications behind the methods and models, and what each part of the package rests on."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BEHIND", "REFERENCES", "Reference", "software"]


@dataclass(frozen=True)
class Reference:
    """A publication. ``where`` is a journal or proceedings, with volume and pages in ``pages``."""

    key: str
    kind: str
    authors: tuple[str, ...]
    title: str
    where: str
    year: int
    pages: str = ""
    volume: str = ""

    def text(self) -> str:
        """The reference in one line."""
        *most, last = self.authors
        authors = f"{', '.join(most)} and {last}" if most else last
        place = " ".join(part for part in (self.where, self.volume) if part)
        pages = f" {self.pages}" if self.pages and not self.pages.startswith("http") else ""
        link = f", {self.pages}" if self.pages.startswith("http") else ""
        return f"{authors}, {self.title}, {place} ({self.year}){pages}{link}."

    def bibtex(self) -> str:
        """The reference as an entry for BibTeX."""
        home = {"article": "journal", "inproceedings": "booktitle", "software": "note"}[self.kind]
        fields = {"author": " and ".join(self.authors), "title": f"{{{self.title}}}", home: self.where,
                  "volume": self.volume, "year": str(self.year)}
        fields["url" if self.pages.startswith("http") else "pages"] = self.pages.replace("-", "--") if not (
            self.pages.startswith("http")) else self.pages
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@{self.kind}{{{self.key},", *lines, "}"])


def software(version: str) -> Reference:
    """The reference of wgflow itself; CITATION.cff has the same."""
    return Reference("wgflow", "software", ("The wgflow developers",),
                     "wgflow: certified Wasserstein gradient flows and the particles they stand for",
                     f"version {version}", 2026, "https://github.com/wgflow/wgflow")


_ALL = (
    Reference("scharfetter1969", "article", ("D. L. Scharfetter", "H. K. Gummel"),
              "Large-signal analysis of a silicon Read diode oscillator", "IEEE Trans. Electron Devices", 1969,
              "64-77", "16"),
    Reference("bailo2020", "article", ("R. Bailo", "J. A. Carrillo", "J. Hu"),
              "Fully discrete positivity-preserving and energy-dissipating schemes for aggregation-diffusion "
              "equations with a gradient-flow structure", "Commun. Math. Sci.", 2020, "1259-1303", "18"),
    Reference("jordan1998", "article", ("R. Jordan", "D. Kinderlehrer", "F. Otto"),
              "The variational formulation of the Fokker-Planck equation", "SIAM J. Math. Anal.", 1998, "1-17", "29"),
    Reference("cances2020", "article", ("C. Cances", "T. O. Gallouet", "G. Todeschini"),
              "A variational finite volume scheme for Wasserstein gradient flows", "Numer. Math.", 2020, "437-480",
              "146"),
    Reference("gallouet2024", "article", ("T. O. Gallouet", "A. Natale", "G. Todeschini"),
              "From geodesic extrapolation to a variational BDF2 scheme for Wasserstein gradient flows",
              "Math. Comp.", 2024, "2769-2810", "93"),
    Reference("jacobs2021", "article", ("M. Jacobs", "W. Lee", "F. Leger"),
              "The back-and-forth method for Wasserstein gradient flows", "ESAIM: COCV", 2021, "28", "27"),
    Reference("peyre2015", "article", ("G. Peyre",), "Entropic approximation of Wasserstein gradient flows",
              "SIAM J. Imaging Sci.", 2015, "2323-2351", "8"),
    Reference("chizat2018", "article", ("L. Chizat", "G. Peyre", "B. Schmitzer", "F.-X. Vialard"),
              "Scaling algorithms for unbalanced optimal transport problems", "Math. Comp.", 2018, "2563-2609", "87"),
    Reference("guyer2009", "article", ("J. E. Guyer", "D. Wheeler", "J. A. Warren"),
              "FiPy: partial differential equations with Python", "Computing in Science and Engineering", 2009, "6-15",
              "11"),
    Reference("farrell2015", "article", ("P. E. Farrell", "A. Birkisson", "S. W. Funke"),
              "Deflation techniques for finding distinct solutions of nonlinear partial differential equations",
              "SIAM J. Sci. Comput.", 2015, "A2026-A2045", "37"),
    Reference("mei2018", "article", ("S. Mei", "A. Montanari", "P.-M. Nguyen"),
              "A mean field view of the landscape of two-layer neural networks", "PNAS", 2018, "E7665-E7671", "115"),
    Reference("mei2019", "inproceedings", ("S. Mei", "T. Misiakiewicz", "A. Montanari"),
              "Mean-field theory of two-layers neural networks: dimension-free bounds and kernel limit", "COLT", 2019),
    Reference("chizat2019", "inproceedings", ("L. Chizat", "E. Oyallon", "F. Bach"),
              "On lazy training in differentiable programming", "NeurIPS", 2019),
    Reference("jacot2018", "inproceedings", ("A. Jacot", "F. Gabriel", "C. Hongler"),
              "Neural tangent kernel: convergence and generalization in neural networks", "NeurIPS", 2018),
    Reference("ghorbani2019", "inproceedings", ("B. Ghorbani", "S. Mei", "T. Misiakiewicz", "A. Montanari"),
              "Limitations of lazy training of two-layers neural networks", "NeurIPS", 2019),
    Reference("ghorbani2021", "article", ("B. Ghorbani", "S. Mei", "T. Misiakiewicz", "A. Montanari"),
              "Linearized two-layers neural networks in high dimension", "Ann. Statist.", 2021, "1029-1054", "49"),
    Reference("mei2022", "article", ("S. Mei", "A. Montanari"),
              "The generalization error of random features regression: precise asymptotics and the double descent "
              "curve", "Comm. Pure Appl. Math.", 2022, "667-766", "75"),
    Reference("montanari2019", "article", ("A. Montanari", "F. Ruan", "Y. Sohn", "J. Yan"),
              "The generalization error of max-margin linear classifiers: high-dimensional asymptotics in the "
              "overparametrized regime", "arXiv:1911.01544", 2019),
    Reference("saad1995", "article", ("D. Saad", "S. A. Solla"),
              "On-line learning in soft committee machines", "Phys. Rev. E", 1995, "4225-4243", "52"),
    Reference("sirignano2020", "article", ("J. Sirignano", "K. Spiliopoulos"),
              "Mean field analysis of neural networks: a central limit theorem",
              "Stochastic Processes and their Applications", 2020, "1820-1852", "130"),
)
REFERENCES: dict[str, Reference] = {reference.key: reference for reference in _ALL}

_FIRST_NETWORKS = ("mei2018",)
#: What a class of the package rests on, by the name of the class; the settings of JKO's inner solvers have theirs, too.
BEHIND: dict[str, tuple[str, ...]] = {
    "FiniteVolume": ("scharfetter1969",),
    "PowerEntropy": ("bailo2020",),
    "InternalEnergy": ("bailo2020",),
    "JKO": ("jordan1998",),
    "Linearized": ("cances2020",),
    "BackAndForth": ("jacobs2021",),
    "Entropic": ("peyre2015", "chizat2018"),
    "FiPy": ("guyer2009",),
    "Stationary": ("farrell2015",),
    "IsotropicGaussian": _FIRST_NETWORKS,
    "AnisotropicGaussian": _FIRST_NETWORKS,
    "ReLUNetwork": _FIRST_NETWORKS,
    "NetworkModel": _FIRST_NETWORKS,
    "KernelLimit": ("mei2019", "chizat2019", "jacot2018"),
    "RandomFeatures": ("mei2022",),
    "MaxMargin": ("montanari2019",),
    "QuadraticTarget": ("ghorbani2019",),
    "FiniteQuadraticTarget": ("ghorbani2019",),
    "Staircase": ("ghorbani2021",),
    "OrderParameters": ("saad1995",),
    "Scatter": ("sirignano2020",),
}
