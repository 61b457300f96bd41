"""Latents by name: the one registry, in which a name means one model whoever asks for it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ... import _validate
from ...data.batch import Batch
from .affine import PCA, Gaussian
from .base import Latent
from .dcgan import untrained
from .glo import GLO
from .residual import ResidualLatent
from .vae import Generator

NAMES = ("pca", "gaussian", "generator", "generator+residual", "glo", "untrained")
"""What :func:`fit` accepts: ``"pca"`` is :class:`PCA`, ``"gaussian"`` :class:`Gaussian`, ``"generator"``
:class:`Generator`, ``"glo"`` :class:`GLO`, all learned from public images, and ``"untrained"`` the network of
:func:`untrained`, which needs none. ``"generator+residual"`` is the :class:`ResidualLatent` of a generator: both parts
make the image. An attack takes those names that are of use to it, and says which."""
RENAMED = {"generator+rest": "generator+residual"}
"""Names that were, and what they are now."""


def fit(name: Any, public: Any, components: Any, *, seed: int = 0, progress: bool | None = None) -> Latent:
    """The latent called ``name``, learned from public images.

    Args:
        name: one of :data:`NAMES`.
        public: a :class:`~glutils.data.Batch` of at least two public images; of ``"untrained"`` only their shape is
            used.
        components: numbers per image, before any residual; ``"gaussian"`` has one for every pixel value and takes
            None.
        seed: of what is drawn in training, or instead of it.
        progress: whether training shows a bar.

    Raises:
        TypeError, ValueError: an unknown name, too few public images, or more components than they allow.
    """
    choice("name", name)
    if name == "gaussian":
        if components is not None:
            raise ValueError(f"components does nothing with name='gaussian', got {components!r}")
        return Gaussian.fit(public)
    if name == "pca":
        return PCA.fit(public, components)
    if name == "untrained":
        return untrained(_validate.instance("public", public, Batch).shape, components, seed=seed)
    kind = GLO if name == "glo" else Generator
    made = kind.fit(public, components, seed=seed, progress=progress)
    return ResidualLatent(made, public) if name == "generator+residual" else made


def choice(argument: str, name: Any, allowed: Collection[str] = NAMES) -> str:
    """``name`` if it is one of ``allowed``; ``ValueError`` listing them otherwise, or saying what it is called now."""
    if isinstance(name, str) and RENAMED.get(name) in allowed:
        raise ValueError(f"{argument}={name!r} is called {RENAMED[name]!r} now")
    return _validate.choice(argument, name, allowed)


def resolve(
    prior: Any,
    shape: tuple[int, int, int],
    public: Batch | None,
    components: Any,
    default_components: int,
    *,
    seed: int = 0,
    progress: bool | None = None,
) -> Latent:
    """The latent that an attack's arguments ``prior`` and ``components`` mean, for images of ``shape`` (C, H, W).

    Args:
        prior: a latent, which is returned as it is, or one of :data:`NAMES`.
        public: the public images that the attacker holds, or None.
        components: of a latent given by name; None: ``default_components``, or what the public images allow.

    Raises:
        TypeError, ValueError: a latent of other images; ``components`` beside a latent, or that cannot be had; for a
            name that learns from public images, none, or of another shape.
    """
    if isinstance(prior, Latent):
        if components is not None:
            raise ValueError(f"components belongs to a latent given by name, this has {prior.size}; got {components!r}")
        if prior.shape != shape:
            raise ValueError(f"prior must be a latent of images {shape}, got one of {prior.shape}")
        return prior
    choice("prior", prior)
    if prior == "untrained":
        return untrained(shape, default_components if components is None else components, seed=seed)
    if public is None:
        raise ValueError(f"prior={prior!r} learns from public images: observe(..., knows={{'public'}}, public=...)")
    if public.shape != shape:
        raise ValueError(f"public must hold images of shape {shape}, got {public.shape}")
    if prior == "gaussian":
        if components is not None:
            raise ValueError(f"components does nothing with prior='gaussian', got {components!r}")
    elif components is None:
        components = max(1, min(default_components, len(public) - 1, public.images[0].numel()))
    return fit(prior, public, components, seed=seed, progress=progress)
