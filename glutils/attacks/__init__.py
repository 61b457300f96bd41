"""Every attack, one paper a file. :func:`attack` runs one by name, :func:`table` prints them side by side."""

from .base import Card, Reconstruction, attack, names, table
from .closed_form import april, cpa, dager, fc, fgla, inverter, rgap, spear
from .closed_form.chains import rank_analysis
from .closed_form.denoiser import train_denoiser
from .closed_form.inverse_map import train_inverter
from .generative import ggl, gias, gifd, grnn, igims, rog
from .malicious import rtf
from .malicious.dmgan import dmgan, dmgan_protocol, with_extra_class, without_class
from .malicious.fishing import fish
from .malicious.loki import loki_models
from .matching import dlf, dlg, fedleak, ig, sme, stg, tableak
from .text import zerogla_text
from .zerogla import (
    PUBLISHED,
    QUIRKS,
    VARIANTS,
    VerifiedLeak,
    ablation,
    certify,
    gradient_rank_bound,
    hold_out,
    inconsistent_rounds,
    misfits,
    singular_values,
    without_strangers,
)

__all__ = [
    "PUBLISHED", "QUIRKS", "VARIANTS", "Card", "Reconstruction", "VerifiedLeak", "ablation", "april", "attack",
    "certify", "cpa", "dager", "dlf", "dlg", "dmgan", "dmgan_protocol", "fc", "fedleak", "fgla", "fish", "ggl", "gias",
    "gifd", "gradient_rank_bound", "grnn", "hold_out", "ig", "igims", "inconsistent_rounds", "inverter", "loki_models",
    "misfits", "names", "rank_analysis", "rgap", "rog", "rtf", "singular_values", "sme", "spear", "stg", "table",
    "tableak", "train_denoiser", "train_inverter", "with_extra_class", "without_class", "without_strangers", "zerogla",
    "zerogla_text",
]  # fmt: skip
