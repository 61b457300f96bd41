"""What an attacker believes about images before it sees a message: how smooth they are, what their statistics are, and
(:mod:`glutils.priors.latent`) what public images have in common."""

from .image import (
    TV_KINDS,
    Statistics,
    batchnorm_distance,
    batchnorm_statistics,
    record_batchnorm_statistics,
    running_statistics,
    smoothness,
    tv,
)

__all__ = [
    "TV_KINDS", "Statistics", "batchnorm_distance", "batchnorm_statistics", "record_batchnorm_statistics",
    "running_statistics", "smoothness", "tv",
]  # fmt: skip
