"""``gl.audit.run``: every attack that applies to a message, with controls, and a verdict that cannot flatter."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import _validate, models
from ..data.batch import Batch
from ..observation import Transcript
from ..protocols import Protocol
from . import held, planted, trials, verdicts
from .checks import ODD
from .plan import Planned
from .plan import planned as every_attack
from .report import Report, Row

MINUTES = 3.0
STAND_INS = 4
"""Batches of stand-in records that are compared in length; up to three of them are planted."""


def run(
    model: nn.Module,
    payload_or_log: Any,
    protocol: Protocol | None = None,
    *,
    shape: Sequence[int],
    classes: int | None = None,
    labels: torch.Tensor | np.ndarray | Sequence[int] | None = None,
    client: int = 0,
    lr: float | int | None = None,
    decay: float | int = 1.0,
    stand_in: Batch | None = None,
    truth: Batch | None = None,
    attacks: Iterable[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    minutes: float | int = MINUTES,
    seed: int = 0,
    progress: bool = False,
) -> Report:
    """Attack a message that a client really sent, with every control beside, and say what can be said of it.

    First the message is checked against the model, the protocol and stand-in records, and refused if it contradicts
    them. Then every attack that applies runs several times with the same settings and time: on the message; on the
    message spoiled; and on up to three planted ones about records that the auditor knows, through the very same model
    and protocol: two at least where a search's share of the minutes is 4 seconds or more, three if there is time. An
    attack leaks if what it found explains the message and nothing else does. One planted message that it recovered is
    enough for that. It found nothing only if it recovered all of them. Everything else is inconclusive. There is no
    private truth in an audit, and none is used.

    Args:
        model: the network before the round, in the state and mode in which the client ran it.
        payload_or_log: the message in any form that :func:`glutils.audit.message` reads; or a whole run: a
            transcript, or what ``gl.transcripts.read`` takes, together with
            ``lr``.
        protocol: how the message was made, defences included. Of a transcript it is left out.
        shape: (B, C, H, W) of the client's records, (B, columns) of a table, (B, L) of tokens.
        classes: number of classes; of tokens it may be left to the model.
        labels: (B,) told to the adversary; None: it has to find them.
        client: which one of a log.
        lr, decay: of a log that is to be read, see ``gl.transcripts.read``.
        stand_in: records of the same kind, at least B, for the positive controls (4 B are best); None: some are made at
            random.
        truth: the client's records, for scoring alone; nothing is chosen by them.
        attacks: names of those to run; None: all closed forms, and a few that search.
        options: an attack's name to its own options, for example ``{"ig": {"iterations": 2000}}``.
        minutes: above 0, shared evenly among attacks that search and their controls; closed forms take what they take.
        seed: of stand-in records, attacks and controls.
        progress: print a line for each attack and control.

    Returns:
        A :class:`~glutils.audit.Report`. Ctrl-C gives the rows so far.

    Raises:
        TypeError, ValueError: bad arguments; a message that contradicts model, protocol or shape, with what is wrong
            and how to mend it; a log that does not lead to its end weights.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", seed=0, device="cpu")
        >>> model, protocol = gl.models.build("mlp", batch, seed=0), gl.protocols.FedSGD()
        >>> sent = dict(protocol.transmit(model, batch.images, batch.labels).tensors)
        >>> report = gl.audit.run(model, sent, protocol, shape=(1, 1, 8, 8), classes=10, attacks=["fc_inversion"])
        >>> report.verdict, report.rows[0].attack, report.rows[0].planted.passed
        ('leaks', 'fc_inversion', True)
    """
    begin = time.monotonic()
    limit = 60 * _validate.number("minutes", minutes, above=0)
    seed = _validate.integer("seed", seed, at_least=0)
    _validate.instance("progress", progress, bool)
    if truth is not None:
        _validate.instance("truth", truth, Batch)
        if tuple(truth.images.shape) != tuple(shape):
            raise ValueError(f"truth must have shape {tuple(shape)}, got {tuple(truth.images.shape)}")
    how = {"shape": shape, "classes": classes, "labels": labels}
    if isinstance(payload_or_log, Transcript) or held.is_log(payload_or_log, protocol):
        seen, found = held.of_log(model, payload_or_log, protocol, client=client, lr=lr, decay=decay, how=how)
    else:
        seen, found = held.of_message(model, payload_or_log, protocol, how=how)
    batches, source = planted.stand_ins(seen, stand_in, STAND_INS, seed)
    told, empty = held.examined(seen, batches)
    checks = [*found, *told]
    plans = every_attack(seen, attacks, options)
    bench = trials.Bench(seen, batches, truth, begin + limit, seed, progress, empty, checks)
    rows, stopped = _rows(bench, plans)
    checks += trials.afterwards(seen, rows)
    odd = [check for check in checks if check.outcome == ODD]
    best = sorted((row for row in rows if row.verdict != verdicts.NOT_RUN), key=lambda row: row.misfit)
    verdict, reason = verdicts.overall([(row.verdict, f"{row.attack}: {row.reason}") for row in best])
    if verdict == verdicts.NOT_FOUND and odd:  # found after the rows were judged
        verdict, reason = verdicts.INCONCLUSIVE, f"a check found something odd: {odd[0].says}"
    about = {
        "model": getattr(seen.model, "name", type(seen.model).__name__),
        "parameters": sum(p.numel() for p in models.parameters(seen.model).values()), "protocol": str(seen.protocol),
        "defences": [str(defense) for defense in seen.protocol.defenses], "messages": len(seen.rounds),
        "numbers sent": sum(m.payload.numel() for m in seen.rounds), "shape": list(seen.shape),
        "classes": seen.classes, "labels told": seen.labels is not None, "stand-in records": source,
        "minutes": float(minutes), "seed": seed, "truth given": truth is not None,
        "notes": list(seen.notes),
    }  # fmt: skip
    seconds = time.monotonic() - begin
    return Report(verdict, reason, tuple(rows), tuple(checks), about, seconds, stopped, seen.vocabulary)


def _rows(bench: trials.Bench, plans: list[Planned]) -> tuple[list[Row], str | None]:
    """The rows of all attacks, and why they are not all there."""
    rows: list[Row] = []
    stopped = None
    for number, plan in enumerate(plans):
        if plan.reason or stopped is not None:
            rows.append(Row(plan.name, plan.title, verdicts.NOT_RUN, plan.reason or "was not reached: interrupted"))
            continue
        left = sum(not other.reason and other.searches for other in plans[number:])
        try:
            row, cut = bench.row(plan, left)
        except KeyboardInterrupt:
            row, cut = Row(plan.name, plan.title, verdicts.NOT_RUN, "was not finished: interrupted"), True
        rows.append(row)
        stopped = f"interrupted at {plan.name}" if cut else None
    return sorted(rows, key=lambda row: row.verdict == verdicts.NOT_RUN), stopped
