"""Directions in which a low-rank matrix has many zeros: they tell the images of a batch apart behind a ReLU (SPEAR)."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .sparse_descent import descend, independent

CHUNK = 2000
"""Sets of rows that are drawn at once."""
CROWDED = 0.9
"""Below this share of neurons on the right side of a plane, a direction is no image's."""
PATTERNS = 300
"""Different patterns of zeros that are looked at in one chunk, those with most zeros first."""
LAYERS = 3
"""The pool keeps the best independent directions, then the best among the rest, so many times."""
LOOSE = (100, 10, 1)
"""Times what rounding may do: what counts as a zero while a direction is still rough."""
STEPS = 3
"""Of least squares, each with the weights of the one before, to find the plane between silent and other neurons."""


@dataclass(frozen=True)
class Problem:
    """A first layer's gradient as ``rows @ basis``, and what its neurons do to an image.

    Attributes:
        rows: (m, B), of length one, of the m neurons that fired.
        basis: (B, n): what the rows are made of; every image is a combination of it.
        bias: (m,): the bias gradient, in units of the rows' lengths.
        weights, offsets: ``basis @ W.T`` and b: what neuron k computes is linear in the combination.
        zero: (m, 1): below this, an entry of a row is zero; ten times what rounding moves it by.
        fired, lengths: (neurons,), which ones fired; (m,), the rows' lengths before they were one.
    """

    rows: Tensor
    basis: Tensor
    bias: Tensor
    weights: Tensor
    offsets: Tensor
    zero: Tensor
    fired: Tensor
    lengths: Tensor

    def images(self, directions: Tensor) -> Tensor:
        """(B, n): the images that these directions (B, B), one a column, tell apart."""
        return torch.linalg.solve(directions * self.scale(directions), self.basis)

    def explained(self, agreement: float) -> bool:
        """Whether all entries agree but one: what the loss says to a neuron may be zero by accident."""
        return agreement * self.rows.numel() >= self.rows.numel() - 1.5

    def scale(self, directions: Tensor) -> Tensor:
        """(B,): lengths with signs: the bias gradient is what each image adds, times one."""
        return torch.linalg.lstsq(self.rows @ directions, self.bias[:, None]).solution[:, 0]

    def agreement(self, directions: Tensor) -> Tensor:
        """Share of neurons and images at which a zero in the gradient is a neuron that the image leaves silent.

        (T, B, B) to (T,). The paper's lambda, section 4.3: one for the true directions, and what to maximise.
        """
        made = self.rows @ directions
        scale = torch.linalg.lstsq(made, self.bias[:, None].expand(len(made), -1, -1)).solution.mT
        before, bad = torch.linalg.solve_ex(directions * scale, self.weights.expand(len(made), -1, -1))
        share = (((before + self.offsets) > 0) == (made.abs() > self.zero).mT).double().mean((1, 2))
        return share.masked_fill(bad > 0, 0.0)


def problem(weight: Tensor, bias: Tensor, layer_weight: Tensor, layer_bias: Tensor, count: int, mix: Tensor) -> Problem:
    """A gradient of rank ``count``, taken apart; ``mix`` is a random rotation, without which first entries may vanish.

    Raises:
        ValueError: a gradient of another rank.
    """
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    noise = float(values[count]) if len(values) > count else float(torch.finfo(torch.float32).eps * values[0])
    lengths = left[:, :count].norm(dim=1)
    zero = (10 * noise / (values[count - 1] * lengths)).clamp(min=1e-6)
    fired = (zero < 1e-2) & (weight.norm(dim=1) > 1e-6 * weight.norm(dim=1).max())
    if int(fired.sum()) <= count:
        rank = int((values > 1e-6 * values[0]).sum())
        raise ValueError(
            f"attack 'spear' needs a gradient that {count} images and nothing else made: its singular value number "
            f"{count} must stand out from the next, got {float(values[count - 1]):.2g} and {noise:.2g} (rank {rank}); "
            "'ig' takes noise, and images that repeat"
        )
    rows, lengths, zero = left[fired][:, :count] @ mix, lengths[fired], zero[fired, None]
    basis = mix.mT @ (values[:count, None] * right[:count])
    return Problem(
        rows / lengths[:, None], basis, bias[fired] / lengths, basis @ layer_weight[fired].mT, layer_bias[fired],
        zero, fired, lengths,
    )  # fmt: skip


def sharpen(given: Problem, direction: Tensor) -> Tensor | None:
    """The direction that its own zeros determine, all of them together; None if they do not.

    A direction from few rows is rough, so what counts as its zero is narrowed in steps. A neuron that is silent for
    nobody may lie within the widest of them by accident, and turn the direction away: then a narrower start is tried.
    """
    near, best, most = (given.rows @ direction).abs() / given.zero[:, 0], None, 0
    for start in range(len(LOOSE)):
        if int((near < LOOSE[start]).sum()) <= most:  # none of these zeros was lost
            break
        found = _narrowed(given, direction, LOOSE[start:])
        if found is not None and int(silent := zeros(given, found[:, None])) > most:
            best, most = found, int(silent)
    return best


def _narrowed(given: Problem, direction: Tensor, widths: tuple[int, ...]) -> Tensor | None:
    """The direction fitted to the rows within each width in turn; None where they determine none."""
    rows = given.rows
    for loose in widths:
        kept = rows[(rows @ direction).abs() < loose * given.zero[:, 0]]
        if len(kept) < rows.shape[1] - 1:
            return None
        direction = torch.linalg.eigh(kept.mT @ kept)[1][:, 0]
    return direction


def zeros(given: Problem, directions: Tensor) -> Tensor:
    """How many neurons are at zero along each direction, (B, T) to (T,)."""
    return ((given.rows @ directions).abs() < given.zero).sum(0)


def plausible(given: Problem, directions: Tensor) -> Tensor:
    """Share of neurons on the right side of the best plane between those at zero and the others, (B, T) to (T,).

    An image that is a combination of the basis silences the neurons on one side of a plane: one for the direction of an
    image, and less for most others, such as those that are zero where all images together make a neuron fire.
    """
    silent = ((given.rows @ directions).abs() < given.zero).mT
    sides = 1 - 2 * silent.double()
    points = torch.cat([given.weights, given.offsets[None]]).mT
    points = points / points.norm(dim=0)
    ridge = 1e-9 * torch.eye(points.shape[1], dtype=points.dtype)
    weights, made = torch.ones_like(sides), sides
    for _ in range(STEPS):
        square = torch.einsum("tm,mi,mj->tij", weights, points, points)
        plane = torch.linalg.solve(square + ridge, ((weights * sides) @ points)[..., None])[..., 0]
        made = plane @ points.mT
        weights = 1 - 0.95 * (made * sides >= 1).double()  # a neuron far on its own side has no say
    return (made.sign() == sides).double().mean(1)


def propose(given: Problem, known: Tensor, rows: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Directions that leave more neurons at zero than those that were asked for.

    Draws sets of B - 1 rows. If an image leaves all of them silent, the one direction orthogonal to them is the
    image's, and many further neurons are silent too (the paper's section 4.1 and its filter). That is rare where images
    are many, so others come from a descent along some of the ``rows``, away from some ``known`` directions (B, n).
    """
    m, count = given.rows.shape
    drawn = torch.rand(CHUNK, m, generator=generator).topk(count - 1, dim=1).indices
    sets = given.rows[drawn]
    rest, bad = torch.linalg.solve_ex(sets[..., :-1], -sets[..., -1:])
    found = normalize(torch.cat([rest[..., 0], torch.ones_like(rest[:, :1, 0])], 1), dim=1)[bad == 0]
    order = torch.randperm(known.shape[1], generator=generator)
    most = int(torch.randint(min(len(order), count - 2) + 1, (1,), generator=generator))
    found = torch.cat([descend(rows, known[:, order[:most]], generator), found])
    silent = (found @ given.rows.mT).abs() < 10 * given.zero.mT
    order = silent.sum(1).argsort(descending=True, stable=True)
    order = order[silent[order].sum(1) >= count + 1]
    kept, seen = [], set()
    for index in order.tolist():
        pattern = silent[index]
        if (key := pattern.numpy().tobytes()) in seen:
            continue
        seen.add(key)
        if (better := sharpen(given, found[index])) is not None:
            kept.append(better)
        if len(seen) == PATTERNS:
            break
    return kept


def crowd(given: Problem, directions: Tensor, before: Tensor) -> Tensor:
    """(m,) bool: neurons that fire for many images at once, as far as directions tell that are no image's.

    What such neurons are told lies in as many dimensions as there are classes, less one. Where images are more, many
    directions are zero along all of them, with more zeros than an image has; a descent that sees them ends there.
    """
    silent = zeros(given, directions)
    most = int(silent.argmax())
    if int(silent[most]) <= int(before.sum()) or float(plausible(given, directions[:, most, None])) >= CROWDED:
        return before
    return (given.rows @ directions[:, most]).abs() < given.zero[:, 0]


def prune(given: Problem, pool: Tensor) -> tuple[Tensor, int]:
    """The best directions of a pool, sparse and plausible, layer by layer; and how many the first layer has."""
    worth = zeros(given, pool) / len(given.rows) + plausible(given, pool)
    order = worth.argsort(descending=True, stable=True)
    kept, first = [], 0
    for layer in range(LAYERS):
        taken = independent(pool[:, order], len(given.basis))
        kept.append(order[taken])
        first = len(taken) if layer == 0 else first
        left = torch.ones(len(order), dtype=torch.bool)
        left[taken] = False
        order = order[left]
        if not len(order):
            break
    return pool[:, torch.cat(kept)], first


def unmix_pairs(given: Problem, directions: Tensor) -> Tensor:
    """Take the multiple of another direction off each, if that silences more neurons: the commonest of all ratios."""
    narrow = 10 * float(given.zero.median())
    for _ in range(10):
        before = directions
        for i in range(len(directions)):
            made = given.rows @ directions
            active = made.abs() > given.zero
            most = int((~active[:, i]).sum())
            for j in range(len(directions)):
                ratios = (made[:, i] / made[:, j])[active[:, i] & active[:, j]].sort().values
                if j == i or len(ratios) < 3:
                    continue
                width = narrow * (1 + ratios.abs())
                run = torch.searchsorted(ratios, ratios + width) - torch.arange(len(ratios))
                if int(run.max()) < 3:
                    continue
                better = sharpen(given, normalize(directions[:, i] - ratios[run.argmax()] * directions[:, j], dim=0))
                if better is None or int(silent := zeros(given, better[:, None])) <= most:
                    continue
                changed = directions.clone()
                changed[:, i] = better
                if float(torch.linalg.svdvals(changed)[-1]) > 1e-6:
                    directions, most = changed, int(silent)
                    made = given.rows @ directions
                    active = made.abs() > given.zero
        if directions is before:
            return directions
    return directions


def exchange(given: Problem, directions: Tensor, pool: Tensor) -> tuple[Tensor, float]:
    """Swap directions for others of the pool as long as the agreement grows; the paper's greedy search."""
    agreed, grown = float(given.agreement(directions[None])), True
    while grown and not given.explained(agreed):
        grown = False
        for i in range(len(directions)):
            tried = directions.repeat(pool.shape[1], 1, 1)
            tried[:, :, i] = pool.mT
            shares = given.agreement(tried)
            shares[torch.linalg.svdvals(tried)[:, -1] < 1e-6] = 0.0
            if float(shares.max()) > agreed + 1e-9:
                directions, agreed, grown = tried[shares.argmax()], float(shares.max()), True
    return directions, agreed


@dataclass(frozen=True)
class Separation:
    """Directions (B, B), the agreement they reach, how many of them are sparse, how many sets of rows were drawn."""

    directions: Tensor
    agreement: float
    found: int
    drawn: int


def separate(given: Problem, samples: int, generator: torch.Generator, seconds: float | None = None) -> Separation:
    """Draw until the directions explain every zero, or for so many ``samples`` or ``seconds``; the best so far."""
    count, drawn, first, begin = len(given.basis), 0, 0, time.monotonic()
    pool, many = given.basis.new_zeros(count, 0), torch.zeros(len(given.rows), dtype=torch.bool)
    best, before = Separation(torch.eye(count, dtype=pool.dtype), -1.0, 0, 0), pool
    while True:
        some = given.rows if drawn // CHUNK % 4 == 0 or len(many) - int(many.sum()) < 2 * count else given.rows[~many]
        new = propose(given, pool[:, :first], some, generator)
        drawn += CHUNK
        late = drawn >= samples or (seconds is not None and time.monotonic() - begin > seconds)
        if new:
            many = crowd(given, torch.stack(new, 1), many)
            pool, first = prune(given, torch.cat([pool, torch.stack(new, 1)], 1))
        changed, before = not torch.equal(before, pool), pool
        if (first == count and changed) or late:
            if not pool.shape[1]:
                return Separation(best.directions, float(given.agreement(best.directions[None])), 0, drawn)
            start = pool[:, independent(pool, count)]
            start = torch.cat([start, torch.linalg.svd(start)[0][:, start.shape[1] :]], 1)
            found = unmix_pairs(given, start)
            pool, first = prune(given, torch.cat([pool, found], 1))
            found, agreed = exchange(given, found, pool)
            if agreed > best.agreement:
                sparse = int((zeros(given, found) >= count).sum())
                best = Separation(found, agreed, sparse, drawn)
        if late or given.explained(best.agreement):
            return Separation(best.directions, best.agreement, best.found, drawn)
