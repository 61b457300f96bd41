"""The last layer's gradient, which rules read, and the last layer's responses to inputs of the attacker's choice."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import _validate, models
from ..data.batch import Batch
from ..observation import Observation, local_steps

DUMMIES = ("flat", "uniform", "normal", "zeros", "ones", "public")
"""Inputs in place of the private images: each one random colour; pixels uniform in [0, 1], or normal with mean 0.5 and
deviation 0.25; black; white; the public images of the observation. Noise has far more contrast between neighbours than
any image, and ReLU turns contrast into larger inputs of the last layer; so flat colours are the default. Records of a
table are drawn from normal laws."""
CHUNK = 256


@dataclass(frozen=True, eq=False)
class Head:
    """The gradient of the loss with respect to the last linear layer, in float64.

    Attributes:
        weight: (C, m) gradient of one step, or the mean gradient (theta_0 - theta_U) / (lr U) of U local steps.
        bias: (C,) likewise, or None where the layer has no (trainable) bias.
        name: the layer's, as in ``model.named_modules()``.
        start: the model's parameters before the first step; ``end``: after the last one, the same for a gradient.
        size: images behind the message. steps: U. epochs: passes over the images.
        notes: what an average over local steps, or the observation, takes for granted.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    name: str
    start: models.Parameters
    end: models.Parameters
    size: int
    steps: int
    epochs: int
    notes: tuple[str, ...]

    @property
    def sums(self) -> torch.Tensor:
        """(C,) sums of the rows of the weight gradient."""
        return self.weight.sum(1)


def read_head(seen: Observation) -> Head:
    """The last layer's gradient in the first message.

    Raises:
        ValueError: the model's last linear layer does not give the classes.
    """
    name, layer = models.last_linear(seen.model, seen.shape)
    if layer.out_features != seen.classes:
        raise ValueError(f"model's last linear layer must give {seen.classes} classes, got {layer.out_features}")
    message = seen.rounds[0]
    start = models.parameters(seen.model) if message.parameters is None else message.parameters
    size = seen.local_batch or seen.shape[0]
    end, scale, steps, epochs, notes = start, 1.0, 1, 1, ()
    if seen.kind == "delta":
        protocol = message.protocol
        end = {key: value - message.payload[key] for key, value in start.items()}
        steps, batches = local_steps(seen), -(-size // protocol.local_batch_size)
        epochs, scale = steps // batches, 1 / (protocol.step_size * steps)
        if steps > 1:
            notes += (f"the mean of {steps} local steps is read as one gradient",)
        if size > protocol.local_batch_size and size % protocol.local_batch_size:
            notes += ("the last mini-batch is smaller: its images weigh more",)
    if len(seen.rounds) > 1:
        notes += (f"reads the first of {len(seen.rounds)} messages",)
    bias = message.payload.get(f"{name}.bias")
    return Head(
        weight=message.payload[f"{name}.weight"].double() * scale,
        bias=None if bias is None else bias.double() * scale,
        name=name,
        start=start,
        end=end,
        size=size,
        steps=steps,
        epochs=epochs,
        notes=notes,
    )


def need_bias(head: Head, rule: str, other: str) -> torch.Tensor:
    """The bias gradient (C,); ``ValueError`` naming a rule that needs none."""
    if head.bias is None:
        raise ValueError(f"label rule {rule!r} needs a bias in the last layer, got none; {other!r} needs none")
    return head.bias


# --- inputs in place of the private ones ------------------------------------------------------------------------------


def dummies(seen: Observation, kind: str, samples: int, seed: int) -> torch.Tensor:
    """Records (samples, ...) of a kind named in :data:`DUMMIES`; all the public ones for ``"public"``.

    Of a table, whose columns have no bounds and no neighbours, ``"flat"``, ``"uniform"`` and ``"normal"`` are all
    normal around the public means.

    Raises:
        ValueError: an unknown kind, or ``"public"`` where the observation holds none.
    """
    _validate.choice("dummies", kind, DUMMIES)
    samples, seed = _validate.integer("samples", samples, at_least=1), _validate.integer("seed", seed, at_least=0)
    like = next(seen.model.parameters())
    if kind == "public":
        return need_public(seen, "dummies='public'").images.to(like)
    shape, generator = (samples, *seen.shape[1:]), torch.Generator().manual_seed(seed)
    if seen.record.bounds is None and kind in ("flat", "uniform", "normal"):
        images = seen.blank[:1].float().cpu() + seen.record.spread * torch.randn(shape, generator=generator)
    elif kind == "flat":
        images = torch.rand(*shape[:2], 1, 1, generator=generator).expand(shape).contiguous()
    elif kind == "uniform":
        images = torch.rand(shape, generator=generator)
    elif kind == "normal":
        images = 0.5 + 0.25 * torch.randn(shape, generator=generator)
    else:
        images = torch.full(shape, float(kind == "ones"))
    return images.to(like)


def need_public(seen: Observation, what: str, other: str = "ilrg") -> Batch:
    """The public batch; ``ValueError`` if the observation holds none, or one of other classes or shape."""
    if seen.public is None:
        raise ValueError(
            f"{what} needs public images: observe(..., knows={{'public'}}, public=...); label rule {other!r} needs none"
        )
    if len(seen.public.classes) != seen.classes or seen.public.shape != tuple(seen.shape[1:]):
        raise ValueError(
            f"public must hold images of shape {tuple(seen.shape[1:])} in {seen.classes} classes, "
            f"got {seen.public.shape} in {len(seen.public.classes)}"
        )
    return seen.public


def responses(
    seen: Observation, head: Head, params: models.Parameters, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (N, m) of the last layer and logits (N, C) of ``images``, in float64.

    Batch norm layers stay in the client's mode and keep their running statistics. Those in training mode see groups of
    about as many images as the client's batch had, because the noise of its statistics is part of what is imitated.
    """
    layer = dict(seen.model.named_modules())[head.name]
    groups = -(-len(images) // CHUNK)
    if seen.batchnorm == "train":
        together = min(head.size, seen.protocol.local_batch_size or head.size)
        groups = max(1, len(images) // max(2, together))
    like = next(iter(params.values())).dtype
    with models.record_inputs(layer) as inputs, torch.no_grad():
        logits = [models.logits(seen.model, params, part.to(like)).double() for part in images.tensor_split(groups)]
    return torch.cat(inputs).double(), torch.cat(logits)


def negative_inputs_note(features: torch.Tensor) -> tuple[str, ...]:
    """The note that some of these last-layer inputs are negative, for rules that assume none; empty if none is."""
    share = float((features < 0).double().mean())
    if not share:
        return ()
    return (f"{share:.0%} of the last layer's inputs are negative on dummy images: row sums may mislead",)
