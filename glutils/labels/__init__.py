"""What the last layer's gradient says about the labels: one rule a file, all found by name.

Everything rests on one identity. With softmax, cross entropy and labels y, the gradients of the last layer's bias b and
weight W are, with a_i its input and p_i the prediction for image i,

    dl/db_c = mean_i (p_ic - [y_i = c]),    dl/dW_c = mean_i (p_ic - [y_i = c]) a_i.

Smoothed or mixed labels break it. Rules differ in where they take p, and a, from.

A rule reads a gradient, or the delta of local training as far as its docstring says. Scalars hold no entry of the last
layer: there, labels are unknowns like pixels, and ``gl.attack("zerogla", seen)`` solves for both. Joint optimisation of
labels is also what DLG does (``gl.attack("dlg", seen)``), so it is no rule of its own here.
"""

from . import idlg  # isort: skip  # names() begins with the oldest
from ..models import last_linear
from . import alr, bias_corrected, dlf, geng, ilrg, llg, rlu, zero_shot
from .base import LabelEstimate, infer, names, round_counts, table
from .head import DUMMIES

__all__ = [
    "DUMMIES", "LabelEstimate", "alr", "bias_corrected", "dlf", "geng", "idlg", "ilrg", "infer", "last_linear", "llg",
    "names", "rlu", "round_counts", "table", "zero_shot",
]  # fmt: skip
