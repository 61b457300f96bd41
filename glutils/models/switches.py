"""Networks with switches, ReLU and max-pooling, as they look from afar: what moves when switches turn over.

A switch's value and slope are those of the network itself. But the slope jumps where the switch turns over, and
automatic differentiation sees no jump. If an image is known only to within some spread, nobody knows which switches
have turned over, and the *expected* change of slope is a smooth function: the derivative of a step is a bump as wide as
the spread of the numbers that the switch looks at.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .functional import Parameters, logits

LOGISTIC = 0.55
"""Scale of the logistic distribution that has a standard deviation of one."""


def has_switches(model: nn.Module) -> bool:
    """Whether the model has ReLU or max-pooling layers."""
    return any(isinstance(module, (nn.ReLU, nn.MaxPool2d)) for module in model.modules())


def with_expected_switching(model: nn.Module, params: Parameters, images: torch.Tensor) -> nn.Module:
    """A copy of ``model`` whose switches have the expected derivative over a spread of images, and their own values.

    Parameters and buffers are shared with ``model``. Max-pooling with dilation or ``ceil_mode`` stays as it is.

    Args:
        params: of the model, in the dtype of ``images``.
        images: (N, B, C, H, W), N guesses at the same batch of B images, at least two.

    Example:
        >>> import torch
        >>> from glutils.models.switches import with_expected_switching
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2), torch.nn.ReLU())
        >>> guesses = torch.rand(50, 1, 1, 2, 2)
        >>> seen_from_afar = with_expected_switching(net, dict(net.named_parameters()), guesses)
        >>> torch.equal(seen_from_afar(guesses[0]), net(guesses[0]))
        True
    """
    spreads: dict[str, list[torch.Tensor]] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.ReLU, nn.MaxPool2d)):
            hooks.append(module.register_forward_pre_hook(_note(spreads.setdefault(name, []), images.shape[:2])))
    try:
        with torch.no_grad():
            logits(model, params, images.flatten(0, 1))
    finally:
        for hook in hooks:
            hook.remove()
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    model = copy.deepcopy(model, shared)
    for name, found in spreads.items():
        module = model.get_submodule(name)
        # a layer that is called more than once has one spread for all of its calls
        spread = found[0] if len(found) == 1 else sum(each.mean() for each in found) / max(len(found), 1)
        if found and (isinstance(module, nn.ReLU) or (module.dilation in (1, (1, 1)) and not module.ceil_mode)):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, _Switched(module, torch.as_tensor(spread)))
    return model


def _note(spreads: list[torch.Tensor], counts: torch.Size) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    """A hook that notes the standard deviation over guesses of what a switch looks at."""

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen = inputs[0].unflatten(0, counts)
        if isinstance(module, nn.ReLU):
            spreads.append(seen.std(0))
            return
        held = _windows(seen, module)
        spreads.append((held - held.mean(-1, keepdim=True)).std(0).mean(-1))

    return hook


class _Switched(nn.Module):
    """In the place of a ReLU or max-pooling layer."""

    def __init__(self, module: nn.Module, spread: torch.Tensor):
        super().__init__()
        self.module, self.width = module, LOGISTIC * spread + 1e-12

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        width = self.width.to(x)
        if isinstance(self.module, nn.ReLU):
            return _Chosen.apply(torch.stack([x, torch.zeros_like(x)], -1), width)
        return _Chosen.apply(_windows(x, self.module), width)


def _windows(x: torch.Tensor, module: nn.MaxPool2d) -> torch.Tensor:
    """What each output of a max-pooling layer is the largest of, (..., H', W', n)."""
    (kh, kw), (sh, sw), (ph, pw) = (_pair(v) for v in (module.kernel_size, module.stride, module.padding))
    if ph or pw:
        x = nn.functional.pad(x, (pw, pw, ph, ph), value=torch.finfo(x.dtype).min)
    rows, columns = (x.shape[-2] - kh) // sh + 1, (x.shape[-1] - kw) // sw + 1
    shifted = [
        x[..., i : i + sh * (rows - 1) + 1 : sh, j : j + sw * (columns - 1) + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    return torch.stack(shifted, -1)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


class _Chosen(torch.autograd.Function):
    """The largest of (..., n); its slope chooses, and is itself a function with an expected slope."""

    generate_vmap_rule = True

    @staticmethod
    def forward(held, width):
        return held.amax(-1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        held, width = ctx.saved_tensors
        return slope[..., None] * _Choice.apply(held, width), None


class _Choice(torch.autograd.Function):
    """1 for the largest of (..., n), 0 for the others; with the derivative of a softmax."""

    generate_vmap_rule = True

    @staticmethod
    def forward(held, width):
        # of equals the last, so that a ReLU at zero is off; a maximum of equals is the same whichever is chosen
        last = held.shape[-1] - 1 - held.flip(-1).argmax(-1)
        return nn.functional.one_hot(last, held.shape[-1]).to(held.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        held, width = ctx.saved_tensors
        shares = (held / width[..., None]).softmax(-1)
        return shares * (slope - (shares * slope).sum(-1, keepdim=True)) / width[..., None], None
