"""A network is tried, not judged by its type: two forward passes before any work, and one that watches the layers."""

from __future__ import annotations

import contextlib
import random
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from . import functional

TRIED = 8
"""Records of a batch that are tried at most; and forward passes, where a network draws random numbers."""


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed. Names are those of ``model.named_modules()``.

    Attributes:
        head: the linear layer that computed the output; None: no linear layer ran.
        layers: the layers with parameters, in the order in which they ran; those that did not run come last.
    """

    head: str | None
    layers: tuple[str, ...]


_TRIED: weakref.WeakKeyDictionary[nn.Module, dict[tuple, tuple[int, ...]]] = weakref.WeakKeyDictionary()
_SHAPES: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], bool]] = weakref.WeakKeyDictionary()
"""Of the records on which a model was last tried, and whether they were whole numbers, for who asks about its layers
and holds no records."""
_TRACED: weakref.WeakKeyDictionary[nn.Module, dict[tuple, Trace]] = weakref.WeakKeyDictionary()


def probe(model: nn.Module, images: Tensor) -> int:
    """Number of classes that ``model`` gives for records (B, ...), found by trying it; nothing of it is changed.

    Of a model that predicts tokens, (B, L, V), it is V. See :func:`outputs`.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0)
        >>> gl.models.probe(gl.models.build("mlp", batch, seed=0), batch.images)
        10
    """
    return outputs(model, images)[-1]


def outputs(model: nn.Module, images: Tensor) -> tuple[int, ...]:
    """Shape of what ``model`` gives for records (B, ...), found by trying it; nothing of it is changed.

    Tried once for a model, the shape and type of the records, its layers' modes and what is trainable. Global random
    state is left as it was.

    Raises:
        TypeError, ValueError: no module, a compiled script, no trainable parameter, an output that depends on chance or
            is not one tensor (B, n) or (B, L, V), records that the model does not take.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0)
        >>> gl.models.outputs(gl.models.build("mlp", batch, seed=0), batch.images)
        (2, 10)
    """
    if not isinstance(model, nn.Module):
        functional.check_deterministic(model)  # which says so
    key = (
        tuple(images.shape), images.dtype, images.device, tuple(m.training for m in model.modules()),
        tuple(p.requires_grad for p in model.parameters()),
    )  # fmt: skip
    found = _TRIED.setdefault(model, {})
    if key not in found:
        found[key] = _tried(model, images)
    _SHAPES[model] = tuple(images.shape[1:]), not images.is_floating_point()
    return len(images), *found[key]


def _tried(model: nn.Module, images: Tensor) -> tuple[int, ...]:
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ValueError("model must be a plain module: parameters of a torch.jit script cannot be replaced")
    functional.check_deterministic(model)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("model must have at least one trainable parameter (requires_grad), got none")
    images = images.detach()[:TRIED]
    params = functional.parameters(model, images.dtype if images.is_floating_point() else None)
    with _own_chance(images.device), torch.no_grad():
        before = torch.get_rng_state()
        first = _output(model, params, images)
        drew = not torch.equal(before, torch.get_rng_state())
        for _ in range(TRIED if drew else 1):  # a rare event may not show up at once
            if not _same(first, functional.logits(model, params, images)):
                raise ValueError(
                    "model must give the same output twice, got two that differ: it depends on chance (dropout or "
                    "noise, say) or on what it was called with before; call model.eval()"
                )
    if first.ndim not in (2, 3) or first.shape[0] != len(images) or 0 in first.shape:
        raise ValueError(
            f"model must give logits of shape (B, classes), or (B, L, V) of tokens, gives {tuple(first.shape)} "
            f"for {len(images)} records"
        )
    return tuple(first.shape[1:])


def _output(model: nn.Module, params: functional.Parameters, images: Tensor) -> Tensor:
    try:
        return functional.logits(model, params, images)
    except (RuntimeError, IndexError, TypeError) as error:
        raise ValueError(f"model does not take records of shape {tuple(images.shape)}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs agree up to what the order of a sum may change."""
    if one.shape != other.shape:
        return False
    room = 64 * torch.finfo(one.dtype).eps * float(one.abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=0, atol=room, equal_nan=True)


@contextlib.contextmanager
def _own_chance(device: torch.device) -> Iterator[None]:
    """Within this context random numbers may be drawn; all global states are restored."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def trace(model: nn.Module, shape: tuple[int, ...] | None = None) -> Trace | None:
    """What a forward pass of records (B, ...) of that ``shape`` shows; by default that of the images that the network
    was built for, or on which it was last tried. None without a shape, or where the pass fails. Remembered as long as
    the layers are the same."""
    tried, whole = _SHAPES.get(model, ((), False))
    record = (tuple(getattr(model, "shape", ())) or tried) if shape is None else tuple(shape[1:])
    if not record:
        return None
    key = (record, whole, tuple(map(id, model.modules())), tuple(m.training for m in model.modules()))
    found = _TRACED.setdefault(model, {})
    if key not in found:
        try:
            found[key] = _traced(model, record, whole)
        except (RuntimeError, ValueError, IndexError, TypeError, StopIteration):
            return None
    return found[key]


def _traced(model: nn.Module, record: tuple[int, ...], whole: bool) -> Trace:
    ran: dict[str, None] = {}
    linear: list[tuple[str, Tensor, int]] = []
    handles = []
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: ran.setdefault(name)))
        if isinstance(module, nn.Linear):
            handles.append(
                module.register_forward_hook(lambda _m, _i, out, name=name: linear.append((name, out, out._version)))
            )
    like = next(p for p in model.parameters() if p.is_floating_point())
    dtype = torch.int64 if whole else like.dtype
    images = torch.zeros(2, *record, dtype=dtype, device=like.device)  # batch norm may refuse a single one
    try:
        with _own_chance(like.device), torch.no_grad():
            output = functional.logits(model, functional.parameters(model), images)
    finally:
        for handle in handles:
            handle.remove()
    owners = [name for name, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
    # the layer whose very numbers, perhaps in another shape, came out; else (a softmax or scale follows) the last one
    # of as many outputs; else the last that ran
    fresh = [name for name, out, version in linear if out._version == version and _holds(out, output)]
    wide = [name for name, out, _ in linear if out.numel() == output.numel()]
    head = next((names[-1] for names in (fresh, wide, [name for name, *_ in linear]) if names), None)
    return Trace(head, (*ran, *(name for name in owners if name not in ran)))


def _holds(out: Tensor, output: Tensor) -> bool:
    return out.numel() == output.numel() and out.data_ptr() == output.data_ptr()


def last_linear(model: nn.Module, shape: tuple[int, ...] | None = None) -> tuple[str, nn.Linear]:
    """Name and module of the linear layer that computes the output; ``ValueError`` if there is none, or it is frozen.

    Found by a forward pass of records of ``shape`` (B, ...), by default of those that the network was built for or last
    tried on; where none is known, it is the last one in the order of registration.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> gl.models.last_linear(model)[0]
        '3'
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    seen = trace(model, shape)
    name = next(reversed(layers), None) if seen is None else seen.head
    if name is None or f"{name}.weight".removeprefix(".") not in functional.parameters(model):
        raise ValueError("model has no trainable linear layer")
    return name, layers[name]


def layers_with_parameters(model: nn.Module, shape: tuple[int, ...] | None = None) -> list[tuple[str, nn.Module]]:
    """Names and modules that own parameters, in the order in which they run; the first is what the pixels meet first.

    See :func:`last_linear` for ``shape``; where it is not known, the order is that of registration.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> [name for name, _ in gl.models.layers_with_parameters(model)]
        ['1', '3']
    """
    seen = trace(model, shape)
    if seen is None:
        return [(name, m) for name, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
    modules = dict(model.named_modules())
    return [(name, modules[name]) for name in seen.layers]
