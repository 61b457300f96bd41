"""Texts from the scalars of zeroth-order clients: an additive code, decoded by beam search."""

from .attack import zerogla_text
from .certificate import Certificate, certify

__all__ = ["Certificate", "certify", "zerogla_text"]
