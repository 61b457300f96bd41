"""Self-checks for the book's exercises: ``gl.exercises.invert_layer(yours)`` tries random cases and says what differs.

A check gives a verdict that shows itself as a text, and is true if the function passed. ``gl.exercises.invert_layer``
by itself shows what to write; ``gl.exercises.names()`` lists all exercises.
"""

from .attacks import (
    cosine_distance,
    count_unsmoothed,
    dlg_objective,
    expected_copies,
    label_by_sign,
    last_layer_features,
    nearest_image,
    photos_from_rows,
)
from .base import EXERCISES, Case, Exercise, Verdict
from .counting import paired_interval, permute, replay, rounds_needed, states_needed, unseen_change
from .defenses import (
    clip_and_average,
    combine_neurons,
    masked_distance,
    masked_messages,
    noise_needed,
    noise_share,
    steps_allowed,
    topk,
)
from .foundations import central_slope, estimate_gradient, gauss_newton_step, invert_layer, residuals_and_jacobian
from .membership import scalars_to_name, solve_active
from .reality import best_margin, mean_gradient
from .records import share_of_cells
from .text_defenses import least_scalars
from .texts import effective_dimension, token_contributions

names = EXERCISES.names

__all__ = [
    "Case", "Exercise", "Verdict", "best_margin", "central_slope", "clip_and_average", "combine_neurons",
    "cosine_distance", "count_unsmoothed", "dlg_objective", "effective_dimension", "estimate_gradient",
    "expected_copies", "gauss_newton_step", "invert_layer", "label_by_sign", "last_layer_features",
    "least_scalars", "masked_distance",
    "masked_messages", "mean_gradient", "names", "nearest_image", "noise_needed", "noise_share",
    "paired_interval", "permute", "photos_from_rows", "replay", "residuals_and_jacobian", "rounds_needed",
    "scalars_to_name", "share_of_cells", "solve_active", "states_needed", "steps_allowed",
    "token_contributions", "topk", "unseen_change",
]  # fmt: skip
