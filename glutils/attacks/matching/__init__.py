"""Attacks that guess images, compute what a client would have sent, and change the pixels until both agree."""

from . import dlf, dlg, fedleak, ig, sme, stg, tableak

__all__ = ["dlf", "dlg", "fedleak", "ig", "sme", "stg", "tableak"]
