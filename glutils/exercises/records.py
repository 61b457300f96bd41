"""Exercise of the chapter on records that are not images: which cells of a table came back."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .base import Case, exercise, integer, normal


def _share(found: torch.Tensor, truth: torch.Tensor, numbers: list[int], groups: list[list[int]], near: float) -> float:
    right = [bool(abs(float(found[c] - truth[c])) <= near) for c in numbers]
    right += [int(found[group].argmax()) == int(truth[group].argmax()) for group in groups]
    return sum(right) / len(right)


@exercise(
    "Numbers: one cell each, right if off by at most near. Levels: one cell for each group, right if the largest entry "
    "is at the same place.",
    {
        "Each group is one cell, whatever the number of its columns: a person has one occupation.":
            lambda found, truth, numbers, groups, near: (
                sum(float(abs(found[c] - truth[c]) <= near) for c in numbers)
                + sum(len(g) * float(found[g].argmax() == truth[g].argmax()) for g in groups)
            ) / len(found),
        "An attack does not return exact zeros and ones. Compare where the largest entry of a group is.":
            lambda found, truth, numbers, groups, near: (
                sum(float(abs(found[c] - truth[c]) <= near) for c in numbers)
                + sum(float((found[g] - truth[g]).abs().max() <= near) for g in groups)
            ) / (len(numbers) + len(groups)),
        "The levels are cells, too.": lambda found, truth, numbers, groups, near: (
            sum(float(abs(found[c] - truth[c]) <= near) for c in numbers) / len(numbers)
        ),
        "The numbers are cells, too.": lambda found, truth, numbers, groups, near: (
            sum(float(found[g].argmax() == truth[g].argmax()) for g in groups) / len(groups)
        ),
        "A number may be too small as well as too large: take the absolute difference.":
            lambda found, truth, numbers, groups, near: (
                sum(float(found[c] - truth[c] <= near) for c in numbers)
                + sum(float(found[g].argmax() == truth[g].argmax()) for g in groups)
            ) / (len(numbers) + len(groups)),
    },
)  # fmt: skip
def share_of_cells(draw: torch.Generator) -> Iterator[Case]:
    """share_of_cells(found, truth, numbers, groups, near): the share of a record's cells that are right, a number, from
    the record found and the true one, (columns,), the numbers of the numeric columns, a list for every categorical
    variable of the numbers of its columns, and the largest error of a number that counts as right."""
    for _ in range(4):
        count, levels = integer(draw, 3, 5), [integer(draw, 2, 4) for _ in range(integer(draw, 2, 3))]
        numbers, groups, first = list(range(count)), [], count
        for size in levels:
            groups.append(list(range(first, first + size)))
            first += size
        truth, error = torch.zeros(first, dtype=torch.float64), 0.02 * normal(draw, first)
        truth[:count] = normal(draw, count)
        error[0], error[1] = 0.3, -0.3  # two numbers are off, one each way
        for group in groups:
            truth[group[integer(draw, 0, len(group) - 1)]] = 1.0
        error[groups[0]] += 0.2  # right, and not exact
        swapped = groups[-1]
        truth_at = swapped[int(truth[swapped].argmax())]
        error[truth_at] -= 1.0
        error[swapped[0] if swapped[0] != truth_at else swapped[1]] += 1.0
        found = truth + error
        right = _share(found, truth, numbers, groups, 0.1)
        about = f"{count} numbers and variables of {', '.join(map(str, levels))} levels"
        yield Case(about, (found, truth, numbers, groups, 0.1), right)
