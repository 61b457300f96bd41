"""Every attack, one paper a file. :func:`attack` runs one by name, :func:`table` prints them side by side."""

from . import dlg, fc, idlg, ig, zerogla
from .ablation import VARIANTS, ablation
from .base import Card, Reconstruction, attack, names, table
from .equations import singular_values
from .first_order import PUBLISHED, QUIRKS

__all__ = [
    "PUBLISHED", "QUIRKS", "VARIANTS", "Card", "Reconstruction", "ablation", "attack", "dlg", "fc", "idlg", "ig",
    "names", "singular_values", "table", "zerogla",
]  # fmt: skip
