"""Exercises of chapters 4 to 6: counting, transcripts, controls."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from scipy import stats

from .. import zo
from .base import Case, exercise, integer, normal, uniform


@exercise(
    "Take the full singular value decomposition: its last D - K right singular vectors are the changes that J "
    "does not see.",
    {
        "torch.linalg.svd(..., full_matrices=False) returns only K directions, all of them seen. You have the "
        "faintest seen change. Ask for the full matrices.":
            lambda J: torch.linalg.svd(J, full_matrices=False).Vh[-1],
        "This is the most visible change, not an invisible one.": lambda J: torch.linalg.svd(J).Vh[0],
        "The change must have length one.": lambda J: torch.zeros(J.shape[1], dtype=J.dtype),
    },
)
def unseen_change(draw: torch.Generator) -> Iterator[Case]:
    """unseen_change(jacobian): a change of the image of length one, (D,), that moves none of the K scalars, from the
    Jacobian, (K, D), with K < D."""
    for _ in range(3):
        D = integer(draw, 3, 12)
        K = integer(draw, 1, D - 1)
        J = normal(draw, K, D)

        def judge(answer: object, _: object, J: torch.Tensor = J) -> str | None:
            if not isinstance(answer, torch.Tensor) or answer.shape != (J.shape[1],):
                got = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
                return f"Expected a tensor of shape ({J.shape[1]},), got {got}."
            length, moved = float(answer.norm()), float((J @ answer.to(J)).norm())
            if not abs(length - 1) < 1e-6:
                return f"Expected a change of length 1, got {length:.4g}."
            return None if moved < 1e-6 * float(J.norm()) else f"The scalars move by {moved:.4g}; they should not."

        yield Case(f"{K} scalars and {D} pixels", (J,), judge=judge)


@exercise(
    "Count the unknowns: pixels, and for unknown labels the probabilities of each image's classes, which add up to "
    "one. A round adds K equations. The last round counts even if it is more than needed.",
    {
        "Rounding down leaves a few unknowns without an equation.": lambda images, shape, classes, per_round, known: (
            images * (math.prod(shape) + (0 if known else classes - 1)) // per_round
        ),
        "Probabilities add up to one: one number fewer a label.": lambda images, shape, classes, per_round, known: (
            -(-images * (math.prod(shape) + (0 if known else classes)) // per_round)
        ),
        "Colour images have three values for each pixel.": lambda images, shape, classes, per_round, known: (
            -(-images * (math.prod(shape[1:]) + (0 if known else classes - 1)) // per_round)
        ),
        "Labels that are not known are unknowns, too.": lambda images, shape, classes, per_round, known: (
            -(-images * math.prod(shape) // per_round)
        ),
        "An unknown label is more than one number.": lambda images, shape, classes, per_round, known: (
            -(-images * (math.prod(shape) + (0 if known else 1)) // per_round)
        ),
    },
)
def rounds_needed(draw: torch.Generator) -> Iterator[Case]:
    """rounds_needed(images, shape, classes, per_round, labels_known): after how many rounds of per_round scalars
    there are at least as many equations as unknowns, for images of shape (channels, height, width); a whole
    number."""
    for known, channels in ((True, 1), (True, 3), (False, 1), (False, 3)):
        side, images, classes, K = integer(draw, 4, 12), integer(draw, 1, 10), integer(draw, 3, 12), integer(draw, 2, 7)
        unknowns = images * (channels * side**2 + (0 if known else classes - 1))
        labels = "known labels" if known else "unknown labels"
        K += unknowns % K == 0  # so that rounding matters
        about = f"{images} images of {channels} x {side} x {side}, {classes} classes, {labels}"
        given = (images, (channels, side, side), classes, K, known)
        yield Case(about, given, sum(1 for sent in range(unknowns) if sent % K == 0))


@exercise(
    "A state of the model tells no more than its scalars, and no more than its gradient holds: the smaller of the two. "
    "Divide the pixel values by it, and round up.",
    {
        "Scalars beyond what the gradient holds repeat each other.": lambda held, shape, K: (
            math.ceil(math.prod(shape) / K)
        ),
        "A gradient is not sent, scalars are. Count no more of them than there are.": lambda held, shape, K: (
            math.ceil(math.prod(shape) / held)
        ),
        "The shape counts channels, too.": lambda held, shape, K: math.ceil(math.prod(shape[1:]) / min(held, K)),
        "Rounding down leaves some pixel values without an equation.": lambda held, shape, K: (
            math.prod(shape) // min(held, K)
        ),
    },
)
def states_needed(draw: torch.Generator) -> Iterator[Case]:
    """states_needed(held, shape, per_state): from how many states of the model a client has to send per_state scalars
    until they can hold a photograph of shape (channels, height, width), if a gradient holds so many independent
    numbers; a whole number."""
    for few, channels in ((True, 3), (False, 3), (True, 1), (False, 1)):
        side, least = integer(draw, 6, 16), integer(draw, 5, 15)
        D = channels * side**2
        less = next(n for n in range(least, D) if D % n)  # so that rounding matters
        more = 2 * less + integer(draw, 0, 9)
        held, K = (more, less) if few else (less, more)
        about = f"{channels} x {side} x {side} pixels, {K} scalars a state, gradients that hold {held} numbers"
        yield Case(about, (held, (channels, side, side), K), sum(1 for told in range(D) if told % less == 0))


@exercise(
    "Average the scalars over the clients, turn them into the unbiased estimate of chapter 2, and step against it.",
    {
        "The scalars of the clients are summed. The server averages them.": lambda theta, scalars, directions, lr: (
            theta - lr * len(theta) / scalars.shape[1] * directions.T @ scalars.sum(0)
        ),
        "Directions have length one, so the estimate needs the factor d.": lambda theta, scalars, directions, lr: (
            theta - lr / scalars.shape[1] * directions.T @ scalars.mean(0)
        ),
        "The sign: the model goes downhill.": lambda theta, scalars, directions, lr: (
            theta + lr * len(theta) / scalars.shape[1] * directions.T @ scalars.mean(0)
        ),
        "The estimate is a mean over the K directions, not a sum.": lambda theta, scalars, directions, lr: (
            theta - lr * len(theta) * directions.T @ scalars.mean(0)
        ),
    },
)
def replay(draw: torch.Generator) -> Iterator[Case]:
    """replay(theta, scalars, directions, lr): the parameters after a round, (d,), from those before, the scalars of all
    clients, (clients, K), and the round's directions of length one, (K, d)."""
    for clients in (1, 3, 5):
        d, K, lr = integer(draw, 3, 12), integer(draw, 2, 6), float(uniform(draw, 1))
        drawn = zo.Directions(integer(draw, 0, 999), K, d)
        theta, scalars = normal(draw, d), normal(draw, clients, K)
        after = zo.replay({"theta": theta}, scalars.mean(0), drawn, lr)["theta"]
        yield Case(f"{clients} client(s) and {K} scalars", (theta, scalars, drawn.rows(dtype=torch.float64), lr), after)


@exercise(
    "Draw an order with torch.randperm and a generator of your own, seeded with the seed.",
    {
        "Noise changes the values. A permutation keeps every value and takes only its place: all else stays "
        "equal.":
            lambda scalars, seed: scalars + torch.randn(len(scalars), dtype=scalars.dtype, generator=_generator(seed)),
        "Sorting is an order, too, but always the same one. Let the seed choose.": lambda scalars, seed: (
            scalars.sort().values
        ),
        "Nothing has moved.": lambda scalars, seed: scalars.clone(),
    },
)
def permute(draw: torch.Generator) -> Iterator[Case]:
    """permute(scalars, seed): the same scalars, (K,), in a random order that the seed decides. Nothing else may
    happen: the global random state stays as it was."""
    for _ in range(3):
        K, seed = integer(draw, 12, 40), integer(draw, 0, 999)
        scalars = normal(draw, K)

        def judge(answer, again, scalars: torch.Tensor = scalars, seed: int = seed) -> str | None:
            if not isinstance(answer, torch.Tensor) or answer.shape != scalars.shape:
                return f"Expected a tensor of shape {tuple(scalars.shape)}."
            if not torch.equal(answer.sort().values, scalars.sort().values):
                return "The answer does not hold the same values."
            if torch.equal(answer, scalars):
                return "Every scalar is still in its place."
            before = torch.get_rng_state()
            same, other = again(scalars, seed), again(scalars, seed + 1)
            moved = not torch.equal(before, torch.get_rng_state())
            torch.set_rng_state(before)
            if moved:
                return "The global random state has changed: whatever is drawn next would depend on this control."
            if not torch.equal(answer, same):
                return "The same seed gave two different orders."
            return "Two different seeds gave the same order." if torch.equal(answer, other) else None

        yield Case(f"{K} scalars", (scalars, seed), judge=judge)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@exercise(
    "Take the differences seed by seed. Their mean is the middle; t times their standard deviation over the "
    "square root of their number is half the width, with t from scipy.stats.t.ppf(0.975, n - 1).",
    {
        "The standard deviation of a sample divides by n - 1.": lambda one, other: _interval(
            one - other, _quantile(len(one)), 0
        ),
        "1.96 is for many seeds. For a few, Student's t is wider.": lambda one, other: _interval(one - other, 1.96, 1),
        "This is the spread of single differences. The spread of their mean is smaller by the square root of "
        "their number.":
            lambda one, other: _interval(one - other, _quantile(len(one)) * len(one) ** 0.5, 1),
        "This ignores that both values of a seed belong together. Take differences first.":
            lambda one, other: _unpaired_interval(one, other),
    },
)
def paired_interval(draw: torch.Generator) -> Iterator[Case]:
    """paired_interval(one, other): mean of one - other over seeds, and the two ends of its 95 % interval; three
    numbers. Both arguments have one PSNR for each seed, (n,)."""
    for _ in range(3):
        n = integer(draw, 3, 8)
        one = 20 + 4 * normal(draw, n)
        other = one - 1 + normal(draw, n)
        apart = stats.ttest_rel(one.numpy(), other.numpy()).confidence_interval(0.95)
        yield Case(f"{n} seeds", (one, other), (float((one - other).mean()), float(apart.low), float(apart.high)))


def _quantile(n: int) -> float:
    """Student's t with n - 1 degrees of freedom, which 97.5 % stay below."""
    return float(stats.t.ppf(0.975, n - 1))


def _interval(values: torch.Tensor, factor: float, correction: int) -> tuple[float, float, float]:
    mean = float(values.mean())
    half = factor * float(values.std(correction=correction)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def _unpaired_interval(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float, float]:
    mean, n = float(one.mean() - other.mean()), len(one)
    half = _quantile(n) * math.sqrt(float(one.var() + other.var()) / n)
    return mean, mean - half, mean + half
