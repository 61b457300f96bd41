"""What a message cannot be: an honest gradient of cross entropy says a little about its own sign and size.

The gradient of the last layer's bias is the mean of p - y over the batch: softmax less one-hot label. So it sums to
zero; a class that no image has shows a positive entry, and with n of B images in a class the entry lies between -n / B
and 1 - n / B. A difference of parameters given as end less start, or a sum given for a mean, seldom passes for that.
Weights of several local steps change the shares of the images, and nothing else.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from .. import models
from ..protocols import Protocol
from .transcript import Round

UNSEEN = "whether the message has the sign and size that {kind} asks for cannot be seen: {reason}"
"""The note on a message of others that could be read with either sign."""
ROOM = 1e-4
"""By which an entry may lie beyond a bound, and an image's share beyond a whole number."""
ASKED = {"gradient": "a gradient of the mean loss", "delta": "a difference, start less end,"}


def contradiction(
    name: str, model: nn.Module, message: Round, images: int, classes: int, labels: torch.Tensor | None = None
) -> str | None:
    """A note if the message could be read with either sign; None if it can be read as it stands alone.

    Messages of defended clients, and scalars, are not judged: nothing is returned for them.

    Args:
        name: what errors call the message.
        model: the global model; its last linear layer is looked at.
        message: a message whose payload has the model's names and shapes.
        images: behind the message.
        classes: number of classes.
        labels: (B,) of these images, if they are known.

    Raises:
        ValueError: no batch of so many images gives this message, at this sign and step size.
    """
    protocol, kind = message.protocol, message.payload.kind
    if kind == "delta" and not protocol.defenses and _is_a_state(model, message):
        raise ValueError(f"{name} holds the client's parameters; it must be a difference, start less end")
    if kind == "scalars" or protocol.defenses:
        return None
    note = UNSEEN.format(kind=ASKED[kind], reason="{}")
    if not (protocol.exact_gradient or protocol.stackable):
        return note.format("steps of this kind do not tell how long the gradients were") if kind == "delta" else None
    if not protocol.criterion.plain:
        return note.format(f"with the loss {protocol.criterion} a gradient of either sign is possible")
    try:
        head, layer = models.last_linear(model)
    except ValueError as error:
        return note.format(error)
    key = f"{head}.bias" if head else "bias"
    if key not in message.payload or layer.out_features != classes:
        return note.format("the last layer has no trainable bias with one entry for each class")
    found = _mean_bias(model, message, key, images)
    if found is None:
        return note.format("weight decay over several local steps hides the gradient")
    bias, slack, steps = found
    if abs(float(bias.sum())) > slack * classes + 64 * _epsilon(message, model) * max(1.0, float(bias.abs().sum())):
        return note.format("the last layer's bias does not sum to zero, as that of a softmax does")
    share = 1 / images if steps == 1 else 0.0
    as_sent = _why_not(bias, slack, images, share, labels)
    if as_sent is None:
        turned = _why_not(-bias, slack, images, share, labels)
        return note.format(f"{images} images of {classes} classes could give either") if turned is None else None
    if _why_not(-bias, slack, images, share, labels) is None:
        asked = "start less end (theta_0 - theta_U)" if kind == "delta" else "the gradient itself, not a descent step"
        raise ValueError(f"{name} has the wrong sign, it must be {asked}: in {key!r} {as_sent}, and -1 times it fits")
    told = ", or labels that are not the client's" if labels is not None else ""
    told += "; probabilities of classes as labels are stated by loss=CrossEntropy(mixed=True)"
    size = "its lr or number of local steps is not the client's" if kind == "delta" else "it is no mean over the images"
    raise ValueError(f"{name} contradicts {protocol}: in {key!r} {as_sent}; {size}{told}")


def _mean_bias(model: nn.Module, message: Round, key: str, images: int) -> tuple[torch.Tensor, float, int] | None:
    """The mean gradient of the head's bias in float64, the round-off in it, and the local steps behind it.

    None where a parameter difference holds more than gradients.
    """
    bias, start = message.payload[key].detach().double().cpu(), models.parameters(model) | (message.parameters or {})
    if message.payload.kind == "gradient":
        return bias, 1e-3 * _epsilon(message, model) * float(bias.abs().max()), 1
    protocol: Protocol = message.protocol
    steps = protocol.local_steps(images)
    start = {key: start[key].detach().double().cpu()}
    nothing = protocol.average_gradient(start, {key: torch.zeros_like(bias)}, steps)[key]
    if steps > 1 and bool(nothing.any()):
        return None
    error = 2 * math.sqrt(steps) * _epsilon(message, model) * float(start[key].abs().max())
    slack = protocol.average_gradient(start, {key: torch.full_like(bias, error)}, steps)[key] - nothing
    return protocol.average_gradient(start, {key: bias}, steps)[key], float(slack.abs().max()), steps


def _why_not(
    bias: torch.Tensor, slack: float, images: int, share: float, labels: torch.Tensor | None
) -> str | None:
    """Why no batch gives this mean of p - y; None if one may. ``share``: of an image in the mean, 0 if not known."""
    below = bias < -slack
    if labels is not None:
        counts = torch.bincount(labels.cpu(), minlength=len(bias))
        if bool((below & (counts == 0)).any()):
            at = int((below & (counts == 0)).nonzero()[0, 0])
            return f"class {at}, which no image has, shows a negative entry"
        if share and len(labels) == images:
            least = -counts * share
            if bool((bias < least - slack - ROOM).any()) or bool((bias > 1 + least + slack + ROOM).any()):
                return "an entry lies outside what these labels allow"
    if int(below.sum()) > images:
        return f"{int(below.sum())} of {len(bias)} entries are negative, for {images} images"
    lost = float(bias.clamp(max=0).sum())
    if lost < -1 - len(bias) * slack - ROOM or float(bias.max()) > 1 + slack + ROOM:
        return f"negative entries sum to {lost:.3g} and the largest is {float(bias.max()):.3g}, beyond -1 and 1"
    if share:
        needed = torch.maximum(((-bias - slack - ROOM) / share).ceil(), below.to(bias))
        if float(needed.sum()) > images:
            return f"its negative entries ask for {int(needed.sum())} images, not {images}"
    return None


def _is_a_state(model: nn.Module, message: Round) -> bool:
    """Whether a difference is hardly any different from the parameters that it should have been taken from."""
    start = models.parameters(model) | (message.parameters or {})
    pairs = [(message.payload[name].detach().double(), p.detach().double()) for name, p in start.items()]
    away, size = (sum(float((a - b).square().sum()) for a, b in pairs), sum(float(b.square().sum()) for _, b in pairs))
    return away < ROOM * size


def _epsilon(message: Round, model: nn.Module) -> float:
    """The coarser machine epsilon of payload and model."""
    dtypes = {message.payload.dtype, *(p.dtype for p in models.parameters(model).values())}
    return max(torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point)

