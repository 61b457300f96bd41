"""Every attack, one paper a file. :func:`attack` runs one by name, :func:`table` prints them side by side."""

from . import dlg, fc, idlg, ig, zerogla
from .base import Card, Reconstruction, attack, names, table
from .equations import singular_values
from .first_order import PUBLISHED, QUIRKS

__all__ = [
    "PUBLISHED", "QUIRKS", "Card", "Reconstruction", "attack", "dlg", "fc", "idlg", "ig", "names", "singular_values",
    "table", "zerogla",
]  # fmt: skip
