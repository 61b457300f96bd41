"""What secret directions still tell: the step that a client took is itself a direction, and its length a slope."""

from __future__ import annotations

from dataclasses import replace

from . import _check, models
from .observation import Observation
from .zo_protocols import Along, HiddenDirections


def as_slopes(seen: Observation) -> Observation:
    """The messages of clients with hidden directions, read as one scalar each along a known direction.

    A message is v = (d / K) sum of s_i z_i with s_i = z_i . g and nearly orthogonal unit vectors z_i, so v . g = (d /
    K) sum of s_i^2 is nearly ``|v|^2 K / d``: the slope along ``v / |v|`` is ``|v| K / d``. For one direction that is
    exact (``v / |v|`` is the direction itself, up to its sign, which cancels); for K of them off by about sqrt(K / d).
    K is part of the protocol.

    Raises:
        ValueError: messages of another protocol, or of the Gaussian law.
    """
    _check.instance("seen", seen, Observation)
    rounds = []
    for message in seen.rounds:
        protocol = message.protocol
        if not isinstance(protocol, HiddenDirections) or protocol.law != "unit":
            raise ValueError(f"seen must hold messages of HiddenDirections with law='unit', got {protocol}")
        v = models.flatten(message.payload).double()
        length = v.norm()
        if not length > 0:
            raise ValueError(f"round {message.number}: the message is zero and has no direction")
        along = Along(directions=1, scheme="exact", law="gaussian", dtype="float64", rows=(v / length)[None])
        slope = (length * protocol.directions / len(v))[None]
        rounds.append(replace(message, protocol=along, payload=slope))
    return replace(seen, rounds=tuple(rounds))
