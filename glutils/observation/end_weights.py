"""Do the messages of a log lead to the weights in which the run ended? And if not, which of them do not, and why?

The weights move by a sum: in every step along the public directions, each as far as the clients' mean scalar says. What
is left between the weights at the end and that sum must be round-off. If it is more, it is looked for along the
directions of each round: a wrong seed or scalar leaves something there and nowhere else, a wrong step size leaves the
same share everywhere, and a round that the log lacks leaves something along none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from .. import models, zo
from .transcript import Transcript

CLEAR = 8.0
"""Standard deviations of a chance agreement beyond which a residual is said to lie along a round's directions."""
ROUNDOFF = 4.0
"""What is left may be so many times as large as the round-off expected."""
BUDGET = 2**31
"""Normals that may be drawn to try another reading of a log."""


@dataclass(frozen=True)
class Step:
    """One local step of a round: whose mean scalars, and with what protocol."""

    turn: int
    protocol: Any
    scalars: torch.Tensor
    rate: float


def check_end(transcript: Transcript, end: models.Parameters) -> None:
    """Refuse a log that does not lead to these weights, to the round-off of its steps.

    Args:
        transcript: all of a run's messages, and the states that follow from them.
        end: parameters after the last round, by name.

    Raises:
        ValueError: naming the rounds that do not fit, as far as the weights show them, and what would fit.
    """
    first, last = transcript.states[0] or {}, transcript.states[-1] or {}
    start, reached = _vector(first, first), _vector(last, first)
    wanted = _vector(end, first)
    left = wanted - reached
    steps = list(_steps(transcript))
    expected = _roundoff(transcript, first, end, len(steps))
    size, largest = float(left.square().mean().sqrt()), float(left.abs().max())
    move = reached - start
    share = float(left @ move) / max(float(move.square().sum()), 1e-300)  # of the way: round-off leaves none of it
    near = largest <= 10 * ROUNDOFF * expected * math.sqrt(math.log(len(left)) + 1)
    if size <= ROUNDOFF * expected and near and not (abs(share) > 0.1 and _agree(left, move)):
        return
    moved = wanted - start
    raise ValueError(
        f"the log does not lead to its end weights: they differ by {size:.2g} (root mean square) from where its "
        f"{transcript.rounds} rounds lead, {expected:.1g} expected from round-off. "
        + _explained(transcript, steps, moved, left, ROUNDOFF * expected * math.sqrt(len(left)))
    )


def _vector(state: models.Parameters, like: models.Parameters) -> torch.Tensor:
    return torch.cat([state[name].detach().double().cpu().reshape(-1) for name in like])


def _roundoff(transcript: Transcript, first: models.Parameters, end: models.Parameters, steps: int) -> float:
    """Of a random walk of roundings: one for each step, and for each perturbation of parameters in place."""
    dtypes = {p.dtype for p in (*first.values(), *end.values())}
    epsilon = max(torch.finfo(dtype).eps for dtype in dtypes)
    largest = max(float(p.detach().double().square().mean().sqrt()) for p in first.values())
    counts = [len(said) * 3 * m.payload.numel() for e in transcript.messages for said in e[:1] for m in said[:1]]
    return epsilon * max(largest, 1e-3) * math.sqrt(steps * (1 + max(counts, default=0)))


def _steps(transcript: Transcript) -> Iterator[Step]:
    """What moved the server, step by step."""
    weights = transcript.weights
    for turn, entry in enumerate(transcript.messages):
        active = [k for k, said in enumerate(entry) if said]
        everybody = sum(weights[k] for k in active)
        for j, message in enumerate(entry[active[0]]):
            said = [weights[k] / everybody * entry[k][j].payload.scalars.double().cpu() for k in active]
            rate = (transcript.lr or 0.0) * transcript.decay**turn
            yield Step(turn, message.protocol, torch.stack(said).sum(0), rate)


@dataclass(frozen=True)
class Share:
    """What the residual has to do with one round: whether it lies along the round's directions beyond chance, how much
    of the round's step is in the end weights (1: all of it), and that step's squared length."""

    odd: bool
    there: float
    length: float


def _explained(
    transcript: Transcript, steps: list[Step], moved: torch.Tensor, left: torch.Tensor, tolerance: float
) -> str:
    """What is wrong with a log, in a sentence or two."""
    total, shares = torch.zeros_like(moved), []
    for turn in range(transcript.rounds):
        own, share = _share(transcript, [step for step in steps if step.turn == turn], left)
        total += own
        shares.append(share)
    factor = float(moved @ total) / max(float(total.square().sum()), 1e-300)
    rest = float((moved - factor * total).norm())
    if rest <= tolerance * max(1.0, abs(factor)) + 1e-5 * float(moved.norm()):
        other = _other_reading(transcript, steps, moved)  # normalised or not, directions may be parallel
        return _scaled(transcript, factor) + (f", or {other}" if other and " lr=" not in other else "")
    odd, whole = [turn for turn, share in enumerate(shares) if share.odd], float(left.square().sum())
    if odd and _all_there([share for share in shares if not share.odd], left):
        named = ", ".join(f"{turn} ({shares[turn].there:.2f} times its step is there)" for turn in odd[:8])
        more = ", ..." if len(odd) > 8 else ""
        return f"The messages of round {named}{more} do not fit, all others do: another's seed, or other scalars"
    if not _agree(total, moved):
        other = _other_reading(transcript, steps, moved)
        return "No round fits, from round 0 on" + (
            ": law, seeds, or the order of rounds, scalars or parameters is another one" if other is None
            else f"; {other} does"
        )  # fmt: skip
    if not odd:
        worth = math.sqrt(whole / max(sum(share.length for share in shares) / len(shares), 1e-300))
        return (
            f"Each of rounds 0 to {len(shares) - 1} is in the end weights, but something {worth:.1f} times as large as "
            "a round is too, along none of their directions: a round is missing from the log (the weights do not show "
            "which), or the weights at the start or the end are those of another run"
        )
    values = [shares[turn].there for turn in odd]
    return (
        f"{len(odd)} of {len(shares)} rounds do not fit, from round {odd[0]} on: {min(values):.2f} to "
        f"{max(values):.2f} times their steps are there. lr, decay or the clients' weights are others, or some rounds' "
        "scalars"
    )


def _share(transcript: Transcript, steps: list[Step], left: torch.Tensor) -> tuple[torch.Tensor, Share]:
    """The step of a round, and what the residual has to do with it."""
    own, along, count = torch.zeros_like(left), 0.0, 0
    for step in steps:
        directions = step.protocol.draw(transcript.model)
        own += _move(transcript, step, directions)
        for start, stop in directions.blocks():
            rows = directions.rows(start, stop, torch.float64).cpu()
            along += float(((rows @ left).square() / rows.square().sum(1)).sum())
        count += directions.count
    chance, spread = count / len(left), math.sqrt(2 * count) / len(left)
    odd = along > (chance + CLEAR * spread) * float(left.square().sum())
    length = float(own.square().sum())
    return own, Share(odd, 1 + float(left @ own) / max(length, 1e-300), length)


def _all_there(shares: list[Share], left: torch.Tensor) -> bool:
    """Whether the steps of these rounds, taken together, are in the end weights, as far as chance lets one see."""
    length = sum(share.length for share in shares)
    if not length:
        return False
    found = sum(share.there * share.length for share in shares) / length
    return abs(found - 1) < max(0.05, 4 * float(left.norm()) / math.sqrt(length * len(left)))


def _move(transcript: Transcript, step: Step, directions: zo.Directions) -> torch.Tensor:
    """How a step moves the weights, (d,), float64, on the CPU."""
    scalars = step.scalars.to(directions.device)
    return -step.rate * zo.estimate(scalars, directions, unbiased=transcript.unbiased).double().cpu()


def _agree(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two vectors lie along one another, or against, beyond chance."""
    size = float(one.norm() * other.norm())
    found = abs(float(one @ other)) / size if size else 0.0
    return found > 0.3 and found * math.sqrt(len(one)) > CLEAR


def _scaled(transcript: Transcript, factor: float) -> str:
    lr = transcript.lr or 0.0
    if abs(factor + 1) < 1e-3:
        return f"With the opposite sign of all scalars they do, from round 0 on: lr=-{lr:g} fits, or scalars times -1"
    sign = ", with the opposite sign of all scalars" if factor < 0 else ""
    return f"lr={float(f'{abs(factor) * lr:.4g}'):g} fits instead of lr={lr:g}{sign}, from round 0 on"


def _other_reading(transcript: Transcript, steps: list[Step], moved: torch.Tensor) -> str | None:
    """Another way to read the log that agrees with the end weights beyond chance; None if none was found."""
    seeds, local = [step.protocol.public_seed for step in steps], sum(step.turn == 0 for step in steps)
    readings: dict[str, Callable[[int, Step], Step | None]] = {
        f"law={name!r}": partial(_with_law, name) for name in zo.LAWS
    }
    readings["the opposite order of each message's scalars"] = lambda _, s: replace(s, scalars=s.scalars.flip(0))
    for unit, by in {"step": 1, "round": local}.items():
        readings[f"with the seeds of the {unit} after, it"] = partial(_reseeded, seeds, by)
        readings[f"with the seeds of the {unit} before, it"] = partial(_reseeded, seeds, -by)
    for words, reading in readings.items():
        found, drawn = torch.zeros_like(moved), 0
        for number, step in enumerate(steps):
            other = reading(number, step)
            if other is not None and drawn < BUDGET:
                directions = other.protocol.draw(transcript.model)
                found += _move(transcript, other, directions)
                drawn += directions.count * directions.dim
        if _agree(found, moved):
            factor = float(found @ moved / found.square().sum())
            lr = float(f"{factor * (transcript.lr or 0.0):.3g}")
            return words + (f" with lr={lr:g}" if abs(factor - 1) > 0.05 else "")
    return None


def _with_law(name: str, _: int, step: Step) -> Step | None:
    """The step with directions of another law; None if it is the same, or the protocol has none to change."""
    plain = step.protocol.undefended
    try:
        other = replace(plain, law=name)
    except TypeError:
        return None
    return None if other == plain else replace(step, protocol=other)


def _reseeded(seeds: list[int], by: int, number: int, step: Step) -> Step | None:
    at = number + by
    return replace(step, protocol=step.protocol.with_seed(seeds[at])) if 0 <= at < len(seeds) else None
