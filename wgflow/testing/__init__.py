"""Properties of flows, tested on random problems: strategies for hypothesis, and assertions for solutions and terms.

The strategies need hypothesis (``pip install 'wgflow[test]'``), which is imported when the first of them is called; the
assertions need nothing.
"""

from __future__ import annotations

from .assertions import (
    assert_energy_decays,
    assert_first_variation,
    assert_gibbs_fixed,
    assert_mass_conserved,
    assert_nonnegative,
    assert_order,
    assert_symmetric_kernel,
)
from .problems import Kernel, RandomFlow
from .strategies import densities, energies, flows, grids, potentials, smooth_flows, symmetric_kernels

__all__ = [
    "Kernel", "RandomFlow", "assert_energy_decays", "assert_first_variation", "assert_gibbs_fixed",
    "assert_mass_conserved", "assert_nonnegative", "assert_order", "assert_symmetric_kernel", "densities", "energies",
    "flows", "grids", "potentials", "smooth_flows", "symmetric_kernels",
]
