"""A budget meter for a client of scalars: after every round, how much has been given away so far.

:func:`glutils.audit.predict` looks ahead from one state of the model. A training has many states, and each round's
scalars see the records through another gradient. The meter adds up what all of them have told. Ours, not peer-reviewed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from .. import _validate
from ..data.batch import Batch
from ..protocols import Protocol
from .predict import Prediction, expected, one_message, prior_of


class Meter:
    """Counts what a client's messages have told about its records, round after round. No attack is run.

    A scalar of round r is a random row with second moment A_r = c G_r' G_r and noise n_r. All scalars sent so far are
    counted as rows of one mixture, with the mean of A_r / n_r^2 as their second moment and noise one; from there on it
    is :func:`predict`'s formula. Where rounds differ much in how loudly they speak, that is slightly more than a
    separate count of each round would find: the meter errs towards a warning.

    Args:
        batch: the client's records, of which every message may take all or some.
        public: records of the same kind, for the prior; as in :func:`predict`.

    Attributes:
        sent: scalars so far. rounds: messages so far.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=1, seed=0)
        >>> model = gl.models.build("mlp", batch, activation="tanh", seed=0)
        >>> meter = gl.audit.Meter(batch)
        >>> for number in range(3):  # before every message of the training
        ...     client = gl.protocols.ZerothOrder(directions=20, mu=1e-3, law="gaussian", seed=number)
        ...     now = meter.add(model, client)
        >>> now.scalars, meter.rounds
        (60, 3)
        >>> int(meter.left(30)) > 0, meter.left_to_name(1000)
        (True, 0)
    """

    def __init__(self, batch: Batch, *, public: Batch | None = None):
        self.batch = _validate.instance("batch", batch, Batch)
        if not batch.images.is_floating_point():
            raise ValueError(f"batch must hold records that can change by a little, got {batch.kind}")
        self._prior = prior_of(batch, public)
        self._gram = torch.zeros(len(self._prior), len(self._prior), dtype=torch.float64, device=batch.images.device)
        self._now: Prediction | None = None
        self.sent = self.rounds = 0
        self._squares = 0.0  # of the noise, over all scalars

    def add(self, model: nn.Module, protocol: Protocol, *, members: Sequence[int] | None = None) -> Prediction:
        """Count one message, and say what all of them together have told.

        Call it before a message is sent, and keep the message if the answer is too much: :meth:`left` and
        ``bound`` are about everything counted, this message with it.

        Args:
            model: in the state and mode in which the client runs it in this round.
            protocol: of scalars, plain or defended by noise alone; its ``directions`` are this message's scalars.
            members: which records the message is about, by their places in the batch; None: all.

        Raises:
            TypeError, ValueError: what :func:`predict` refuses; members that are not places of the batch.
        """
        places = list(range(len(self.batch))) if members is None else list(members)
        known = set(range(len(self.batch)))
        if not places or len(set(places)) < len(places) or not known.issuperset(places):
            raise ValueError(f"members must be different places from 0 to {len(known) - 1}, one or more, got {members}")
        told = one_message(model, protocol, self.batch[places])
        each = self.batch.images[0].numel()
        at = torch.cat([torch.arange(place * each, (place + 1) * each) for place in places]).to(self._gram.device)
        quietest = 1e-12 * float(told.gram.diagonal().sum()) ** 0.5  # no noise at all would be an infinite weight
        self._gram[at[:, None], at] += protocol.directions * told.gram / max(told.noise, quietest) ** 2
        self.sent, self.rounds = self.sent + protocol.directions, self.rounds + 1
        notes = ["labels are taken to be known; every message is counted at its own state of the model", *told.notes]
        self._squares += protocol.directions * told.noise**2
        now = expected(self._gram / self.sent, 1.0, self.sent, self.batch, self._prior, notes)
        self._now = replace(now, noise=(self._squares / self.sent) ** 0.5)  # in the scalars' own units again
        return self._now

    def left(self, psnr: float | int) -> torch.Tensor:
        """How many more scalars like those so far bring each record to ``psnr`` dB, (B,) int64: 0 where it is there
        already, -1 where no number does."""
        least = self._said().scalars_at(psnr)
        return torch.where(least < 0, least, (least - self.sent).clamp_min(0))

    def left_to_name(self, candidates: int) -> int:
        """How many more scalars tell which of so many ``candidates`` the records are; 0 where they tell already."""
        return max(0, self._said().scalars_to_name(candidates) - self.sent)

    def _said(self) -> Prediction:
        if self._now is None:
            raise ValueError("meter has counted no message yet: call add(model, protocol) first")
        return self._now
