"""Training for some rounds, with its progress and its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from .. import _validate, data, models
from ..data.batch import Batch
from ..observation.transcripts import Transcript
from ..protocols import Protocol
from ..solvers.engine import show_progress
from .checkpoint import Checkpoint, fingerprint
from .run import Run
from .settings import run_settings

_PIXELS = 2**21  # of test images in one pass


def train(
    protocol: Protocol | Sequence[Protocol],
    model: nn.Module,
    clients: Sequence[Batch],
    *,
    rounds: int,
    lr: float | None = None,
    decay: float | int = 1.0,
    local_steps: int = 1,
    local_batch: int | None = None,
    sampling: str = "fixed",
    sampled: int | float | None = None,
    unbiased: bool = True,
    test: Batch | None = None,
    record: Iterable[int] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    batched: bool = True,
    seed: int = 0,
    progress: bool | None = None,
) -> Transcript:
    """Train for some rounds and keep the transcript.

    Clients whose messages are recorded run one after the other, with ``protocol.transmit``. Of the others only the mean
    is needed; they run together where that is faster, see :func:`glutils.federation.together.possible`: not under a
    defence, not with batch norm or dropout layers, FedAvg only up to 262,144 parameters. Together or not, results are
    equal up to the order of additions.

    Args:
        protocol: what clients send. The public seed of a ``ZerothOrder`` protocol is the first step's; later steps
            use seeds derived from it. A list holds one for each round, which may differ in their number of directions.
        model: the initial global model; it is not changed.
        clients: their private data.
        rounds: 1 or more.
        lr: step size of the server (and of the clients' own local steps) for gradients and scalars; FedAvg has its own.
        decay: factor of ``lr`` from round to round, above 0, at most 1; FedAvg has its own.
        local_steps: steps that a client takes by itself between two messages to the server, scalar protocols only. In
            step j it moves along its own scalars of step j - 1, as in DeComFL, and goes back before it replays the
            aggregate.
        local_batch: draw this many of a client's images anew in each local step; default: all of them.
        sampling: ``"fixed"``: exactly so many, without replacement; ``"poisson"``: every image by itself, with
            probability local_batch / images, so that as many are expected. Differential privacy is usually analysed
            for the latter; it needs a defence that divides by a public number (``expected=``).
        sampled: clients that take part in a round, drawn at random: their number, or as a float their share, above 0
            and at most 1.0, rounded up; default: all.
        unbiased: scalar updates use the unbiased estimate (the unit law carries its factor d), so that ``lr`` means
            what it means in SGD. False is the reference code's estimate without d.
        test: held-out data for the accuracy; default: public data of the clients' set, if it is an embedded one.
        record: the clients (indices) whose messages the transcript keeps; default: all. With few of them memory stays
            bounded: model states are kept for the rounds in which they took part, beside the first and the last.
        checkpoint: a folder that is written after every round. A run that was killed is continued by the same call, to
            the bit; one that ended is continued by a call with more rounds.
        batched: False runs every client by itself.
        seed: of client sampling and mini-batches; not of the directions, which are public.
        progress: as everywhere.

    Raises:
        TypeError, ValueError: before the first round; among them a checkpoint that is damaged (the message names the
            file) or of another run.

    Example:
        >>> import glutils as gl
        >>> clients = gl.data.partition("digits", clients=2, per_client=4, seed=0)
        >>> model = gl.models.build("mlp", clients[0], hidden=(8,), seed=0)
        >>> transcript = gl.federation.train(gl.protocols.FedSGD(), model, clients, rounds=2, lr=0.1, progress=False)
        >>> transcript.rounds, transcript.accuracy.ndim
        (2, 1)
    """
    how: dict[str, Any] = {
        "rounds": rounds, "lr": lr, "decay": decay, "local_steps": local_steps, "local_batch": local_batch,
        "sampling": sampling,
    }  # fmt: skip
    how |= {"sampled": sampled, "unbiased": unbiased, "record": record, "batched": batched}
    run = Run(**run_settings(protocol, model, clients, **how))
    run.generator.manual_seed(_validate.integer("seed", seed, at_least=0))
    test = data.holdout.default_test(run.clients[0]) if test is None else _validate.instance("test", test, Batch)
    if test.kind != "tokens" and test.shape != run.clients[0].shape:
        ours, theirs = ("x".join(map(str, batch.shape)) for batch in (test, run.clients[0]))
        raise ValueError(f"test must hold records like the clients' ({theirs}), got {ours}")
    shelf = None
    if checkpoint is not None:
        if any(entry.keeps_memory for entry in run.protocols):
            raise ValueError("checkpoint must be None for clients that remember (error feedback): that is not written")
        shelf = Checkpoint(checkpoint, run.about() | {"seed": seed, "test": fingerprint(test)})
        shelf.restore(run)
    todo = range(len(run.accuracy), run.rounds)
    bar: dict[str, Any] = {"total": run.rounds, "initial": todo.start, "desc": "rounds", "leave": False}
    for turn in tqdm(todo, **bar, disable=not show_progress(progress)):
        run.advance(turn)
        state = run.states[-1]
        assert state is not None  # the last one is always kept
        run.accuracy.append(accuracy(run.working, state, test, run.protocols[0].criterion))
        if shelf is not None:
            shelf.keep(run)
    return run.transcript()


@torch.no_grad()
def accuracy(
    model: nn.Module, state: models.Parameters, test: Batch, criterion: models.losses.Loss = models.losses.DEFAULT
) -> float:
    """Share of the test targets of this loss that the model in this state gets right; NaN where none is right or wrong.

    Of cross entropy the targets are the images' classes, or all next tokens.
    """
    size = max(1, _PIXELS // test.images[0].numel())
    first, right, count = next(iter(state.values())), 0, 0
    for images, labels in zip(test.images.split(size), test.labels.split(size), strict=True):
        images = images.to(first) if images.is_floating_point() else images.to(first.device)
        hits = criterion.hits(models.logits(model, state, images), labels.to(first.device))
        if hits is None:
            return float("nan")
        right, count = right + int(hits.sum()), count + hits.numel()
    return right / max(1, count)
