"""A network as a pure function of parameters and images: what everything that compares messages is built on.

Importing this module has one effect on the whole process: cuDNN no longer convolves in TF32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call

from .. import _validate

# Float32 means float32 on a GPU too. By default cuDNN convolves in TF32, with a mantissa of 10 bits instead of 23: its
# round-off is thousands of times larger, and would drown the differences of losses that a client sends.
torch.backends.cudnn.allow_tf32 = False

Parameters = dict[str, Tensor]
Images = Float[Tensor, "batch *image"]
"""Images (B, C, H, W), or other records of which the first axis counts."""
Labels = Int64[Tensor, " batch"] | Float[Tensor, "batch classes"]
"""Class indices, or probabilities of the classes."""
_TRACKING = "track_running_stats"


@runtime_checkable
class HasTensors(Protocol):
    """A mapping to tensors, or a payload."""

    def values(self) -> Iterable[torch.Tensor]:
        """Its tensors, in its order."""
        ...


def parameters(model: nn.Module, dtype: torch.dtype | None = None) -> Parameters:
    """Named trainable parameters, detached; cast to ``dtype`` if given."""
    found = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return found if dtype is None else {name: p.to(dtype) for name, p in found.items()}


def flatten(named: HasTensors) -> Float[Tensor, " d"]:
    """All tensors as one vector of length d, in the order of ``named``."""
    return torch.cat([tensor.reshape(-1) for tensor in named.values()])


def unflatten(vector: Float[Tensor, " d"], like: Mapping[str, Tensor]) -> Parameters:
    """Views of a vector of length d with the names and shapes of ``like``; the inverse of :func:`flatten`."""
    sizes = [tensor.numel() for tensor in like.values()]
    return {name: part.view(t.shape) for (name, t), part in zip(like.items(), vector.split(sizes), strict=True)}


@contextlib.contextmanager
def stateless(model: nn.Module) -> Iterator[None]:
    """Within this context batch norm layers in training mode leave their running statistics alone, so that a forward
    pass is a pure function (and may be transformed by ``torch.func``)."""
    tracking = [m for m in model.modules() if getattr(m, _TRACKING, False) and m.training]
    try:
        for module in tracking:
            setattr(module, _TRACKING, False)
        yield
    finally:
        for module in tracking:
            setattr(module, _TRACKING, True)


def logits(model: nn.Module, params: Parameters, images: Images) -> Float[Tensor, "batch classes"]:
    """Outputs (B, classes) of ``model`` with its parameters replaced by ``params``.

    Buffers and frozen parameters follow the images' dtype."""
    rest = dict(model.named_buffers()) | {n: p.detach() for n, p in model.named_parameters() if n not in params}
    rest = {name: t.to(images.dtype) if t.is_floating_point() else t for name, t in rest.items()}
    with stateless(model):
        return functional_call(model, (params, rest), (images,))


def loss(
    model: nn.Module,
    params: Parameters,
    images: Images,
    labels: Labels,
    weights: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Cross entropy averaged over the batch, or summed with ``weights`` (B,); labels are class indices (B,) or
    probabilities (B, classes)."""
    if weights is None:
        return F.cross_entropy(logits(model, params, images), labels)
    return weights @ F.cross_entropy(logits(model, params, images), labels, reduction="none")


def gradient(
    model: nn.Module,
    params: Parameters | None,
    images: Images,
    labels: Labels,
    *,
    create_graph: bool = False,
) -> Parameters:
    """Gradient of :func:`loss` with respect to ``params``, by name; differentiable in images if ``create_graph``.

    ``params=None`` stands for the model's own, in their own precision: the model is then simply called, which for a
    small network saves a fifth of the time.
    """
    leaves: Parameters
    if params is None:
        leaves = {name: p for name, p in model.named_parameters() if p.requires_grad}
    else:
        leaves = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
    with torch.enable_grad():
        if params is None:
            with stateless(model):
                value = F.cross_entropy(model(images), labels)
        else:
            value = loss(model, leaves, images, labels)
        grads = torch.autograd.grad(value, list(leaves.values()), create_graph=create_graph)
    return dict(zip(leaves, grads, strict=True))


def own_precision(model: nn.Module, dtype: torch.dtype) -> bool:
    """Whether every trainable parameter of the model is of ``dtype`` already."""
    return all(p.dtype == dtype for p in model.parameters() if p.requires_grad)


def last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the last linear layer; ``ValueError`` if there is none, or if it is frozen."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not found or f"{found[-1][0]}.weight" not in parameters(model):
        raise ValueError("model has no trainable linear layer")
    return found[-1]


def batchnorm_mode(model: nn.Module) -> str | None:
    """``"train"`` or ``"eval"`` where the model has batch norm layers, else None; ``ValueError`` if they disagree."""
    modes = {m.training for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    if len(modes) > 1:
        raise ValueError("model has batch norm layers in different modes; call model.train() or model.eval()")
    return {True: "train", False: "eval"}[modes.pop()] if modes else None


def check_deterministic(model: nn.Module) -> None:
    """Refuse a model whose output depends on chance: an active dropout layer makes every equation of an attack void."""
    _validate.instance("model", model, nn.Module)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise ValueError(f"model has an active dropout layer {name!r} (p={module.p}); call model.eval()")
    batchnorm_mode(model)
