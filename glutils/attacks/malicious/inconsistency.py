"""Model inconsistency: a server sends one client the real model and silences all others (Pasquini et al. 2022)."""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import nn

from ... import _validate, models
from ...data.batch import Batch

FAR = 1e4
"""What a silent layer's bias is lowered by, in units of its largest output on public records."""


def silenced(model: nn.Module, public: Batch) -> nn.Module:
    """A copy whose first layer never fires: its gradient is zero for every record.

    The server sends it to all clients but one. In a sum of gradients only that client's first layer remains, whatever
    the number of clients and however the sum is masked (Pasquini, Francati, Ateniese, CCS 2022, section 4: dead ReLUs).

    Args:
        model: with a first layer that has a bias, and units behind it that can be off: ReLU, or ones that saturate.
        public: records of the same kind, which show how far the bias has to go and whether the layer is silent.

    Raises:
        ValueError: a first layer without bias, or one that still has a gradient.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0)
        >>> model = gl.models.build("mlp", batch, activation="relu", seed=0)
        >>> quiet = gl.attacks.malicious.inconsistency.silenced(model, gl.data.public(batch, count=8))
        >>> gradient = gl.protocols.FedSGD().transmit(quiet, batch.images, batch.labels)
        >>> bool(gradient["1.weight"].any()), bool(gradient["3.bias"].any())
        (False, True)
    """
    _validate.instance("public", public, Batch)
    quiet = copy.deepcopy(model)
    name, layer = models.layers_with_parameters(quiet, public.images.shape)[0]
    bias = getattr(layer, "bias", None)
    if bias is None:
        raise ValueError(f"model must have a first layer with a bias, got {layer}")
    with torch.no_grad():
        entering = models.layer_input(quiet, layer, models.parameters(quiet), public.images)
        largest = max(1.0, float(entering.abs().max()))
        bias -= FAR * largest * float(layer.weight.abs().flatten(1).sum(1).max())
    gradient = models.gradient(quiet, None, public.images, public.labels)
    prefix = f"{name}." if name else ""
    if any(bool(g.any()) for key, g in gradient.items() if key.startswith(prefix) and "." not in key[len(prefix) :]):
        raise ValueError(f"model must have units behind its first layer {name!r} that can be off: it has a gradient")
    return quiet


def digest(model: nn.Module) -> bytes:
    """What a client can bind its masks to: a hash of the parameters that it received."""
    found = hashlib.sha256()
    for name, p in models.parameters(model).items():
        found.update(name.encode() + p.detach().cpu().contiguous().numpy().tobytes())
    return found.digest()
