"""Attacks that guess images, compute what a client would have sent, and change the pixels until both agree."""

from . import dlf, dlg, dlg_variants, idlg, ig, stg

__all__ = ["dlf", "dlg", "dlg_variants", "idlg", "ig", "stg"]
