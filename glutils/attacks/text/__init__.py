"""Texts from the scalars of zeroth-order clients: an additive code, decoded by beam search; and one label word."""

from .attack import zerogla_text
from .certificate import Certificate, certify
from .label_word import zerogla_label_word

__all__ = ["Certificate", "certify", "zerogla_label_word", "zerogla_text"]
