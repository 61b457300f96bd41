"""ZeroGLA: images from scalars. The published search, and this book's own, which solves the equations."""

from .ablation import VARIANTS, ablation
from .attack import zerogla
from .consistency import inconsistent_rounds, misfits, without_strangers
from .first_order import PUBLISHED, QUIRKS
from .rank import gradient_rank_bound
from .spectrum import singular_values
from .verified import VerifiedLeak, certify, hold_out

__all__ = [
    "PUBLISHED", "QUIRKS", "VARIANTS", "VerifiedLeak", "ablation", "certify", "gradient_rank_bound", "hold_out",
    "inconsistent_rounds", "misfits", "singular_values", "without_strangers", "zerogla",
]  # fmt: skip
