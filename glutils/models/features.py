"""What a layer is fed with when images go through the network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from . import functional


@contextlib.contextmanager
def before_layers(layers: Mapping[str, nn.Module], note: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Within this context ``note(name, input)`` is called whenever one of the layers is about to run.

    The input is the layer's first argument, with its graph. No hook is left behind, whatever is raised.
    """

    def hook(name: str) -> Callable[..., None]:
        return lambda module, inputs: note(name, inputs[0])

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def record_inputs(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Within this context every run of ``layer`` appends its input, with its graph, to the list given."""
    inputs: list[torch.Tensor] = []
    with before_layers({"": layer}, lambda _, x: inputs.append(x)):
        yield inputs


def layer_input(
    model: nn.Module, layer: nn.Module, params: functional.Parameters, images: torch.Tensor
) -> torch.Tensor:
    """Input of ``layer``, one of the model's, for images (B, C, H, W): (B, m) for a linear one.

    One pass of the model as a pure function of ``params``, so that none of its flags or running statistics change;
    differentiable in both. Of a layer that runs several times it is the last input. ``ValueError`` where it does not
    run.
    """
    with record_inputs(layer) as inputs:
        functional.logits(model, params, images)
    if not inputs:
        raise ValueError(f"layer must be one that runs when the model does, got {layer}")
    return inputs[-1]
