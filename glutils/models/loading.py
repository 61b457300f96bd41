"""Weights of others, from the files and in the forms that they come in; nothing in a file is ever executed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import _validate
from . import functional
from .probe import last_linear

PREFIXES = ("module.", "_module.", "_orig_mod.")
"""What wrappers put before every name: ``DataParallel``, opacus, ``torch.compile``."""
CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
"""Entries of a checkpoint that hold the weights, among others that hold an optimiser or a number of epochs."""
HEADS = ("fit", "keep")
_SHOWN = 3

Weights = dict[str, Tensor] | list[Tensor]


def load(path: str | os.PathLike[str] | Mapping | Sequence, model: nn.Module, *, head: str = "fit") -> nn.Module:
    """The model with these weights in place of its own; the same object.

    Args:
        path: a ``.safetensors``, ``.npz`` or PyTorch file (read as tensors alone: a pickled module is refused, because
            to read it is to run it), or what such a file holds: a mapping of names to arrays, or arrays in the order of
            ``model.parameters()`` or of ``model.state_dict()``. Prefixes of wrappers are taken off, and containers such
            as ``{"state_dict": ...}`` opened. Half precision becomes the precision of the model.
        model: every parameter and buffer has to be there in its shape (a count of batches may be missing).
        head: ``"fit"``: the last layer has to fit like all others; ``"keep"``: the model keeps its own.

    Raises:
        ValueError: a file that is missing, damaged or no file of weights; names or shapes that do not fit; numbers that
            are not finite. One sentence, and nothing was loaded.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", seed=0)
        >>> one, other = (gl.models.build("mlp", batch, seed=seed) for seed in (0, 1))
        >>> wrapped = {f"module.{name}": tensor.half() for name, tensor in other.state_dict().items()}
        >>> bool((gl.models.load({"state_dict": wrapped}, one)[1].weight == other[1].weight.half()).all())
        True
    """
    return fit(path, model, head=head)


def fit(
    path: str | os.PathLike[str] | Mapping | Sequence, model: nn.Module, *, head: str = "fit", argument: str = "path"
) -> nn.Module:
    """:func:`load` for a caller whose ``argument`` the path is: errors name that one."""
    inner, _ = functional.unwrapped(_validate.instance("model", model, nn.Module))
    _validate.choice("head", head, HEADS)
    what = f"{argument} {str(path)!r}" if isinstance(path, (str, os.PathLike)) else f"what {argument} holds"
    found = read(path, argument=argument)
    wanted = inner.state_dict()
    if isinstance(found, list):
        found = _in_order(what, found, inner)
    found = _stripped(found, wanted)
    kept = _head_names(inner) if head == "keep" else set()
    missing = [n for n in wanted if n not in found and n not in kept and not n.endswith("num_batches_tracked")]
    strange = [n for n in found if n not in wanted and n not in kept]
    if missing or strange:
        told = [f"it has no {_names(missing)}"] * bool(missing)
        told += [f"nothing in the model is called {_names(strange)}"] * bool(strange)
        raise ValueError(f"{what} does not fit the model: {'; '.join(told)}")
    apart = [n for n in found if n not in kept and found[n].shape != wanted[n].shape]
    if apart:
        shapes = f"{apart[0]} has shape {tuple(found[apart[0]].shape)}, the model's {tuple(wanted[apart[0]].shape)}"
        hint = "; head='keep' leaves the model its own head" if set(apart) <= _head_names(inner) else ""
        raise ValueError(f"{what} does not fit the model: {shapes}{hint}")
    for name, tensor in found.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{what} must hold finite numbers, but {name} does not")
    with torch.no_grad():
        for name, tensor in found.items():
            if name not in kept:
                wanted[name].copy_(tensor)
    return model


def read(path: str | os.PathLike[str] | Mapping | Sequence, *, argument: str = "path") -> Weights:
    """The named tensors, or those in order, that a file or an object holds; see :func:`load` and :func:`fit`."""
    if not isinstance(path, (str, os.PathLike)):
        return _opened(f"what {argument} holds", path)
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{argument} must name an existing file of weights, got {str(path)!r}")
    try:
        held = _held(file)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{argument} {str(path)!r} holds more than tensors, or is damaged; what is pickled there is not executed: "
            "save model.state_dict(), or use safetensors"
        ) from error
    except Exception as error:  # each format, and each way of breaking it, has an error class of its own
        raise ValueError(f"{argument} {str(path)!r} holds no weights that can be read: {_line(error)}") from error
    return _opened(f"{argument} {str(path)!r}", held)


def _held(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    if file.suffix == ".npz":
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:  # closed if it is cut off
            names = arrays.files
            in_order = all(name == f"arr_{i}" for i, name in enumerate(names))
            return [arrays[name] for name in names] if in_order else {name: arrays[name] for name in names}
    return torch.load(file, weights_only=True, map_location="cpu")


def _opened(what: str, held: Any) -> Weights:
    """Tensors by name or in order, out of whatever they are packed in."""
    for _ in range(len(CONTAINERS)):
        inside = next((held[key] for key in CONTAINERS if key in held), None) if isinstance(held, Mapping) else None
        if not isinstance(inside, (Mapping, list, tuple)):
            break
        held = inside
    if isinstance(held, Mapping) and held and all(isinstance(name, str) for name in held):
        return {name: _tensor(f"{name} in {what}", value) for name, value in held.items()}
    if isinstance(held, Sequence) and not isinstance(held, (str, bytes)) and held:
        return [_tensor(f"entry {i} of {what}", value) for i, value in enumerate(held)]
    raise ValueError(f"{what} must hold named arrays, or arrays in order, got {type(held).__name__}")


def _tensor(what: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.array(value))
    raise ValueError(f"{what} must be an array of numbers, got {type(value).__name__}")


def _in_order(what: str, found: list[Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Names for arrays that came without: those of all parameters, or of all that a state dict holds."""
    parameters, state = [name for name, _ in model.named_parameters()], model.state_dict()
    for names in (list(state), parameters):
        if len(names) == len(found):
            rest = {name: tensor for name, tensor in state.items() if name not in names}
            return rest | dict(zip(names, found, strict=True))
    raise ValueError(
        f"{what} must hold {len(parameters)} arrays, one for each parameter, or {len(state)} with the buffers; "
        f"got {len(found)}"
    )


def _stripped(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    while True:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in found)), None)
        if prefix is None or all(name in wanted for name in found):
            return dict(found)
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def _head_names(model: nn.Module) -> set[str]:
    try:
        name, _ = last_linear(model)
    except ValueError:
        return set()
    return {f"{name}.weight".removeprefix("."), f"{name}.bias".removeprefix(".")}


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _line(error: Exception) -> str:
    """The first sentence of a message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
