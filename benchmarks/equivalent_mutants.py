"""Mutants that change no result: the file, the line as the mutant has it, and why nothing can tell the difference."""

from __future__ import annotations

_ON_GRID, _DISSIPATION = "wgflow/energies/on_grid.py", "wgflow/energies/dissipation.py"
_KERNELS = "wgflow/interactions/kernel_checks.py"
_NEVER_NEGATIVE = "D >= 0"
_ZERO = "at D = 0 it adds D times a finite number"
_EXPLICIT = "wgflow/compiled/explicit.py"
_CHANCE = "numbers that are equal by chance alone"
_DIGITS = "digits of a number in a message"
_PROBE = "other densities, of which nothing is asked but that they are positive and differ"
_SAMPLE = "another sample of pairs"
_CHAINS, _NONLINEAR = "wgflow/compiled/chains.py", "wgflow/compiled/nonlinear_sweep.py"
_LAST = "i + 1 is at most n"

EQUIVALENT: dict[tuple[str, str], str] = {
    (_ON_GRID, "if self.diffusion >= 0:"): _ZERO,
    (_ON_GRID, "if self.diffusion != 0:"): _NEVER_NEGATIVE,
    (_ON_GRID, "if self.diffusion <= 0 or self.grid.log_weight is None:"): _NEVER_NEGATIVE,
    (_DISSIPATION, "if mu is None and diffusion != 0:"): _NEVER_NEGATIVE,
    (_DISSIPATION, "if mu is None and diffusion >= 0:"): _ZERO,
    (_DISSIPATION, "on_grid, law = energy.assemble(rho.grid, check=True), at_nodes(rho)"):
        "an energy is checked once more, which costs time",
    (_DISSIPATION, "parts = factors[axis] if factors else np.empty((0, 2, grid.shape[axis], width))"):
        "an array without entries",
    (_DISSIPATION, "kept = rates[axis] if rates else np.empty((0, 3, grid.shape[axis], width))"):
        "an array without entries",
    (_DISSIPATION, "kept = rates[axis] if rates else np.empty((0, 5, grid.shape[axis], width))"):
        "an array without entries",
    (_DISSIPATION, "total += compact_dissipation(masses.ravel(), pull, own, mu.ravel(), diffusion, "
                   "float(grid.widths[axis][ -1]),"): "all cells are of one width",
    (_DISSIPATION, "total += compact_dissipation(masses.ravel(), pull, own, mu.ravel(), diffusion, "
                   "float(grid.widths[axis][ 1]),"): "all cells are of one width",
    ("wgflow/checks.py", "return limit - (int(pages[ -1].split()[0]) * resource.getpagesize() if pages else 0)"):
        "the file has one line",
    (_EXPLICIT, "if short <= 0.0:"): "a count",
    (_EXPLICIT, "if m[i] >= least:"): _CHANCE,
    (_EXPLICIT, "for i in range( 0, n):"): "what is filled at 0 is set to another value next",
    ("wgflow/compiled/sweep.py", "_fill(factor, -1, factor.size, 1.0)"): "the last entry is filled twice",
    ("wgflow/compiled/compact.py", "moved, sums = 0.0, np.zeros(( 3, width))"): "the third row is not used",
    (_KERNELS, "SAMPLED_PAIRS = 513"): _SAMPLE,
    (_KERNELS, "SAMPLED_PAIRS = 511"): _SAMPLE,
    (_KERNELS, "i, j = np.random.default_rng( 20180).integers(grid.size, size=(2, SAMPLED_PAIRS))"): _SAMPLE,
    (_KERNELS, "i, j = np.random.default_rng( 20182).integers(grid.size, size=(2, SAMPLED_PAIRS))"): _SAMPLE,
    (_KERNELS, "points = [tuple(round(float(c[m]), 5) for c, m in zip(grid.centers, "
               "np.unravel_index(cell, grid.shape)))"): _DIGITS,
    (_KERNELS, "places = [round(float(p[where]), 7) for p in points]"): _DIGITS,
    (_KERNELS, "places = [round(float(p[where]), 5) for p in points]"): _DIGITS,
    (_KERNELS, "mesh = np.meshgrid(*[circular_offsets(n, m) * h[ -1] for n, m, h in zip(grid.shape, kernel.shape, "
               "grid.widths)],"): "all cells are of one width",
    ("wgflow/energies/term_checks.py", "waves[1] = waves[1] + np.sin(2 * np.pi * x - 0.7 * axis) + 0.5 * "
                                       "np.cos( 7 * np.pi * x)"): _PROBE,
    ("wgflow/energies/term_checks.py", "waves[1] = waves[1] + np.sin(2 * np.pi * x - 0.7 * axis) + 0.5 * "
                                       "np.cos(6 + np.pi * x)"): _PROBE,
    ("wgflow/energies/term_checks.py", "x = ((np.arange(n) + -0.5) / n).reshape(shape)"): _PROBE,
    ("wgflow/energies/term_checks.py", "first, second = (Density.from_values(grid, np.exp(0.5 - wave), normalize=True) "
                                       "for wave in waves)"): _PROBE,
    (_CHAINS, "EMPTY = -1.0"): "masses of less than 1e-20 are moved, which costs time",
    (_CHAINS, "k = i + 1 if i + 1 != n else 0"): _LAST,
    (_NONLINEAR, "k = i + 1 if i + 1 != n else 0"): _LAST,
    (_KERNELS, 'indexing="ij", sparse=False)'): "arrays that are broadcast to the same shape next",
}
