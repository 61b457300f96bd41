"""How close a reconstruction is, and how close one gets without any attack.

Every metric is taken per image on pixels in [0, 1] and in float64. A reconstructed batch has no order, so `score`
matches it to the truth once (Hungarian, least MSE), and that one matching serves every metric and the labels.
"""

from .labels import count_accuracy, existence_f1, existence_jaccard
from .mixed import correlation, correlations, match_by_correlation, recovery_mask
from .pixels import LPIPSUnavailable, affine_psnr, label_accuracy, lpips, match, mean_psnr, mse, psnr, ssim
from .scores import METRICS, Control, Metrics, Score, Summary, score, summary

__all__ = [
    "METRICS", "Control", "LPIPSUnavailable", "Metrics", "Score", "Summary", "affine_psnr", "correlation",
    "correlations", "count_accuracy", "existence_f1", "existence_jaccard",
    "label_accuracy", "lpips", "match", "match_by_correlation", "mean_psnr", "mse", "psnr",
    "recovery_mask", "score", "ssim", "summary",
]  # fmt: skip
