"""Few numbers that stand for an image: priors that an attacker learns from public images, or merely assumes.

A latent is a map from z to images with fewer unknowns than pixels, or better-ordered ones, scaled so that z is a
standard normal vector for the public images. Solving for z instead of pixels brings in what public images have in
common.
"""

from .affine import PCA, Affine, Gaussian
from .base import Latent
from .dcgan import dcgan, untrained
from .glo import GLO
from .loading import load
from .network import Network
from .registry import NAMES, choice, fit, resolve
from .residual import ResidualLatent
from .vae import Generator

__all__ = [
    "GLO", "NAMES", "PCA", "Affine", "Gaussian", "Generator", "Latent", "Network", "ResidualLatent", "choice", "dcgan",
    "fit", "load", "resolve", "untrained",
]  # fmt: skip
