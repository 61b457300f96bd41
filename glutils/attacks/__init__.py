"""Every attack, one paper a file. :func:`attack` runs one by name, :func:`table` prints them side by side."""

from . import cpa, dlf, dlg, dlg_variants, fc, fgla, ggl, gias, grnn, idlg, ig, igims, rgap, rtf, stg, zerogla
from .ablation import VARIANTS, ablation
from .base import Card, Reconstruction, attack, names, table
from .chains import rank_analysis
from .consistency import inconsistent_rounds, misfits, without_strangers
from .dmgan import dmgan, dmgan_protocol, with_extra_class, without_class
from .equations import singular_values
from .first_order import PUBLISHED, QUIRKS
from .rank import gradient_rank_bound

__all__ = [
    "ggl", "gias", "igims",
    "cpa", "rtf", "dlf", "dlg_variants", "dmgan", "dmgan_protocol", "fgla", "gradient_rank_bound", "grnn",
    "rank_analysis", "rgap",
    "PUBLISHED", "QUIRKS", "VARIANTS", "Card", "Reconstruction", "ablation", "attack", "dlg", "fc", "idlg", "ig",
    "inconsistent_rounds", "misfits", "names", "singular_values", "stg", "table", "with_extra_class",
    "without_class", "without_strangers", "zerogla",
]  # fmt: skip
