"""Every attack, one paper a file. :func:`attack` runs one by name, :func:`table` prints them side by side."""

from .base import Card, Reconstruction, attack, names, table
from .closed_form import april, cpa, dager, fc, fgla, rgap, spear
from .closed_form.chains import rank_analysis
from .generative import ggl, gias, grnn, igims
from .malicious import rtf
from .malicious.dmgan import dmgan, dmgan_protocol, with_extra_class, without_class
from .matching import dlf, dlg, ig, stg
from .text import zerogla_text
from .zerogla import (
    PUBLISHED,
    QUIRKS,
    VARIANTS,
    ablation,
    gradient_rank_bound,
    inconsistent_rounds,
    misfits,
    singular_values,
    without_strangers,
)

__all__ = [
    "ggl", "gias", "igims",
    "april", "cpa", "dager", "rtf", "dlf", "dmgan", "dmgan_protocol", "fgla", "gradient_rank_bound", "grnn",
    "rank_analysis", "rgap", "spear",
    "PUBLISHED", "QUIRKS", "VARIANTS", "Card", "Reconstruction", "ablation", "attack", "dlg", "fc", "ig",
    "inconsistent_rounds", "misfits", "names", "singular_values", "stg", "table", "with_extra_class",
    "without_class", "without_strangers", "zerogla", "zerogla_text",
]  # fmt: skip
