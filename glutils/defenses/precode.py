"""PRECODE: a random bottleneck in the network (Scheliga et al., WACV 2022)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .. import _validate, models
from ..protocols import Protocol
from .base import DEFENSES, Defense, random_like


class Bottleneck(nn.Module):
    """Encoder to mean and deviation of ``width`` numbers, z = mean + deviation x chance, decoder back.

    ``chance`` (B, width) is set by the client for one pass; without it z is the mean, which is what everybody else
    computes.
    """

    def __init__(self, features: int, width: int):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(features, 2 * width), nn.Linear(width, features)
        self.chance: torch.Tensor | None = None
        self.divergence: torch.Tensor | None = None

    def __getstate__(self) -> dict:
        """Without the divergence of the last pass: a tensor with a graph cannot be copied."""
        return self.__dict__ | {"divergence": None}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, deviation = self.encoder(x).chunk(2, -1)
        deviation = F.softplus(deviation - 5) + 1e-6
        self.divergence = 0.5 * (mean.square() + deviation.square() - 2 * deviation.log() - 1).sum(-1).mean() / 0.6931
        return self.decoder(mean if self.chance is None else mean + deviation * self.chance.to(x))


def precode(model: nn.Module, width: int = 256, *, seed: int = 0) -> nn.Module:
    """A copy of ``model`` with a variational bottleneck of ``width`` numbers before its last linear layer.

    Raises:
        ValueError: the model has no linear layer, or a bottleneck already.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> type(gl.defenses.precode(model, width=8)).__name__
        'Sequential'
    """
    width = _validate.integer("width", width, at_least=1)
    if any(isinstance(module, Bottleneck) for module in model.modules()):
        raise ValueError("model must have no bottleneck yet, this one has")
    built = copy.deepcopy(model)
    name, layer = models.last_linear(built)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_validate.integer("seed", seed, at_least=0))
        bottleneck = Bottleneck(layer.in_features, width).to(layer.weight)
    parent, _, child = name.rpartition(".")
    setattr(built.get_submodule(parent), child, nn.Sequential(bottleneck, layer))
    return built.train(model.training)


@DEFENSES.register("precode")
@dataclass(frozen=True)
class Precode(Defense):
    """The gradient of a model with a random bottleneck: what follows it depends on chance that nobody else knows.

    Use with ``gl.defenses.precode(model)``. The attacker simulates the mean.

    Args:
        beta: weight of the divergence of the bottleneck from a standard normal, in bits, 0 or more.
    """

    beta: float | int = 1e-3
    kinds = ("gradient",)
    title = "PRECODE"
    needs_data = True

    def __post_init__(self) -> None:
        _validate.number("beta", self.beta, at_least=0)

    def check(self, protocol: Protocol, model: nn.Module) -> None:
        if not protocol.exact_gradient:
            raise ValueError(f"protocol must be FedSGD for PRECODE, got {protocol}")
        _bottleneck(model)

    def client(self, protocol, model, images, labels, generator, **how):
        layer = _bottleneck(model)
        shape = torch.empty(len(images), layer.decoder.in_features, dtype=images.dtype, device=images.device)
        layer.chance = random_like(shape, generator)
        try:
            grads = self._gradient(protocol, model, models.parameters(model, images.dtype), images, labels, False)
        finally:
            layer.chance = None
        return protocol.payload(grads, model).detach()

    def attacker(self, protocol, model, images, labels, params, how):
        params = params or models.parameters(model, images.dtype)
        return protocol.payload(self._gradient(protocol, model, params, images, labels, True), model)

    def _gradient(self, protocol, model, params, images, labels, graph) -> models.Parameters:
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        with torch.enable_grad():
            value = models.loss(model, leaves, images, labels, criterion=protocol.criterion)
            divergence = _bottleneck(model).divergence
            assert divergence is not None, "the forward pass leaves it"
            value = value + float(self.beta) * divergence
            grads = torch.autograd.grad(value, list(leaves.values()), create_graph=graph)
        _bottleneck(model).divergence = None
        return dict(zip(leaves, grads, strict=True))


def _bottleneck(model: nn.Module) -> Bottleneck:
    found = [module for module in model.modules() if isinstance(module, Bottleneck)]
    if len(found) != 1:
        raise ValueError("model must have one bottleneck for PRECODE: gl.defenses.precode(model) adds it")
    return found[0]
