"""Priors by name."""

from __future__ import annotations

from typing import Any

from ... import _validate
from .affine import PCA, Gaussian
from .base import Latent
from .residual import WithRest
from .vae import Generator

NAMES = ("pca", "gaussian", "generator", "generator+rest")
"""What :func:`fit` accepts."""


def fit(name: Any, public: Any, components: Any, *, seed: int = 0, progress: bool | None = None) -> Latent:
    """The prior called ``name``, learned from public images; ``components`` numbers per image, before any rest.

    ``"pca"`` and ``"generator"`` report images that the latent can make, and take the rest for noise;
    ``"generator+rest"`` reports both; ``"gaussian"`` has no components, so nothing is left over.
    """
    _validate.choice("name", name, NAMES)
    if name == "gaussian":
        return Gaussian.fit(public)
    if name == "pca":
        return WithRest(PCA.fit(public, components), public, whole=False)
    return WithRest(Generator.fit(public, components, seed=seed, progress=progress), public, name == "generator+rest")
