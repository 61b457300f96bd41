"""A torch module as a latent: trained or not, one's own or loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, jacrev, vjp
from tqdm.auto import tqdm

from ... import models
from ...solvers import Calibration, Trace, gauss_newton
from ...solvers.engine import show_progress
from .base import Latent


class Network(Latent):
    """x = module(z), in the module's state when it was given; it is copied, frozen and put into eval mode.

    Args:
        module: maps (B, size) to images (B, C, H, W).
        size: numbers in z.
        shape: (C, H, W).
    """

    def __init__(self, module: nn.Module, size: int, shape: tuple[int, int, int]):
        self.size, self.shape = size, shape
        self._module = copy.deepcopy(module).requires_grad_(False).eval()
        self._cast: dict[tuple, dict[str, torch.Tensor]] = {}

    def decode(self, z: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        z = self._inner(z)
        if weights is None:
            return self._run(self._module, z)
        like, rest = dict(self._module.named_parameters()), _as(dict(self._module.named_buffers()), z)
        if len(weights) == 1:
            own = {**models.unflatten(weights[0], like), **rest}
            return functional_call(self._module, own, (z,))
        copies = ({**models.unflatten(row, like), **rest} for row in weights)
        made = [functional_call(self._module, own, (code[None],)) for own, code in zip(copies, z, strict=True)]
        return torch.cat(made)

    def weights(self) -> torch.Tensor:
        return models.flatten(dict(self._module.named_parameters()))

    def with_weights(self, weights: torch.Tensor) -> Network:
        made = copy.copy(self)
        made._module, made._cast = copy.deepcopy(self._module), {}
        named = dict(made._module.named_parameters())
        for name, part in models.unflatten(weights.detach(), named).items():
            named[name].copy_(part)
        return made

    def layers(self) -> tuple[Callable[[torch.Tensor], torch.Tensor], ...]:
        """Cut in front of every part with weights but the first: activations belong to the features before them."""
        parts = self._module if isinstance(self._module, nn.Sequential) else nn.Sequential()
        cuts = [n for n, part in enumerate(parts) if any(True for _ in part.parameters())][1:]
        if not cuts:
            return super().layers()
        ends = zip([0, *cuts], [*cuts, len(parts)], strict=True)
        first, *rest = (partial(_call, parts[begin:end]) for begin, end in ends)
        return (lambda z: first(self._inner(z)), *rest)

    def project(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._fits(images)
        z = torch.stack([self._nearest(image) for image in images.double()])
        return z, self.decode(z)

    def _inner(self, z: torch.Tensor) -> torch.Tensor:
        """What the module is fed with for z."""
        return z

    def _starts(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Where to look for the nearest image: at the average image, and at four random ones."""
        draws = torch.randn(4, self.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return [*draws.to(image), torch.zeros(self.size).to(image)]

    def _nearest(self, image: torch.Tensor) -> torch.Tensor:
        """The z whose image is nearest, by Gauss-Newton: the best of several starts."""
        starts = self._starts(image)
        traces = [Trace(100) for _ in starts]
        for trace, start in zip(traces, starts, strict=True):
            gauss_newton(_Nearest(self, image), start, trace, iterations=100)
        found = min(traces, key=lambda trace: trace.loss)
        if found.best is None:
            raise RuntimeError(f"no latent number was found for an image: {found.reason}")
        return found.best[0]

    def _run(self, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """The network in the precision and on the device of x."""
        key = (module is self._module, x.dtype, x.device)
        if key not in self._cast:
            self._cast[key] = _as(dict(module.named_parameters()) | dict(module.named_buffers()), x)
        return functional_call(module, self._cast[key], (x,))


class Standardised(Network):
    """A network whose inputs for the public images had a mean and a covariance; z is what is left once both are out.

    Subclasses set ``_shift`` (size,) and ``_root``, the Cholesky factor of the covariance.
    """

    _shift: torch.Tensor
    _root: torch.Tensor

    def _inner(self, z: torch.Tensor) -> torch.Tensor:
        return self._shift.to(z) + z @ self._root.to(z).T

    def _starts(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The quick guess, and the average image."""
        code = self.encode(image[None])[0]
        return [code, torch.zeros_like(code)]


def train_network(
    groups: list, rates: Any, steps: int, loss: Callable[[], torch.Tensor], progress: bool | None
) -> None:
    """Adam on parameters or groups of them; step sizes rise to ``rates`` and fall again. ``loss`` draws a batch."""
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps)
    with tqdm(total=steps, desc="generator", disable=not show_progress(progress), leave=False) as bar:
        for _ in range(steps):
            value = loss()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            bar.update()


def _as(tensors: dict[str, torch.Tensor], like: torch.Tensor) -> dict[str, torch.Tensor]:
    """In the precision and on the device of ``like``; integers keep their type."""
    return {name: t.to(like) if t.is_floating_point() else t.to(like.device) for name, t in tensors.items()}


def _call(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A part of a network in the precision and on the device of x."""
    return functional_call(module, _as(dict(module.named_parameters()) | dict(module.named_buffers()), x), (x,))


class _Nearest:
    """The equations decode(z) = image, for one image."""

    def __init__(self, latent: Latent, image: torch.Tensor):
        self.made, self.image = lambda z: latent.decode(z[None]).flatten(), image.flatten()
        self.count, self.unknowns = image.numel(), latent.size

    def evaluate(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        made, pull = vjp(self.made, z)
        r = made - self.image
        return r, pull(r)[0]

    def jtj_vector(self, z: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        jacobian = jacrev(self.made)(z)
        onward = jacobian @ v
        return onward, onward @ jacobian

    def vjp(self, z: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        return vjp(self.made, z)[1](r)[0]

    def gram(self, z: torch.Tensor) -> torch.Tensor:
        jacobian = jacrev(self.made)(z)
        return jacobian.T @ jacobian

    def calibrate(self, z: torch.Tensor) -> Calibration:
        return Calibration(0.0, 0.0, self)
