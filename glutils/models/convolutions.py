"""What a network's convolutions do on images of one size: how much work, and which weights never meet a pixel.

Small images reach the deep layers of a network as one or two pixels. Of a 3 x 3 kernel on a single pixel, eight taps
only ever see padding: their gradient is zero whatever the image. For ResNet-18 and images of 32 x 32 these are 62 % of
all parameters.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from .. import models

LITTLE = 1_000_000
"""Multiply-adds of the largest convolution, below which oneDNN's preparations cost more than they save."""


@dataclass(frozen=True)
class Sizes:
    """One call of a convolution: its inputs' and outputs' height and width, and multiply-adds for the whole batch."""

    name: str
    layer: nn.Conv2d
    entered: tuple[int, int]
    left: tuple[int, int]
    work: int


def sizes(model: nn.Module, shape: tuple[int, ...]) -> list[Sizes]:
    """Every call of a convolution in a forward pass of images (B, C, H, W), in order; the model is left as it was.

    Nothing of a model that cannot be copied: it is not for a matter of speed to refuse it.
    """
    found: list[Sizes] = []
    try:
        twin = copy.deepcopy(model).eval()
    except RuntimeError:  # a layer holds a tensor with a graph
        return found
    layers = {id(other): layer for layer, other in zip(model.modules(), twin.modules(), strict=True)}
    for name, module in twin.named_modules():
        module._forward_pre_hooks.clear()
        module._forward_hooks.clear()
        if isinstance(module, nn.Conv2d):

            def note(module, inputs, output, name=name):
                if id(module) not in layers:  # a layer that is kept elsewhere, too, and shares this hook
                    return
                area, fan = output.shape[2:].numel(), module.weight[0].numel()
                work = shape[0] * module.out_channels * area * fan
                found.append(Sizes(name, layers[id(module)], inputs[0].shape[2:], output.shape[2:], work))

            module.register_forward_hook(note)
    first = next(twin.parameters())
    with torch.no_grad():
        twin(torch.zeros(1, *shape[1:], dtype=first.dtype, device=first.device))
    return found


@contextlib.contextmanager
def direct(wanted: bool) -> Iterator[None]:
    """Within this context, if ``wanted``, convolutions on the CPU are matrix products, without oneDNN.

    oneDNN arranges weights anew for every call. For convolutions below :data:`LITTLE` that, not arithmetic, is most of
    an iteration.
    """
    if not wanted:
        yield
        return
    before = torch.backends.mkldnn.set_flags(False)[0]
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(before)


def little(called: list[Sizes]) -> bool:
    """Whether all convolutions are so small that :func:`direct` is faster."""
    return bool(called) and max(call.work for call in called) <= LITTLE


@dataclass(frozen=True)
class Trimmed:
    """The network without kernel taps that only see padding: same outputs, same gradient in what is left."""

    model: nn.Module
    """Shares all other layers with the original."""
    kept: dict[str, tuple[slice, ...]]
    """Of each smaller parameter, the part that is left."""
    columns: torch.Tensor
    """Which entries of the original's flattened parameters are left, (d',)."""

    def params(self, named: models.Parameters) -> models.Parameters:
        """Parameters of the original, cut to what is left."""
        return {name: p[self.kept[name]] if name in self.kept else p for name, p in named.items()}


def trimmed(model: nn.Module, shape: tuple[int, ...], called: list[Sizes]) -> Trimmed | None:
    """Cut off what only sees padding on images (B, C, H, W), whose :func:`sizes` are ``called``; None: nothing does.

    A kernel is cut to the taps from the first to the last that meet a pixel, and padding as far. Only plain
    convolutions that are called once and own their weights are cut.
    """
    twins, kept = {}, {}
    names, owners = [call.name for call in called], [id(p) for m in model.modules() for p in m._parameters.values()]
    for call in called:
        layer = call.layer
        alone = names.count(call.name) == 1 and owners.count(id(layer.weight)) == 1
        plain = type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        if not (alone and plain and layer.weight.requires_grad):
            continue
        spans = [_span(call, side) for side in (0, 1)]
        if None in spans or spans == [(0, size) for size in layer.kernel_size]:
            continue
        part = (slice(None), slice(None), *(slice(*span) for span in spans))
        twins[id(layer)] = _cut(layer, spans, part)
        kept[f"{call.name}.weight"] = part
    twin = _replaced(model, twins)
    # a network that keeps its layers elsewhere, too, would still call the whole ones: it is left as it is
    if not kept or [call.left for call in sizes(twin, shape)] != [call.left for call in called]:
        return None
    numbers, start = [], 0
    for name, p in models.parameters(model).items():
        own = torch.arange(start, start + p.numel()).view(p.shape)
        numbers.append(own[kept[name]].flatten() if name in kept else own.flatten())
        start += p.numel()
    return Trimmed(twin, kept, torch.cat(numbers))


def _span(call: Sizes, side: int) -> tuple[int, int] | None:
    """First and last tap (exclusive) of a row or column that meet a pixel; None where padding could not follow."""
    layer, entered, left = call.layer, call.entered[side], call.left[side]
    kernel, stride, padding, dilation = (
        value[side] for value in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    )
    first = [tap * dilation - padding for tap in range(kernel)]  # where each tap looks first
    met = [tap for tap in range(kernel) if any(0 <= first[tap] + place * stride < entered for place in range(left))]
    if not met:
        return None
    start, stop = met[0], met[-1] + 1
    less = padding - start * dilation
    if less < 0 or (entered + 2 * less - dilation * (stop - start - 1) - 1) // stride + 1 != left:
        return None
    return start, stop


def _cut(layer: nn.Conv2d, spans: list[tuple[int, int]], part: tuple[slice, ...]) -> nn.Conv2d:
    twin = copy.copy(layer)
    weight = nn.Parameter(layer.weight.detach()[part].contiguous())
    twin._parameters = dict(layer._parameters) | {"weight": weight}
    twin.kernel_size = tuple(stop - start for start, stop in spans)
    twin.padding = tuple(p - start * d for p, (start, _), d in zip(layer.padding, spans, layer.dilation, strict=True))
    return twin


def _replaced(module: nn.Module, twins: dict[int, nn.Module]) -> nn.Module:
    """The module with other convolutions in it; containers are copied, all other layers shared."""
    if id(module) in twins or not module._modules:
        return twins.get(id(module), module)
    other = copy.copy(module)
    other._modules = {name: child and _replaced(child, twins) for name, child in module._modules.items()}
    return other
