"""Which of these records were in the client's batch? A decision at a stated rate of false names."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from .. import _validate
from ..data.batch import Batch
from ..observation import Observation
from ..solvers.engine import show_progress
from .candidates import Candidates, candidates_of
from .columns import equations, masses
from .decision import Verdict, decide, joined, rank
from .problem import counted, problem
from .subsets import of_messages

SOLVED = 0.1
"""Share of the risk of a false name that single messages may take."""


@dataclass(frozen=True, eq=False)
class Named:
    """Who was named, and how sure that is.

    Attributes:
        scores: (N,) float64, in nats: how much better the best explanation of the messages with a candidate is than the
            best without it. Above 0 for those in the best explanation, at most 0 for all others. Of mini-batches: the
            log-likelihood ratio of a share in the client's data against none. -inf for candidates whose labels are not
            among those that were told.
        members: (N,) bool: candidates that are named.
        complete: whether the named explain the messages down to the noise, which they would not do if a member were
            missing among the candidates. False also where there are too few scalars to tell.
        counts: (N,) int64: how often each named record is in the batch; 0 for the others.
        labels: (N,) int64: the class in which each candidate explains best; the given ones where they were given.
        misfit: what the best explanation leaves, root mean square in units of that of the messages.
        noise: what noise and rounding leave of the truth, in the same units, as far as the adversary knows.
        bar: the score that a name had to reach.
        seconds: wall-clock time.
        notes: what a reader of the result must know.
    """

    scores: Float64[Tensor, " candidates"]
    members: Bool[Tensor, " candidates"]
    complete: bool
    counts: Int64[Tensor, " candidates"]
    labels: Int64[Tensor, "candidates ..."]
    misfit: float
    noise: float
    bar: float
    seconds: float = 0.0
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def ranking(self) -> Int64[Tensor, " candidates"]:
        """Numbers of all candidates, the best supported first."""
        return self.scores.argsort(descending=True, stable=True)


def identify(
    seen: Observation,
    candidates: Batch | Tensor,
    labels: Tensor | None = None,
    *,
    members: int | tuple[int, int] | None = None,
    noise: float | None = None,
    false_names: float = 0.05,
    seed: int = 0,
    chunk: int | None = None,
    quick: bool = False,
    progress: bool | None = None,
) -> Named:
    """Name the records behind a client's messages among candidates.

    A message is a mean over the batch, so it is the mean of what each record would have sent alone. The adversary
    computes that for every candidate, as the client would have, and looks for the few whose mean is the message: sparse
    regression, which takes about B log(N / B) scalars for B records of N, however large the records are.

    Whom to name is decided by games (:mod:`glutils.membership.games`): the attack is played against batches drawn from
    the candidates, with none, one or all of their members taken off the list. A name must be supported more strongly
    than wrong records are in all but ``false_names`` of these games. This holds as far as the client's records are like
    the candidates; one that is missing may be mistaken for a near copy of it that is not.

    - **One message, or a whole transcript or log**: each message's equations are those of the model as it was then.
    - **Mini-batches**: a message is about a random part of the client's data. What is named are the client's records;
      how the parts were drawn counts as noise (:mod:`glutils.membership.shares`), and a missing one is not noticed. If
      the parts are small, each message is solved by itself (:mod:`glutils.membership.subsets`): 8 of 100 candidates
      from five scalars.
    - **Defences**: what a client is known to do to its messages, the adversary does to every candidate's: clips each
      record's share, multiplies a sum by the public number that it was divided by. A factor that shortened a message is
      estimated with the names.
    - **Gradients, differences** are read along random directions of the adversary's own.

    Time and memory: 8 M N bytes for M scalars and N candidates, and M forward passes over all of them (two of them for
    central differences), ``chunk`` candidates at a time.

    Args:
        seen: what the adversary holds. Labels that it was told restrict the candidates to those classes.
        candidates: N records, with labels; or a tensor of N records.
        labels: (N,) of a tensor of records; None: not known, each is tried in every class, in as many times the memory.
        members: records behind a message, or of the client where it draws mini-batches; None: as the observation says.
            The least and the most of them where that is not known: as many are taken as explain best. So it is done by
            itself for one message of a client that draws each record by chance.
        noise: standard deviation of noise on each number that the protocol does not declare, 0 or more; None: there is
            none.
        false_names: the chance, at most, that anybody is named wrongly, above 0 and below 1.
        seed: of the games.
        chunk: candidates at a time, 1 or more; None: as memory allows.
        quick: of scalars in single precision or better: True: from one gradient of each candidate a message, which
            takes far less time if there are many scalars a message; what the client's differences leave out counts as
            noise. False: as the client computes them.
        progress: True or False; default: a bar in notebooks and terminals.

    Raises:
        TypeError, ValueError: a batch in place of an observation; no candidates, or of another shape or class than the
            client's records; batch norm in training mode, in which a record has no message of its own; messages that
            are no mean over records.

    Warns:
        UserWarning: more members than scalars.

    Ours, not peer-reviewed; non-negative least squares as Lawson and Hanson (1974) solve it.

    Example:
        >>> import glutils as gl
        >>> pool = gl.data.sample("digits", count=100, seed=1, device="cpu")
        >>> model = gl.models.build("mlp", pool, seed=0)
        >>> protocol = gl.protocols.ZerothOrder(directions=32, law="gaussian", seed=7)
        >>> batch = pool[[3, 14]]
        >>> seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
        >>> named = gl.identify(seen, pool, progress=False)
        >>> named.members.nonzero().flatten().tolist(), named.complete
        ([3, 14], True)
    """
    begin = time.perf_counter()
    pool = candidates_of(seen, candidates, labels)
    if _validate.instance("quick", quick, bool) and not (seen.kind == "scalars" and seen.protocol.arithmetic.plain):
        raise ValueError("quick must be False but for scalars in single or double precision: there is nothing to save")
    drawn = seen.local_batch if seen.local_batch is not None and len(seen.rounds) > 1 else None
    least, most = _members(seen, members, drawn)
    extra = 0.0 if noise is None else _validate.number("noise", noise, at_least=0)
    if _validate.number("false_names", false_names, above=0) >= 1:
        raise ValueError(f"false_names must be above 0 and below 1, got {false_names}")
    seed = _validate.integer("seed", seed, at_least=0)
    chunk = None if chunk is None else _validate.integer("chunk", chunk, at_least=1)
    system = equations(seen, pool.images, pool.labels, batch=drawn or most, chunk=chunk, quick=quick, progress=progress)
    task = problem(
        system, masses(seen, pool.labels), pool.allowed, most, drawn, extra, seen.sampling == "poisson"
    )
    if least < most:
        task = counted(task, least, most)
    if len(system.message) < task.count:
        warnings.warn(
            f"{task.count} members are behind {len(system.message)} scalars: fewer equations than unknown names",
            stacklevel=2,
        )
    if task.drawn is None:
        verdict = decide(task, false_names, seed, show_progress(progress))
    else:
        parts = None
        if not task.poisson and len(set(task.dictionary.mass[pool.allowed])) == 1:
            generator = np.random.default_rng(seed)
            parts = of_messages(system, pool.allowed, task.drawn, task.count, SOLVED * false_names, generator)
        verdict = rank(task, (1 - SOLVED) * false_names, seed)
        verdict = verdict if parts is None else joined(verdict, parts, task.count)
    notes = (*seen.notes, *pool.notes, *system.notes, *verdict.notes)
    return _named(pool, verdict, notes, time.perf_counter() - begin)


def _members(seen: Observation, members: int | tuple[int, int] | None, drawn: int | None) -> tuple[int, int]:
    """The least and the most records that are to be named."""
    if isinstance(members, tuple):
        if len(members) != 2:
            raise ValueError(f"members must be a number, or the least and the most, got {members}")
        least = _validate.integer("members", members[0], at_least=1)
        most = _validate.integer("members", members[1], at_least=least)
        if least < most and drawn is not None:
            raise ValueError(f"members must be one number where mini-batches are drawn, got {members}")
        steps = {message.protocol.local_steps(size) for message in seen.rounds for size in (least, most)}
        if seen.kind == "delta" and len(steps) > 1:
            raise ValueError(f"members must be one number where it decides about local steps, got {members}")
        return least, most
    if members is not None:
        count = _validate.integer("members", members, at_least=1)
        return count, count
    if seen.local_batch is None or drawn is not None:
        return seen.shape[0], seen.shape[0]
    count = seen.local_batch  # one message: its own mini-batch is what is to be named
    if seen.sampling != "poisson":
        return count, count
    return 1, min(seen.shape[0], math.ceil(count + 4 * math.sqrt(count)))


def _named(pool: Candidates, verdict: Verdict, notes: tuple[str, ...], seconds: float) -> Named:
    """What is said of columns, said of candidates: the best column of each counts."""
    order = np.lexsort((-verdict.scores, pool.owner))
    best = order[np.searchsorted(pool.owner[order], np.arange(pool.count))]
    counts = np.bincount(pool.owner, weights=verdict.counts, minlength=pool.count).astype(np.int64)
    return Named(
        scores=torch.from_numpy(verdict.scores[best]),
        members=torch.from_numpy(counts > 0),
        complete=verdict.complete,
        counts=torch.from_numpy(counts),
        labels=pool.labels[torch.from_numpy(best).to(pool.labels.device)].cpu(),
        misfit=verdict.misfit,
        noise=verdict.noise,
        bar=verdict.bar,
        seconds=seconds,
        notes=notes,
    )
