"""Is the message what it is said to be? What can be told before any attack, from the message and from stand-in records.

Each check passes, mends what it recognised and says so, finds something odd, or cannot tell. A contradiction is a
``ValueError`` that says what is wrong and how to mend it. Ours; the equations are those of a linear layer and of batch
norm.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from .. import models
from ..observation import Observation, as_gradient, local_steps
from ..protocols import UNKNOWN, Payload

PASSED, MENDED, ODD, HIDDEN = "passed", "mended", "odd", "cannot be seen"
"""What a check may come out as. An odd message is never reported as one in which nothing was found."""
CLOSE = 3e-3
"""Relative deviation from an identity beyond which a message contradicts it; in half precision ten times that."""
SCALES = 30.0
"""A message may be so many times longer or shorter than those of stand-in records before it is odd."""
STILL, MOVING = 2e-3, 2e-2
"""Cosines of weights and their gradients: below the first, batch norm behind them took the batch's own statistics."""


@dataclass(frozen=True)
class Check:
    """One question about a message: its name, how it came out, and what that means."""

    name: str
    outcome: str
    says: str


def head(seen: Observation) -> Check:
    """Whether one record's gradient of the last layer agrees with the last layer's own weights.

    With one record, input h of the last layer z = W h + b and r = softmax(z) - y, the message holds r and r h'. So h is
    there, z follows from the weights, and r from z: sign, size, the state of the last layer and the number of records
    are checked at once.

    Raises:
        ValueError: another sign or size, weights of another round, more than one record, or noise that the protocol
            does not state.
    """
    name = "the last layer's gradient agrees with its own weights"
    reason = _hides_head(seen)
    if reason:
        return Check(name, HIDDEN, reason)
    try:
        key, layer = models.last_linear(seen.model, seen.shape)
    except ValueError as error:
        return Check(name, HIDDEN, str(error))
    gradient = (seen if seen.kind == "gradient" else as_gradient(seen)).payload
    names = [f"{key}.{part}".removeprefix(".") for part in ("weight", "bias")]
    if layer.bias is None or names[1] not in gradient or layer.out_features != seen.classes:
        return Check(name, HIDDEN, "the last layer has no trainable bias with one entry for each class")
    weight, bias = (gradient[n].detach().double().cpu() for n in names)
    values = seen.rounds[0].parameters or models.parameters(seen.model)
    own_weight, own_bias = (values[n].detach().double().cpu() for n in names)
    room = CLOSE * (10 if gradient.dtype.itemsize < 4 else 1)
    size = float(bias.norm())
    if size < 1e-6:
        return Check(name, HIDDEN, "the last layer's gradient is zero to round-off")
    inputs = weight.T @ bias / bias.square().sum()
    apart = float((weight - torch.outer(bias, inputs)).norm()) / max(float(weight.norm()), 1e-300)
    if float(weight.norm()) > 1e-6 and apart > room:
        raise ValueError(
            f"payload cannot be the gradient of one record: in {names[0]!r}, which must have rank one, {apart:.0%} is "
            "left over; more records are behind it than shape says, or noise, clipping by layer, compression or a "
            "shuffled order of arrays that the protocol does not state (gl.defenses.Defended states a defence)"
        )
    chance = (own_weight @ inputs + own_bias).softmax(0)
    residuals = chance[None] - torch.eye(len(chance), dtype=torch.float64)  # one row for each possible label
    scales = residuals @ bias / residuals.square().sum(1).clamp_min(1e-300)
    left = (bias - scales[:, None] * residuals).norm(dim=1) / size
    drift = 4 * _drift(seen) + 8 * torch.finfo(gradient.dtype).eps / float(bias.abs().max())  # of 1 less nearly 1
    if drift > 0.2:
        return Check(name, HIDDEN, "the last layer's gradient is zero to round-off")
    closest = float(left.min())
    if closest > room + drift:
        raise ValueError(
            f"payload does not belong to this model: of the last layer's gradient {closest:.0%} contradicts "
            "its weights; give the weights before the round that the message is from, in the client's precision, and "
            "the loss that the client minimises"
        )
    fitting = [float(one) for one, rest in zip(scales, left, strict=True) if float(rest) <= room + drift]
    if all(any(abs(one - sign) <= room + drift for one in fitting) for sign in (1, -1)):
        return Check(name, HIDDEN, "to the model both classes are as likely, so that either sign fits")
    scale = _scale(fitting)
    if abs(scale - 1) > room + drift:
        raise ValueError(f"payload is {scale:.4g} times what {seen.protocol} sends: {_mend(scale, seen)}")
    return Check(name, PASSED, f"sign, size and weights fit to {max(closest, abs(scale - 1)):.1g}")


def _scale(fitting: list[float]) -> float:
    """How many times too long the message is, from the labels that fit: 1 where a label allows it, else the nearest.

    Of two classes the residuals of both labels lie on one line, so that both fit, each with another scale and sign.
    """
    return min(fitting, key=lambda one: (round(abs(math.log(max(abs(one), 1e-300))), 2), one < 0))


def _hides_head(seen: Observation) -> str:
    """Why the identity of :func:`head` does not hold for an observation; empty if it does."""
    if seen.kind == "scalars" or seen.whole:
        return "the message does not hold the last layer's gradient"
    if seen.protocol.defenses:
        return f"the client's defence changes the message: {', '.join(map(str, seen.protocol.defenses))}"
    if seen.shape[0] != 1:
        return f"{seen.shape[0]} records are mixed in the message"
    if not seen.protocol.criterion.plain or len(models.outputs(seen.model, seen.blank.float())) != 2:
        return f"the loss {seen.protocol.criterion} is not the cross entropy of classes"
    if not seen.protocol.sums_gradients or (seen.kind == "delta" and local_steps(seen) != 1):
        return "several local steps are mixed in the message"
    return ""


def _drift(seen: Observation) -> float:
    """Round-off of a parameter difference, relative to it: the smaller the step, the more of it."""
    if seen.kind != "delta":
        return 0.0
    size = float(torch.stack([p.double().norm() for p in models.parameters(seen.model).values()]).norm())
    return torch.finfo(seen.payload.dtype).eps * size / max(float(seen.payload.flat.double().norm()), 1e-300)


def _mend(scale: float, seen: Observation) -> str:
    if scale < 0:
        return "turn its sign, " + ("weights before less weights after" if seen.kind == "delta" else "the gradient")
    if seen.kind == "delta":
        return f"with lr={scale * (seen.protocol.step_size or 0):.4g} it would fit"
    return f"divide by {scale:.4g}; a sum over records or steps was given for a mean, or it was multiplied by lr"


def rank(seen: Observation) -> Check:
    """Whether the last layer's gradient of B records has no more than rank B; ``ValueError`` if it has."""
    name = "no more records than stated are behind the message"
    if seen.kind != "gradient" or seen.protocol.defenses or seen.whole or not seen.protocol.exact_gradient:
        return Check(name, HIDDEN, "the message is no bare gradient")
    try:
        key, _ = models.last_linear(seen.model, seen.shape)
    except ValueError as error:
        return Check(name, HIDDEN, str(error))
    weight, count = seen.payload[f"{key}.weight".removeprefix(".")].double(), seen.shape[0]
    values = torch.linalg.svdvals(weight)
    if count >= len(values) - 1:
        return Check(name, HIDDEN, f"{count} records fill a matrix of {len(values)} by itself")
    rest = float(values[count:].norm() / values.norm().clamp_min(1e-300))
    if rest > CLOSE:
        raise ValueError(
            f"payload cannot be the gradient of {count} records: the last layer's has rank {count} at most, {rest:.0%} "
            "is left over; give the true number of records as the first side of shape, or state the noise or "
            "compression (gl.defenses.Defended)"
        )
    return Check(name, PASSED, f"rank {count} explains the last layer's gradient to {rest:.1g}")


def size(seen: Observation, planted: list[Payload], *, known: bool = False) -> tuple[Check, bool]:
    """Whether the message is about as long as those of stand-in records; and whether it is shown to hold next to
    nothing: much shorter, while its size is ``known`` to be right."""
    name = "the message is as long as those of stand-in records"
    lengths = torch.stack([p.flat.double().square().mean().sqrt() for p in planted])
    own = torch.stack([m.payload.flat.double().square().mean().sqrt() for m in seen.rounds]).median()
    usual = float(lengths.median())
    if usual <= 0 or not float(own) > 0:
        zero = "the message is zero" if not float(own) > 0 else "stand-in records send zeros"
        return Check(name, ODD, zero), False
    times = float(own) / usual
    if known and times < 1 / SCALES:
        return Check(name, PASSED, f"{times:.2g} times their median, and the last layer confirms it"), True
    if not 1 / SCALES <= times <= SCALES:
        hint = {
            "scalars": "another law of directions (gaussian ones are sqrt(d) times as long as unit ones) or mu",
            "delta": "another lr, or number of local steps",
            "gradient": "a sum for a mean, a multiplication by lr, a trained record, or inputs that the client "
            "normalises before the model",
        }[seen.kind]
        return Check(name, ODD, f"it is {times:.2g} times as long: {hint}"), False
    return Check(name, PASSED, f"{times:.2g} times their median"), False


def mode(seen: Observation, stand_in: Any) -> Check:
    """In which mode batch norm ran, by what weights before it do to their own gradient.

    In train mode the loss does not change with the length of the weights before a batch norm, so that gradient and
    weights are at right angles; in eval mode they are not.

    Raises:
        ValueError: the other mode than the model's.
    """
    name = "batch norm ran in the mode that the model is in"
    if seen.batchnorm is None:
        return Check(name, HIDDEN, "the model has no batch norm")
    if seen.payload.mode not in (None, UNKNOWN):
        return Check(name, PASSED, f"the message says so: {seen.payload.mode}")
    if seen.kind != "gradient" or seen.protocol.defenses:
        return Check(name, HIDDEN, "only a bare gradient shows it")
    angles = {}
    for other in ("train", "eval"):
        model = copy.deepcopy(seen.model)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(other == "train")
        try:
            sent = seen.protocol.transmit(model, stand_in.images, stand_in.labels)
        except (ValueError, RuntimeError) as error:
            return Check(name, HIDDEN, str(error).splitlines()[0])
        angles[other] = _angles(seen.model, sent)
    telling = [n for n in angles["train"] if angles["train"][n] < STILL and angles["eval"][n] > MOVING]
    if len(telling) < 2:
        return Check(name, HIDDEN, "no weights of this model tell the modes apart")
    own = _angles(seen.model, seen.payload)
    middle = float(torch.tensor([own[n] for n in telling]).median())
    found = "train" if middle < STILL else "eval" if middle > MOVING else None
    if found is None:
        return Check(name, ODD, f"weights before batch norm meet their gradient at a cosine of {middle:.2g}: neither")
    if found != seen.batchnorm:
        raise ValueError(
            f"payload was computed with batch norm in {found!r} mode, the model is in {seen.batchnorm!r} mode: call "
            f"model.{found}() before the audit, with the running statistics that the client has"
        )
    return Check(name, PASSED, f"{found}, as {len(telling)} weights show")


def _angles(model: nn.Module, payload: Any) -> dict[str, float]:
    """Of every tensor of weights the absolute cosine with its gradient."""
    found = {}
    for name, weight in models.parameters(model).items():
        if weight.ndim > 1:
            g, w = payload[name].double().flatten(), weight.detach().double().flatten()
            found[name] = abs(float(g @ w)) / max(float(g.norm() * w.norm()), 1e-300)
    return found


def turned(seen: Observation) -> Observation:
    """The observation with the sign of every message turned."""
    return replace(seen, rounds=tuple(replace(m, payload=-m.payload) for m in seen.rounds))
