"""Free energies: terms, their sums, and a sum as arrays on a grid."""

from .free_energy import FreeEnergy, Term
from .internal_energies import Entropy, InternalEnergy, PowerEntropy, RelativeEntropy
from .mobility import Mobility
from .moment_energy import MomentEnergy
from .on_grid import EnergyOnGrid
from .potentials import Potential
from .term_checks import check_term
from .time_dependent import TimeDependent

__all__ = ["EnergyOnGrid", "Entropy", "FreeEnergy", "InternalEnergy", "Mobility", "MomentEnergy", "Potential",
           "PowerEntropy", "RelativeEntropy", "Term", "TimeDependent", "check_term"]
