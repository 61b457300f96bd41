"""A network as a pure function of parameters and images: what everything that compares messages is built on.

Importing this module has one effect on the whole process: cuDNN no longer convolves in TF32.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call

from .. import _validate
from . import losses

# Float32 means float32 on a GPU too. By default cuDNN convolves in TF32, with a mantissa of 10 bits instead of 23: its
# round-off is thousands of times larger, and would drown the differences of losses that a client sends.
torch.backends.cudnn.allow_tf32 = False

Parameters = dict[str, Tensor]
Images = Float[Tensor, "batch *image"] | Int64[Tensor, "batch length"]
"""Images (B, C, H, W), or other records of which the first axis counts; tokens (B, L) are int64."""
Labels = Int64[Tensor, " batch"] | Int64[Tensor, "batch length"] | Float[Tensor, "batch ..."]
"""Class indices, next tokens, or numbers: probabilities of the classes, say. See :mod:`glutils.models.losses`."""
_TRACKING = "track_running_stats"
_NO_CODE = compile("", "", "exec")


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
    """Within this context a forward pass is a pure function (and may be transformed by ``torch.func``): no buffer is
    the same tensor afterwards that was written to, whatever layer owns it.

    Batch norm in training mode is told not to track, instance norm has no statistics to write to (it reads none in that
    mode), and every other layer works on copies of its buffers."""
    tracking = [m for m in model.modules() if getattr(m, _TRACKING, False) and m.training]
    kept: list[tuple[dict[str, Tensor | None], dict[str, Tensor | None]]] = []
    try:
        for module in model.modules():
            if module._buffers and not isinstance(module, nn.modules.batchnorm._BatchNorm):
                kept.append((module._buffers, dict(module._buffers)))
                unread = isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.training
                for name, buffer in kept[-1][1].items():
                    module._buffers[name] = None if unread or buffer is None else buffer.clone()
        for module in tracking:
            setattr(module, _TRACKING, False)
        yield
    finally:
        for module in tracking:
            setattr(module, _TRACKING, True)
        for buffers, before in kept:
            buffers.update(before)


@contextlib.contextmanager
def differentiable_attention() -> Iterator[None]:
    """Within this context attention is plain matrix products, whose gradient can be differentiated again.

    The fused kernels, and the short cut of ``nn.MultiheadAttention`` for evaluation, have no second derivative and no
    rule for ``vmap``. Client and attacker are both computed so: what they compare differs by nothing but what it holds.
    """
    cuda, mha = torch.backends.cuda, torch.backends.mha
    switches = (
        (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
        (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
        (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
        (mha.get_fastpath_enabled, mha.set_fastpath_enabled),
    )
    before, math = [read() for read, _ in switches], cuda.math_sdp_enabled()
    try:
        cuda.enable_math_sdp(True)
        for _, write in switches:
            write(False)
        yield
    finally:
        cuda.enable_math_sdp(math)
        for (_, write), value in zip(switches, before, strict=True):
            write(value)


def unwrapped(model: nn.Module) -> tuple[nn.Module, str]:
    """The network inside ``DataParallel`` and ``torch.compile``, and what these put before its parameters' names.

    Attacks differentiate twice, which compiled code cannot, and replace parameters, which those wrappers do not allow.
    """
    prefix = ""
    while True:
        if "_orig_mod" in model._modules:
            own = "_orig_mod"
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            own = "module"
        else:
            return model, prefix
        model, prefix = model.get_submodule(own), f"{prefix}{own}."


def output_tensor(output: Any) -> Tensor:
    """The logits in what a network returned: the tensor itself, or the one called ``logits`` of a mapping or object."""
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return found
    if isinstance(output, (tuple, list)):
        held = ", ".join(str(tuple(o.shape)) if isinstance(o, Tensor) else type(o).__name__ for o in output)
        kind = f"a {type(output).__name__} of {held}"
    else:
        kind = f"a {type(output).__name__}"
    raise ValueError(f"model must return one tensor (B, classes), or an object with one tensor 'logits'; got {kind}")


def logits(model: nn.Module, params: Parameters, images: Images) -> Tensor:
    """Outputs (B, classes) of ``model`` with its parameters replaced by ``params``.

    Buffers and frozen parameters follow the images' dtype; of tokens, that of ``params``. A network that returns an
    object hands over its ``logits``; one in ``DataParallel`` or ``torch.compile`` is called without that wrapper."""
    model, prefix = unwrapped(model)
    if prefix:
        params = {name.removeprefix(prefix): p for name, p in params.items()}
    dtype = images.dtype if images.is_floating_point() else next((p.dtype for p in params.values()), None)
    with stateless(model), differentiable_attention():
        state = {name: _cast(buffer, dtype) for name, buffer in model.named_buffers()}
        state |= _untied(model, params, dtype)
        # not tied by torch, which would leave the replacement behind in a module that stands at two places
        return output_tensor(functional_call(model, state, (images,), tie_weights=False))


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _untied(model: nn.Module, params: Parameters, dtype: torch.dtype | None) -> Parameters:
    """A tensor for every parameter of every module, each module once: that in ``params``, or else its own, detached."""
    own = {name: (params[name] if name in params else _cast(p.detach(), dtype), id(p))
           for name, p in model.named_parameters()}  # fmt: skip
    known = {number: tensor for tensor, number in own.values()}
    return {
        f"{prefix}.{name}" if prefix else name: known[id(p)]
        for prefix, module in model.named_modules()
        for name, p in module._parameters.items()
        if p is not None
    }


def loss(
    model: nn.Module,
    params: Parameters,
    images: Images,
    labels: Labels,
    weights: Float[Tensor, " batch"] | None = None,
    *,
    criterion: losses.Loss = losses.DEFAULT,
) -> Float[Tensor, ""]:
    """The loss of the batch, by default cross entropy: its mean over records, or their sum with ``weights`` (B,).

    ``labels`` are what the ``criterion`` takes; of the default one class indices (B,), or probabilities (B, classes).
    """
    outputs = logits(model, params, images)
    return criterion.mean(outputs, labels) if weights is None else criterion.weighted(outputs, labels, weights)


def own_losses(
    model: nn.Module,
    params: Parameters,
    images: Images,
    labels: Labels,
    *,
    criterion: losses.Loss = losses.DEFAULT,
) -> Float[Tensor, " batch"]:
    """Every record's own loss, (B,): what :func:`loss` is of a batch of that record alone.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> gl.models.own_losses(model, gl.models.parameters(model), batch.images, batch.labels).shape
        torch.Size([2])
    """
    return criterion.own(logits(model, params, images), labels)


def gradient(
    model: nn.Module,
    params: Parameters | None,
    images: Images,
    labels: Labels,
    *,
    create_graph: bool = False,
    criterion: losses.Loss = losses.DEFAULT,
) -> Parameters:
    """Gradient of :func:`loss` with respect to ``params``, by name; differentiable in images if ``create_graph``.

    ``params=None`` stands for the model's own, in their own precision: the model is then simply called, which for a
    small network saves a fifth of the time.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> gl.models.gradient(model, None, batch.images, batch.labels)["1.weight"].shape
        torch.Size([64, 64])
    """
    leaves: Parameters
    if params is None:
        leaves = {name: p for name, p in model.named_parameters() if p.requires_grad}
    else:
        leaves = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
    with torch.enable_grad():
        if params is None:
            inner = unwrapped(model)[0]
            with stateless(inner), differentiable_attention():
                value = criterion.mean(output_tensor(inner(images)), labels)
        else:
            value = loss(model, leaves, images, labels, criterion=criterion)
        # a parameter that takes no part has a gradient of zero
        grads = torch.autograd.grad(
            value, list(leaves.values()), create_graph=create_graph, materialize_grads=True
        )
    return dict(zip(leaves, grads, strict=True))


def own_precision(model: nn.Module, dtype: torch.dtype) -> bool:
    """Whether every trainable parameter of the model is of ``dtype`` already."""
    return all(p.dtype == dtype for p in model.parameters() if p.requires_grad)


def batchnorm_mode(model: nn.Module) -> str | None:
    """``"train"`` or ``"eval"`` where the model has batch norm layers, or others that keep statistics and act by their
    mode, else None; ``ValueError`` if they disagree.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> gl.models.batchnorm_mode(gl.models.build("resnet8", batch, seed=0))
        'eval'
    """
    modes = {m.training for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) or _keeps(m)}
    if len(modes) > 1:
        raise ValueError("model has batch norm layers in different modes; call model.train() or model.eval()")
    return {True: "train", False: "eval"}[modes.pop()] if modes else None


def _keeps(module: nn.Module) -> bool:
    """Whether a module owns numbers that are no parameters, and asks in which mode it is."""
    owns = any(b is not None and b.is_floating_point() for b in module._buffers.values())
    return owns and _asks_for_mode(module.__class__)


@functools.cache
def _asks_for_mode(kind: type[nn.Module]) -> bool:
    """Whether a method of the class, or of one that it stands on below ``nn.Module``, reads ``training``."""
    own = [cls for cls in kind.__mro__ if issubclass(cls, nn.Module) and cls is not nn.Module]
    return any("training" in getattr(m, "__code__", _NO_CODE).co_names for cls in own for m in vars(cls).values())


def check_deterministic(model: nn.Module) -> None:
    """Refuse a model whose output depends on chance: an active dropout layer makes every equation of an attack void."""
    _validate.instance("model", model, nn.Module)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise ValueError(f"model has an active dropout layer {name!r} (p={module.p}); call model.eval()")
    batchnorm_mode(model)
