"""How many independent numbers a gradient can hold, from the structure of the network alone."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn

from ... import _validate, models
from ...observation import Observation
from ..closed_form.chains import modules_in_order

MATRIX_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose gradient is a product of two matrices. Subclasses may compute something else and do not count."""


def gradient_rank_bound(model: nn.Module, shape: tuple[int, ...], batch: int = 1) -> int:
    """Most independent numbers about the images that one gradient can hold: a bound on the rank of its Jacobian.

    Scalars are inner products with the gradient. So however many are taken at one state of the model, they hold no more
    either. Where the bound is below the number of pixel values, a whole family of images shares the private image's
    gradient. Gradients at different states of the model are different maps: their bounds add up.

    Two facts make the bound. *A smooth map into a set with k degrees of freedom has rank k at most.*

    - A layer's gradient is a sum of outer products of m output slopes and n inputs: one for each image, and in a
      convolution for each position. It is an m x n matrix of rank r = min(products, m, n) at most, and those have
      r (m + n - r) degrees of freedom. A bias is one further input, which is always 1; groups are matrices of their
      own. The slopes of the logits sum to zero (softmax minus label), which leaves m - 1 of them. All other parameters,
      and those that are used several times, count one each.

    *A map through k numbers has rank k at most.*

    - In a chain of modules (nested ``nn.Sequential``), with labels known, the gradients behind a cut are functions of
      the numbers that pass the cut. So the layers before a cut, counted as above, and the numbers that pass it are a
      bound: for the cut before the first layer, these are the pixels.

    The smallest of these bounds is returned. The rank at an image may be lower: what passes a cut repeats a little of
    what the layer before it says (m (m + 1) numbers as a rule), and units that are off say nothing. And a singular
    value may be too small to be of use without being zero. :func:`~glutils.attacks.singular_values` measures both.

    The bound is for exact slopes of the mean cross entropy. A scalar that was measured with finite steps of size mu
    also holds traces of higher derivatives, of the order of mu (forward) or mu squared (central): they do not count.

    Args:
        model: the network, in either mode; the values of its weights do not matter.
        shape: (C, H, W) of an image.
        batch: number of images behind the gradient, B.

    Returns:
        The bound, at most B C H W.

    Raises:
        ValueError, TypeError: sizes that are no positive integers, a model with active dropout.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> gl.attacks.gradient_rank_bound(model, (1, 8, 8))
        64
    """
    models.check_deterministic(model)
    _validate.instance("shape", shape, tuple)
    shape = tuple(_validate.integer("shape", side, at_least=1) for side in shape)
    batch = _validate.integer("batch", batch, at_least=1)
    names, passing, products, logits = _traced(model, shape)
    counts, everywhere = _counts(model, {layer: batch * p for layer, p in products.items()}, logits)
    bounds, before = [batch * math.prod(shape)], everywhere
    for name, numbers in zip(names, passing, strict=True):
        before += sum(counts.pop(own) for own in list(counts) if f"{own}.".startswith(f"{name}." if name else ""))
        bounds.append(before + batch * numbers)
    return min(*bounds, before + sum(counts.values()))


def held_by(seen: Observation) -> int | None:
    """Most independent numbers that any scalars of a zeroth-order client hold at the states of its rounds.

    The bounds of different states add up, to the number of pixel values at most. None for any other client: a defence,
    local steps or mini-batches make other maps of the images.
    """
    protocols = [entry.protocol for entry in seen.rounds]
    if seen.local_batch is not None or any(not one.answers_slopes for one in protocols):
        return None
    if any(one.criterion.targets != "classes" for one in protocols):  # the slopes of their outputs need not sum to zero
        return None
    pixels, one = math.prod(seen.shape), gradient_rank_bound(seen.model, seen.shape[1:], seen.shape[0])
    states: list[models.Parameters] = []
    for entry in seen.rounds:
        if one * len(states) >= pixels:
            break
        state = entry.parameters or {}
        if not any(_same(state, other) for other in states):
            states.append(state)
    return min(pixels, one * len(states))


def _same(one: models.Parameters, other: models.Parameters) -> bool:
    return one.keys() == other.keys() and all(torch.equal(p, other[name]) for name, p in one.items())


def _traced(model: nn.Module, shape: tuple[int, ...]) -> tuple[list[str], list[int], dict[str, int], str | None]:
    """One forward pass: the chain's modules and how many numbers an image sends on behind each; the outer products of
    an image in each matrix layer that was called once; and which of these gave the logits, if any did."""
    outputs: dict[str, list[tuple[torch.Tensor, int]]] = {}
    names, passing = [], []
    x = torch.zeros(2, *shape).to(next(model.parameters()))  # two: batch norm in training mode refuses a single value
    with torch.no_grad(), models.stateless(model), _listening(model, outputs):
        for name, module in modules_in_order(model):
            x = models.output_tensor(module(x))
            names.append(name)
            passing.append(x.numel() // 2)
    once = {name: found[0] for name, found in outputs.items() if len(found) == 1}
    layers = dict(model.named_modules())
    products = {name: out.numel() // (2 * layers[name].weight.shape[0]) for name, (out, _) in once.items()}
    ends = [name for name, (out, version) in once.items() if out is x and out._version == version and out.dim() == 2]
    return names, passing, products, ends[0] if ends else None


@contextlib.contextmanager
def _listening(model: nn.Module, outputs: dict[str, list[tuple[torch.Tensor, int]]]) -> Iterator[None]:
    """Within this context, what each matrix layer returns is noted under its name, with a number that shows whether it
    was changed in place later."""

    def note(name: str, out: torch.Tensor) -> None:
        outputs.setdefault(name, []).append((out, out._version))

    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: note(name, out))
        for name, module in model.named_modules()
        if type(module) in MATRIX_LAYERS
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _counts(model: nn.Module, products: dict[str, int], logits: str | None) -> tuple[dict[str, int], int]:
    """Degrees of freedom of the gradient of each module's own parameters by its name, and of those that belong to
    several modules, wherever they are used."""
    uses = Counter(
        id(p) for _, module in model.named_modules(remove_duplicate=False) for p in module._parameters.values()
    )
    counts, shared = {}, {}
    for name, module in model.named_modules():
        own = {key: p for key, p in module._parameters.items() if p is not None and p.requires_grad}
        shared |= {id(p): p.numel() for p in own.values() if uses[id(p)] > 1}
        alone = {key: p for key, p in own.items() if uses[id(p)] == 1}
        counts[name] = sum(p.numel() for p in alone.values())
        if name in products and "weight" in alone:
            counts[name] = _freedom(module, products[name], "bias" in alone, name == logits)
    return counts, sum(shared.values())


def _freedom(layer: nn.Module, products: int, bias: bool, logits: bool) -> int:
    """Degrees of freedom of a sum of so many outer products of output slopes and inputs, for each group of channels."""
    groups = getattr(layer, "groups", 1)
    outputs = layer.weight.shape[0] // groups - logits
    inputs = layer.weight[0].numel() + bias
    rank = min(products, outputs, inputs)
    return groups * rank * (outputs + inputs - rank)


def count_equations(seen: Observation, unknowns: int) -> tuple[list[str], dict[str, float]]:
    """Notes and diagnostics of scalars against unknowns, and of what the gradient behind them can hold at most."""
    scalars = seen.scalars
    notes = []
    if scalars < unknowns:
        notes.append(f"under-determined: {scalars} scalars for {unknowns} unknowns; the prior decides the rest")
    held, pixels = held_by(seen), math.prod(seen.shape)
    if held is not None and held < min(unknowns, pixels):
        notes.append(
            f"under-determined whatever the number of scalars: the gradient of this network, at the states of "
            f"{len(seen.rounds)} {'round' if len(seen.rounds) == 1 else 'rounds'}, holds at most {held} independent "
            f"numbers for {pixels} pixel values; messages at other states would add some"
        )
    return notes, {"scalars": float(scalars), "unknowns": float(unknowns)}
