"""Networks with switches, as ReLU and max-pooling are, as they look from afar: what moves when switches turn over.

A switch's value and slope are those of the network itself. But the slope jumps where the switch turns over, and
automatic differentiation sees no jump. If an image is known only to within some spread, nobody knows which switches
have turned over, and the *expected* change of slope is a smooth function: the derivative of a step is a bump as wide as
the spread of the numbers that the switch looks at.

A network has switches by what it computes, not by the layers that it is made of: see :data:`BENDS` and
:data:`LARGEST`. What it writes out by comparisons (``x * (x > 0)``) is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from .calls import Calls, Handler, within
from .functional import Parameters, logits, parameters

LOGISTIC = 0.55
"""Scale of the logistic distribution that has a standard deviation of one."""
GUESSES, SPREAD = 4, 0.25
"""Images, and their standard deviation, of which it is seen whether a network's switches turn over."""

Bends = list[tuple[Any, Any]]
BENDS: dict[str, Callable[..., Bends]] = {
    "relu": lambda inplace=False: [(0, 1)],
    "relu6": lambda inplace=False: [(0, 1), (6, -1)],
    "leaky_relu": lambda negative_slope=0.01, inplace=False: [(0, 1 - negative_slope)],
    "prelu": lambda weight: [(0, 1 - weight)],
    "rrelu": lambda lower=1 / 8, upper=1 / 3, training=False, inplace=False: [(0, 1 - (lower + upper) / 2)],
    "threshold": lambda threshold, value, inplace=False: [(threshold, 1)],
    "elu": lambda alpha=1.0, inplace=False: [(0, 1 - alpha)],
    "selu": lambda inplace=False: [(0, 1.0507009873554805 * (1 - 1.6732632423543772))],
    "hardtanh": lambda min_val=-1.0, max_val=1.0, inplace=False: [(min_val, 1), (max_val, -1)],
    "hardsigmoid": lambda inplace=False: [(-3, 1 / 6), (3, -1 / 6)],
    "hardswish": lambda inplace=False: [(-3, -0.5), (3, -0.5)],
    "softshrink": lambda lambd=0.5: [(-lambd, -1), (lambd, 1)],
    "abs": lambda: [(0, 2)],
    "absolute": lambda: [(0, 2)],
    "clamp": lambda min=None, max=None: [(min, 1), (max, -1)],
    "clip": lambda min=None, max=None: [(min, 1), (max, -1)],
    "clamp_min": lambda min: [(min, 1)],
    "clamp_max": lambda max: [(max, -1)],
}
"""Functions of single numbers, and where their slopes jump, by how much: for their arguments."""
LARGEST = ("max_pool1d", "max_pool2d", "adaptive_max_pool2d", "max", "amax", "maximum", "min", "amin", "minimum")
"""Functions that choose the largest of several numbers, or the smallest; ``_with_indices`` or not."""


class _Switch(NamedTuple):
    """What chooses: the slope jumps where another of ``held`` (..., n) becomes the largest."""

    held: torch.Tensor
    jump: Any = 1


def has_switches(model: nn.Module, images: torch.Tensor) -> bool:
    """Whether the model has switches that turn over between images such as these.

    Args:
        images: (B, C, H, W), or other records: what guesses are drawn around.

    Example:
        >>> import torch
        >>> from glutils.models.switches import has_switches
        >>> from torch.nn import Flatten, Hardswish, Linear, Sequential, Tanh
        >>> grey = torch.full((1, 1, 4, 4), 0.5)
        >>> [has_switches(Sequential(Flatten(), Linear(16, 8), act), grey) for act in (Hardswish(), Tanh())]
        [False, False]
        >>> has_switches(Sequential(Flatten(), Linear(16, 8), torch.nn.LeakyReLU()), grey)
        True
    """
    return bool(switches_of(model, images))


def switches_of(model: nn.Module, images: torch.Tensor) -> set[str]:
    """Names of the functions by which the model has switches that turn over; see :func:`has_switches`."""
    params = parameters(model)
    like = next(iter(params.values()), images)
    images = images.detach().to(like)
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(GUESSES, *images.shape, generator=draw, dtype=images.dtype).to(images)
    found: set[str] = set()

    def handler(name: str, function: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        for switch in _switches(name, args, named):
            chosen = switch.held.argmax(-1)
            if len(chosen) % GUESSES == 0 and bool((chosen.unflatten(0, (GUESSES, -1)) != chosen[0]).any()):
                found.add(name)
        return function(*args, **named)

    with torch.no_grad(), Calls(handler):
        logits(model, params, (images + SPREAD * noise).flatten(0, 1))
    return found


def with_expected_switching(model: nn.Module, params: Parameters, images: torch.Tensor) -> nn.Module:
    """A copy of ``model`` whose switches have the expected derivative over a spread of images, and their own values.

    Parameters and buffers are shared with ``model``.

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
    spreads: list[torch.Tensor | None] = []

    def note(name: str, function: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        spreads.extend(_spread(switch.held, len(images)) for switch in _switches(name, args, named))
        return function(*args, **named)

    with torch.no_grad(), Calls(note):
        logits(model, params, images.flatten(0, 1))

    def from_afar() -> Handler:
        noted = iter(spreads)

        def handler(name: str, function: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
            switches = [(switch, next(noted, None)) for switch in _switches(name, args, named)]
            result = function(*args, **named)
            for switch, spread in switches:
                if spread is not None:
                    result = _bent(result, switch, spread)
            return result

        return handler

    return within(model, from_afar)


def _spread(held: torch.Tensor, guesses: int) -> torch.Tensor | None:
    """Standard deviation over guesses of the difference between two of ``held`` (guesses B, ..., n), (B, ...).

    None for what does not come once for every image.
    """
    if len(held) % guesses:
        return None
    held = held.unflatten(0, (guesses, -1))
    real = held > torch.finfo(held.dtype).min / 2  # not the rim around an image
    count = real.sum(-1, keepdim=True).clamp_min(1)
    held = held.where(real, 0.0)
    apart = (held - held.sum(-1, keepdim=True) / count).where(real, 0.0)
    return (2 * apart.var(0).sum(-1) / (count[0, ..., 0] - 1).clamp_min(1)).sqrt()


def _switches(name: str, args: tuple[Any, ...], named: dict[str, Any]) -> list[_Switch]:
    """The switches in a call of this name."""
    x, *rest = args or (None,)
    if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.dim() < 2:
        return []
    if name in BENDS:
        bends = [(at, jump) for at, jump in BENDS[name](*rest, **named) if at is not None]
        bends = [(at, jump) for at, jump in bends if isinstance(jump, torch.Tensor) or jump != 0]
        return [_Switch(torch.stack([x - at, torch.zeros_like(x)], -1), _along_channels(jump, x)) for at, jump in bends]
    name = name.removesuffix("_with_indices")
    held = _compared(name, x, *rest, **named) if name in LARGEST else None
    if held is None or held.shape[-1] < 2:
        return []
    return [_Switch(-held, -1) if "min" in name else _Switch(held)]


def _along_channels(jump: Any, x: torch.Tensor) -> Any:
    """A number for every channel, shaped like x."""
    return jump.view(-1, *(1,) * (x.dim() - 2)) if isinstance(jump, torch.Tensor) and jump.numel() > 1 else jump


def _compared(name: str, x: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor | None:
    """What each output of a function in :data:`LARGEST` is chosen from, (..., n); None: from all images at once."""
    if name == "max_pool1d":
        return _windows(x[..., None, :], *args, flat=True, **named)[..., 0, :, :]
    if name == "max_pool2d":
        return _windows(x, *args, **named)
    if name == "adaptive_max_pool2d":
        sides = _pair(args[0] if args else named["output_size"])
        sides = [own if side is None else side for side, own in zip(sides, x.shape[-2:], strict=True)]
        even = all(own % side == 0 for side, own in zip(sides, x.shape[-2:], strict=True))
        return _windows(x, tuple(own // side for side, own in zip(sides, x.shape[-2:], strict=True))) if even else None
    other = args[0] if args else named.get("other", named.get("dim"))
    if isinstance(other, torch.Tensor):
        return torch.stack(torch.broadcast_tensors(x, other), -1)
    dims = {d % x.dim() for d in (other if isinstance(other, (tuple, list)) else [other]) if d is not None}
    if not dims or 0 in dims:
        return None
    kept = [d for d in range(x.dim()) if d not in dims]
    return x.permute(*kept, *sorted(dims)).flatten(len(kept))


def _windows(
    x: torch.Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False, flat: bool = False,
) -> torch.Tensor:  # fmt: skip
    """What each output of a max-pooling layer is the largest of, (..., H', W', n); ``flat``: along rows alone."""
    kernel, dilated = _pair(kernel_size, 1, flat), _pair(dilation, 1, flat)
    steps, pads = _pair(stride or kernel_size, 1, flat), _pair(padding, 0, flat)
    counts = []
    for side, k, d, s, p in zip(x.shape[-2:], kernel, dilated, steps, pads, strict=True):
        free = side + 2 * p - d * (k - 1) - 1
        count = -(-free // s) if ceil_mode else free // s
        counts.append(count if ceil_mode and count * s >= side + p else count + 1)
    # as far as the last window reaches
    ends = [max(0, (c - 1) * s + d * (k - 1) + 1 - side - p) for c, s, d, k, side, p in
            zip(counts, steps, dilated, kernel, x.shape[-2:], pads, strict=True)]  # fmt: skip
    x = nn.functional.pad(x, (pads[1], ends[1], pads[0], ends[0]), value=torch.finfo(x.dtype).min)
    (rows, columns), (sh, sw), (dh, dw) = counts, steps, dilated
    shifted = [
        x[..., i * dh : i * dh + sh * (rows - 1) + 1 : sh, j * dw : j * dw + sw * (columns - 1) + 1 : sw]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    return torch.stack(shifted, -1)


def _pair(value: Any, one: int = 1, flat: bool = False) -> tuple[Any, Any]:
    """Of rows and columns; ``flat``: ``one`` row."""
    if flat:
        return one, value[0] if isinstance(value, (tuple, list)) else value
    return tuple(value) * (2 // len(value)) if isinstance(value, (tuple, list)) else (value, value)


def _bent(result: Any, switch: _Switch, spread: torch.Tensor) -> Any:
    """The result of a call, with the expected change of its slope; of values and places the values."""
    values, *places = result if isinstance(result, tuple) else (result,)
    if spread.shape != switch.held.shape[:-1]:
        spread = spread.mean()
    bend = switch.jump * _Bend.apply(switch.held, LOGISTIC * spread.to(switch.held) + 1e-12)
    values = values + bend.view_as(values)
    return type(result)((values, *places)) if places else values


class _Bend(torch.autograd.Function):
    """Zero, and so is its slope, but not its curvature: that of the largest of (..., n), spread out."""

    generate_vmap_rule = True

    @staticmethod
    def forward(held, width):
        return torch.zeros_like(held[..., 0])

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        held, width = ctx.saved_tensors
        return slope[..., None] * _Tilt.apply(held, width), None

    @staticmethod
    def jvp(ctx, along, _):
        held, width = ctx.saved_tensors
        return (along * _Tilt.apply(held, width)).sum(-1)


class _Tilt(torch.autograd.Function):
    """Zero; with the derivative of a softmax."""

    generate_vmap_rule = True

    @staticmethod
    def forward(held, width):
        return torch.zeros_like(held)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        return _Tilt.jvp(ctx, slope, None), None  # the derivative of a softmax is symmetric

    @staticmethod
    def jvp(ctx, along, _):
        held, width = ctx.saved_tensors
        shares = (held / width[..., None]).softmax(-1)
        return shares * (along - (shares * along).sum(-1, keepdim=True)) / width[..., None]
