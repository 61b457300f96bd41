"""Every defence, one paper a file; each wraps a protocol: ``Defended(protocol, get("gaussian_noise", sigma=0.01))``."""

from .accounting import epsilon, noise_multiplier, reconstruction_bound
from .base import Defense, get, names
from .clipping import ClipNorm, ClipScalars
from .defended import Defended
from .discrete_gaussian import discrete_gaussian, distributed_epsilon, noisy_share
from .dp import DPSGD, DPUpdate
from .dp_zo import DPScalars, pure_epsilon
from .empirical import EmpiricalEpsilon, empirical_epsilon, membership_advantage
from .natural import Mixup, PruneLast
from .noise import GaussianNoise, LaplaceNoise
from .precode import Precode, precode
from .quantisation import QSGD, Bits, Half, Sign
from .resampling import Resample
from .secure_aggregation import FixedPoint, SecureSum, secure_sum
from .soteria import Soteria
from .sparsification import Masked, RandomK, TopK
from .statement import PrivacyStatement, privacy_statement

__all__ = [
    "Bits", "ClipNorm", "ClipScalars", "DPSGD", "DPScalars", "DPUpdate", "Defended", "Defense", "EmpiricalEpsilon",
    "FixedPoint", "GaussianNoise", "Half", "LaplaceNoise", "Masked", "Mixup", "Precode", "PrivacyStatement",
    "PruneLast", "QSGD", "RandomK", "Resample", "SecureSum", "Sign", "Soteria", "TopK", "discrete_gaussian",
    "distributed_epsilon", "empirical_epsilon", "epsilon", "get", "membership_advantage", "names", "noise_multiplier",
    "noisy_share", "precode", "privacy_statement", "pure_epsilon", "reconstruction_bound", "secure_sum",
]  # fmt: skip
