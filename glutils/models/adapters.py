"""Low-rank adapters (Hu et al. 2022): a network that stays as it is, and small products beside its linear layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import _validate


class Adapted(nn.Module):
    """A linear layer that is frozen, and ``scale * B A x`` beside it.

    Its ``up`` B is zero at first, so that the network begins as what it was; its ``down`` A is drawn.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        bound = base.in_features**-0.5  # as Kaiming's law with a = sqrt(5), which the paper's code has
        drawn = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(drawn.to(base.weight))
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * F.linear(F.linear(x, self.down), self.up)


def adapted(
    model: nn.Module, rank: int = 4, *, scale: float | int = 2.0, skip: Sequence[str] = ("head",), seed: int = 0
) -> nn.Module:
    """A copy of a network whose linear layers have low-rank adapters, which alone are trained: LoRA.

    What a client of such a network sends is about the adapters' parameters alone. The network begins as ``model`` does,
    since every adapter is zero at first.

    Differs from the paper, which adapts query and value of each attention: here every linear layer but those in
    ``skip``, as later practice does.

    Args:
        model: a network with ``nn.Linear`` layers.
        rank: of each product, 1 or more.
        scale: by which the product is multiplied: the paper's alpha / r, above 0.
        skip: names of layers, or of modules with layers, that have none.
        seed: of the adapters' first halves.

    Returns:
        The copy. Whatever was trainable in ``model`` is frozen in it.

    Raises:
        TypeError, ValueError: a network without linear layers, or with none but those in ``skip``.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("messages", seed=0, device="cpu")
        >>> model = gl.models.adapted(gl.models.build("gpt", batch, weights="trained"), rank=4)
        >>> sum(p.numel() for p in gl.models.parameters(model).values())
        8192
    """
    _validate.instance("model", model, nn.Module)
    rank = _validate.integer("rank", rank, at_least=1)
    scale = float(_validate.number("scale", scale, above=0))
    if isinstance(skip, str):
        raise TypeError(f"skip must be a sequence of names, got {skip!r}")
    model = copy.deepcopy(model).requires_grad_(False)
    chosen = [
        name for name, module in model.named_modules()
        if type(module) is nn.Linear and not any(name == s or name.startswith(f"{s}.") for s in skip)
    ]  # fmt: skip
    if not chosen:
        raise ValueError(f"model must have linear layers beside those in skip={tuple(skip)}, has none")
    generator = torch.Generator().manual_seed(_validate.integer("seed", seed, at_least=0))
    for name in chosen:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        new = Adapted(layer, rank, scale, generator)
        if not name:
            return new
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, new)
    return model
