"""What a network computes, call by call: noted, or with another function in a function's place.

A layer (``nn.ReLU()``), a function (``F.relu``, ``torch.relu``) and a method (``x.relu()``) are the same call in the
end, and that is where they are met here: so it does not matter how a network was written.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from .functional import unwrapped

Handler = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Takes a call's name, the function, its arguments and its named arguments, and returns what the call shall return."""


class Calls(TorchFunctionMode):
    """Within this context every function of torch that is called by Python code goes through ``handler``.

    Names are without the underscores that mark what works in place: ``relu`` is ``relu_``, too. What the handler calls
    itself does not go through it again.

    Example:
        >>> import torch
        >>> from glutils.models.calls import Calls
        >>> names = []
        >>> def note(name, function, args, named):
        ...     names.append(name)
        ...     return function(*args, **named)
        >>> with Calls(note):
        ...     y = torch.nn.functional.relu(torch.ones(2)).abs_()
        >>> names
        ['ones', 'relu', 'abs']
    """

    def __init__(self, handler: Handler):
        super().__init__()
        self.handler = handler

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = str(getattr(func, "__name__", "")).strip("_")
        return self.handler(name, func, args, kwargs or {})


def within(model: nn.Module, handler: Callable[[], Handler]) -> nn.Module:
    """A copy of ``model``, of the same parameters and buffers, whose every forward pass goes through a new handler."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    model = copy.deepcopy(model, shared)
    inner = unwrapped(model)[0]
    inner.forward = _Within(inner.forward, handler)
    return model


class _Within:
    def __init__(self, forward: Callable[..., Any], handler: Callable[[], Handler]):
        self.forward, self.handler = forward, handler

    def __call__(self, *args: Any, **named: Any) -> Any:
        with Calls(self.handler()):
            return self.forward(*args, **named)
