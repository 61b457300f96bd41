"""How close a reconstruction is, and how close one gets without any attack.

Every metric is taken per record: of an image on pixels in [0, 1], of a table on standardised columns, of a text on its
pieces.
A reconstructed batch has no order, so `score` matches it to the truth once (Hungarian, least MSE), and that one
matching serves every metric and the labels.
"""

from .labels import count_accuracy, existence_f1, existence_jaccard
from .measured import METRICS, Control, Metrics
from .mixed import correlation, correlations, match_by_correlation, recovery_mask
from .pixels import LPIPSUnavailable, affine_psnr, label_accuracy, lpips, match, mean_psnr, mse, psnr, ssim
from .scores import Score, score
from .summaries import Summary, summary
from .tables import cells, match_records, numeric_error, square_error
from .texts import edit_distance, exact, match_texts, secrets, token_accuracy

__all__ = [
    "METRICS", "Control", "LPIPSUnavailable", "Metrics", "Score", "Summary", "affine_psnr", "cells",
    "correlation", "correlations", "count_accuracy", "edit_distance", "exact", "existence_f1", "existence_jaccard",
    "label_accuracy", "lpips", "match", "match_by_correlation", "match_records", "match_texts", "mean_psnr",
    "mse", "numeric_error", "psnr", "recovery_mask", "score", "secrets", "square_error", "ssim", "summary",
    "token_accuracy",
]  # fmt: skip
