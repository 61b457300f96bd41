"""Many directions or clients at once where a network allows it, one after the other where it does not."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.func import vmap

_ONE_BY_ONE: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def vectorised(
    model: nn.Module,
    function: Callable[..., Any],
    in_dims: int | tuple[int | None, ...] = 0,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """``vmap(function, in_dims)``, or a loop that gives the same, for a ``function`` that calls ``model``.

    torch has no rule for some layers (GRU), and none for a forward pass that looks at values (``.item()``, ``if``) or
    writes to a buffer. What a network cannot do is found out by trying, once; from then on it is called one by one.
    An error that is not ``vmap``'s comes up in the loop again.
    """

    def call(*args: Any) -> Any:
        if model not in _ONE_BY_ONE:
            try:
                return vmap(function, in_dims, chunk_size=chunk_size)(*args)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                found = _loop(function, in_dims, args)
                _ONE_BY_ONE.add(model)
                return found
        return _loop(function, in_dims, args)

    return call


def _loop(function: Callable[..., Any], in_dims: int | tuple[int | None, ...], args: tuple[Any, ...]) -> Any:
    dims = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(args)
    leading = next(arg for arg, dim in zip(args, dims, strict=True) if dim is not None)
    count = len(next(iter(leading.values())) if isinstance(leading, Mapping) else leading)
    picked = [[_pick(arg, dim, i) for arg, dim in zip(args, dims, strict=True)] for i in range(count)]
    return _stack([function(*own) for own in picked])


def _pick(arg: Any, dim: int | None, i: int) -> Any:
    if dim is None or arg is None:
        return arg
    return {name: part[i] for name, part in arg.items()} if isinstance(arg, Mapping) else arg[i]


def _stack(results: list[Any]) -> Any:
    first = results[0]
    if isinstance(first, Mapping):
        return {name: torch.stack([result[name] for result in results]) for name in first}
    if isinstance(first, tuple):
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return torch.stack(results)
