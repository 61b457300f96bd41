"""Few numbers that stand for an image: priors that an attacker learns from public images.

A latent is a map from z to images with fewer unknowns than pixels, or better-ordered ones, scaled so that z is a
standard normal vector for the public images. Solving for z instead of pixels brings in what public images have in
common.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, jacrev, vjp
from tqdm.auto import tqdm

from . import _check
from .data.batch import Batch
from .solvers import Trace, gauss_newton
from .solvers.engine import wanted


class Latent:
    """Base of all latents.

    Attributes:
        shape: (C, H, W) of an image.
        size: latent numbers for one image.
    """

    shape: tuple[int, int, int]
    size: int

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) of z (B, size), differentiable, in z's precision and on its device."""
        raise NotImplementedError

    def report(self, z: torch.Tensor) -> torch.Tensor:
        """What an attack that found z says the images are."""
        return self.decode(z)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """A quick guess at the z (B, size) of images (B, C, H, W)."""
        raise NotImplementedError

    def project(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest images that this latent can make, and their z: (B, size) and (B, C, H, W), float64.

        What no choice of z can repair; an attack that finds z cannot come closer to the truth than this.
        """
        self._fits(images)
        z = self.encode(images.double())
        return z, self.decode(z)

    def _fits(self, images: torch.Tensor) -> None:
        _check.instance("images", images, torch.Tensor)
        if images.ndim != 4 or tuple(images.shape[1:]) != self.shape:
            wanted_shape = ", ".join(map(str, self.shape))
            raise ValueError(f"images must have shape (B, {wanted_shape}), got {tuple(images.shape)}")


@dataclass(frozen=True, eq=False)
class Affine(Latent):
    """x = mean + basis z: images as a multivariate normal distribution, of full rank or not.

    Attributes:
        mean: (D,) float64, D = C H W.
        basis: (D, size) float64, orthogonal columns, each as long as the standard deviation that it stands for.
    """

    mean: torch.Tensor
    basis: torch.Tensor
    shape: tuple[int, int, int]

    @property
    def size(self) -> int:
        return self.basis.shape[1]

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return (self.mean.to(z) + z @ self.basis.to(z).T).unflatten(-1, self.shape)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        basis = self.basis.to(images)
        return (images.flatten(1) - self.mean.to(images)) @ (basis / basis.square().sum(0))


class PCA(Affine):
    """The directions in which public images differ most (Pearson 1901), and nothing else."""

    @classmethod
    def fit(cls, public: Any, components: Any) -> PCA:
        """Of the public images; ``components`` from 1 to the number of images less one, and of pixels."""
        flat = _flat(public)
        components = _limited("components", components, flat)
        mean = flat.mean(0)
        _, lengths, rows = torch.linalg.svd(flat - mean, full_matrices=False)
        deviations = lengths / (len(flat) - 1) ** 0.5
        rank = int((deviations > 1e-6).sum())
        if components > rank:
            raise ValueError(f"components must be at most {rank}: public images differ in no more; got {components}")
        return cls(mean, rows[:components].T * deviations[:components], public.shape)


class Gaussian(Affine):
    """All pixels are unknown, but which images are likely is known: mean and covariance of the public images.

    The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf 2004), so that no image is impossible.
    """

    @classmethod
    def fit(cls, public: Any) -> Gaussian:
        """Of the public images, at least two."""
        flat = _flat(public)
        return cls(flat.mean(0), _root(flat), public.shape)


def _root(flat: torch.Tensor) -> torch.Tensor:
    """Principal axes (D, D) of the shrunk covariance, each as long as its standard deviation."""
    from sklearn.covariance import ledoit_wolf

    covariance = torch.from_numpy(ledoit_wolf(flat.cpu().numpy())[0]).to(flat.device)
    values, axes = torch.linalg.eigh(covariance)
    return (axes * values.clamp_min(1e-12).sqrt()).flip(1)


def _flat(public: Any) -> torch.Tensor:
    _check.instance("public", public, Batch)
    if len(public) < 2:
        raise ValueError(f"public must hold at least two images, got {len(public)}")
    return public.images.flatten(1).double()


def _limited(name: str, value: Any, flat: torch.Tensor) -> int:
    count, pixels = flat.shape
    value = _check.integer(name, value, at_least=1)
    for limit, what in ((pixels, "pixel values"), (count - 1, "public images, less one")):
        if value > limit:
            raise ValueError(f"{name} must be at most {limit}, the number of {what}; got {value}")
    return value


class Generator(Latent):
    """A small decoder network, trained on public images as the second half of a variational autoencoder.

    The encoder and its noise make z nearly normal (Kingma and Welling 2014); its mean and covariance over the public
    images are then made 0 and 1. Smooth activations (GELU inside, a sigmoid at the end), so that second-order solvers
    work in z.
    """

    def __init__(self, decoder: nn.Module, encoder: nn.Module, size: int, shape: tuple[int, int, int]):
        self.size, self.shape = size, shape
        self._decoder, self._encoder = decoder.requires_grad_(False), encoder.requires_grad_(False)
        self._cast: dict[tuple, dict[str, torch.Tensor]] = {}
        self._shift, self._root = torch.zeros(size), torch.eye(size)

    @classmethod
    def fit(
        cls,
        public: Any,
        size: Any,
        *,
        steps: Any = 1500,
        hidden: Any = 128,
        noise: Any = 0.1,
        seed: Any = 0,
        progress: bool | None = None,
    ) -> Generator:
        """Train on the public images: Adam, batches of 128, a step size that rises to 3e-3 and falls again.

        Args:
            size: numbers in z, 1 to the number of pixel values.
            steps: of training, 1 or more.
            hidden: width of the two hidden layers of encoder and decoder.
            noise: standard deviation, per pixel, of what the generator leaves unexplained; above 0. Smaller follows the
                public images closer, larger keeps z closer to normal.
            seed: of weights, batches and the encoder's noise.
        """
        flat = _flat(public).float()
        size = _check.integer("size", size, at_least=1, at_most=flat.shape[1])
        steps, hidden = _check.integer("steps", steps, at_least=1), _check.integer("hidden", hidden, at_least=1)
        seed = _check.integer("seed", seed, at_least=0)
        weight = 2 * _check.number("noise", noise, above=0) ** 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            decoder = _Decoder(size, hidden, flat.shape[1]).to(flat.device)
            encoder = _layers(flat.shape[1], hidden, 2 * size).to(flat.device)
        draw = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam([*decoder.parameters(), *encoder.parameters()])
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        with tqdm(total=steps, desc="generator", disable=not wanted(progress), leave=False) as bar:
            for _ in range(steps):
                x = flat[torch.randint(len(flat), (min(128, len(flat)),), generator=draw).to(flat.device)]
                mean, log = encoder(x).chunk(2, 1)
                z = mean + log.exp() * torch.randn(mean.shape, generator=draw).to(mean)
                apart = (0.5 * (mean.square() + (2 * log).exp() - 1) - log).sum(1)  # Kullback-Leibler, to N(0, 1)
                loss = ((decoder(z) - x).square().sum(1) + weight * apart).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
        made = cls(decoder, encoder, size, public.shape)
        mean, log = made._run(made._encoder, flat.double()).chunk(2, 1)
        made._shift = mean.mean(0)
        apart = mean - made._shift
        made._root = torch.linalg.cholesky(apart.T @ apart / len(apart) + (2 * log).exp().mean(0).diag())
        return made

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self._run(self._decoder, self._shift.to(z) + z @ self._root.to(z).T).unflatten(-1, self.shape)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        apart = self._run(self._encoder, images.flatten(1))[:, : self.size] - self._shift.to(images)
        return torch.linalg.solve_triangular(self._root.to(images), apart.T, upper=False).T

    def project(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._fits(images)
        codes = self.encode(images.double())
        z = torch.stack([self._nearest(image, code) for image, code in zip(images.double(), codes, strict=True)])
        return z, self.decode(z)

    def _nearest(self, image: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """The z whose image is nearest: Gauss-Newton from the encoder's guess and from the average image."""
        traces = [Trace(100), Trace(100)]
        for trace, start in zip(traces, (code, torch.zeros_like(code)), strict=True):
            gauss_newton(_Nearest(self, image), start, trace, iterations=100)
        return min(traces, key=lambda trace: trace.loss).best[0]

    def _run(self, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """The network in the precision and on the device of x."""
        key = (module is self._decoder, x.dtype, x.device)
        if key not in self._cast:
            self._cast[key] = {name: p.to(x) for name, p in module.named_parameters()}
        return functional_call(module, self._cast[key], (x,))


class _Decoder(nn.Module):
    """Two hidden layers beside a linear one, and a sigmoid."""

    def __init__(self, size: int, hidden: int, pixels: int):
        super().__init__()
        self.bent, self.straight = _layers(size, hidden, pixels), nn.Linear(size, pixels)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.bent(z) + self.straight(z))


def _layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)
    )


class _Nearest:
    """The equations decode(z) = image, for one image."""

    def __init__(self, latent: Latent, image: torch.Tensor):
        self.made, self.image = lambda z: latent.decode(z[None]).flatten(), image.flatten()
        self.count, self.unknowns = image.numel(), latent.size

    def evaluate(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        made, pull = vjp(self.made, z)
        r = made - self.image
        return r, pull(r)[0]

    def push(self, z: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return jacrev(self.made)(z) @ v

    def pull(self, z: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        return vjp(self.made, z)[1](r)[0]

    def normal(self, z: torch.Tensor) -> torch.Tensor:
        jacobian = jacrev(self.made)(z)
        return jacobian.T @ jacobian

    def calibrate(self, z: torch.Tensor) -> tuple[float, float]:
        return 0.0, 0.0


class WithRest(Latent):
    """x = latent's image + what it cannot make: a second, Gaussian part, as large as public images need it.

    Images outside the latent's range are possible, but the further from it, the less likely. z holds the latent's own
    numbers first, then one for every pixel value.

    Args:
        latent: of images like the public ones.
        public: where the covariance of what the latent cannot make comes from (shrunk, as in :class:`Gaussian`).
        whole: whether the rest belongs to the reported image. If not, it only keeps an attack from bending the latent's
            part to explain what that part cannot: generalised least squares, with the rest as noise.
    """

    def __init__(self, latent: Any, public: Any, whole: bool = True):
        _check.instance("latent", latent, Latent)
        flat = _flat(public)
        latent._fits(public.images)
        made = latent.decode(latent.encode(public.images.double())).flatten(1)
        self.latent, self.shape, self.whole = latent, latent.shape, whole
        self._root = _root(flat - made)
        self.size = latent.size + len(self._root)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        inside, rest = z.split([self.latent.size, len(self._root)], dim=-1)
        return self.latent.decode(inside) + (rest @ self._root.to(z).T).unflatten(-1, self.shape)

    def report(self, z: torch.Tensor) -> torch.Tensor:
        return self.decode(z) if self.whole else self.latent.decode(z[:, : self.latent.size])

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        inside = self.latent.encode(images)
        apart = (images - self.latent.decode(inside)).flatten(1)
        return torch.cat([inside, torch.linalg.solve(self._root.to(apart), apart.T).T], 1)


NAMES = ("pca", "gaussian", "generator", "generator+rest")
"""What :func:`fit` accepts."""


def fit(name: Any, public: Any, components: Any, *, seed: int = 0, progress: bool | None = None) -> Latent:
    """The prior called ``name``, learned from public images; ``components`` numbers per image, before any rest.

    ``"pca"`` and ``"generator"`` report images that the latent can make, and take the rest for noise;
    ``"generator+rest"`` reports both; ``"gaussian"`` has no components, so nothing is left over.
    """
    _check.choice("name", name, NAMES)
    if name == "gaussian":
        return Gaussian.fit(public)
    if name == "pca":
        return WithRest(PCA.fit(public, components), public, whole=False)
    return WithRest(Generator.fit(public, components, seed=seed, progress=progress), public, name == "generator+rest")
