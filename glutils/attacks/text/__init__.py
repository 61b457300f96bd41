"""Texts from scalars: an additive code, decoded by beam search; and one label word. From gradients: TAG and LAMP."""

from .attack import zerogla_text
from .certificate import Certificate, certify
from .label_word import zerogla_label_word
from .lamp import lamp
from .tag import tag

__all__ = ["Certificate", "certify", "lamp", "tag", "zerogla_label_word", "zerogla_text"]
