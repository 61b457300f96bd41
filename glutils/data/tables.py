"""Tables that come inside this project's dependencies, and one that is made up.

==============  ==========================================================================================
set             what it is
==============  ==========================================================================================
wine            178 wines from three cultivars, 13 chemical measurements (M. Forina et al., UCI, CC BY 4.0)
breast_cancer   569 tumours, 30 measurements of cell nuclei, benign or malignant (W. H. Wolberg, W. N. Street
                and O. L. Mangasarian, UCI, CC BY 4.0)
diabetes        442 patients, nine numbers and the sex, which is a level (Efron, Hastie, Johnstone and
                Tibshirani 2004). The target is a number, the progression of the disease after one year; here
                its thirds among the public records are three classes
adult_like      2,000 records of people who do not exist, with the kinds of columns of the UCI set "Adult":
                four numbers, five categorical variables, an income class. Every dependence is invented, so
                nothing about real people can be learned from it
==============  ==========================================================================================

The first three come inside scikit-learn. About three fifths of every table are private, the rest is public; which
records is fixed. Numbers are standardised by the mean and deviation of the public records, which everybody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from .columns import Columns, Variable
from .pool import Pool

PRIVATE_SHARE = 0.6
MADE = 2000
"""Records of ``adult_like``."""


class Table(NamedTuple):
    """A whole table as it is stored: a column of numbers, or of level numbers, for every variable."""

    names: tuple[str, ...]
    values: Float64[np.ndarray, "records variables"]
    targets: Int64[np.ndarray, " records"] | Float64[np.ndarray, " records"]
    classes: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]] = {}
    units: Mapping[str, str] = {}


def names() -> dict[str, str]:
    """Every table, with what it is."""
    return {
        "wine": "embedded, needs nothing: a table of 178 wines, 13 numeric columns, 3 classes",
        "breast_cancer": "embedded, needs nothing: a table of 569 tumours, 30 numeric columns, 2 classes",
        "diabetes": "embedded, needs nothing: a table of 442 patients, 9 numeric columns and one variable of 2 levels, "
        "3 classes (thirds of a number)",
        "adult_like": "embedded, needs nothing: a table of 2,000 invented people, 4 numeric columns and 5 variables of "
        "2 to 6 levels, 2 classes",
    }


def pool(name: str, split: str) -> Pool:
    """One split of a table."""
    return _pool(name, split)


@lru_cache(maxsize=8)
def _pool(name: str, split: str) -> Pool:
    table = TABLES[name]()
    order = np.random.RandomState(0).permutation(len(table.values))  # a stream that is frozen
    border = round(PRIVATE_SHARE * len(order))
    mine, theirs = np.sort(order[:border]), np.sort(order[border:])
    columns = described(table, theirs)
    targets = table.targets
    if not np.issubdtype(targets.dtype, np.integer):  # a number: its quantiles among the public records are classes
        cuts = np.quantile(targets[theirs], np.arange(1, len(table.classes)) / len(table.classes))
        targets = np.searchsorted(cuts, targets)
    chosen = mine if split == "private" else theirs
    records = encoded(table.values[chosen], columns)
    labels = torch.from_numpy(targets[chosen]).long()
    return Pool(name, split, table.classes, labels, lambda i: records[i], None, columns)


def described(table: Table, public: Sequence[int] | np.ndarray) -> Columns:
    """The columns of a table by the statistics of its public records."""
    variables = []
    for name, values in zip(table.names, table.values[public].T, strict=True):
        if levels := table.levels.get(name):
            counts = np.bincount(values.astype(int), minlength=len(levels))
            variables.append(Variable(name, levels=levels, shares=tuple(map(float, counts / counts.sum()))))
        else:
            mean, deviation = float(values.mean()), float(values.std())
            variables.append(Variable(name, mean, deviation, table.units.get(name, "")))
    return Columns(tuple(variables))


def encoded(values: Float64[np.ndarray, "records variables"], columns: Columns) -> Tensor:
    """Records (N, columns) float32: numbers standardised, levels one-hot."""
    parts = []
    for variable, column in zip(columns.variables, values.T, strict=True):
        if variable.levels:
            parts.append(np.eye(len(variable.levels))[column.astype(int)])
        else:
            parts.append(((column - variable.mean) / variable.deviation)[:, None])
    return torch.from_numpy(np.concatenate(parts, 1)).float()


def _wine() -> Table:
    from sklearn.datasets import load_wine

    found: Any = load_wine()
    return Table(tuple(found.feature_names), found.data, found.target, ("cultivar 0", "cultivar 1", "cultivar 2"))


def _breast_cancer() -> Table:
    from sklearn.datasets import load_breast_cancer

    found: Any = load_breast_cancer()
    return Table(tuple(map(str, found.feature_names)), found.data, found.target, tuple(map(str, found.target_names)))


def _diabetes() -> Table:
    from sklearn.datasets import load_diabetes

    found: Any = load_diabetes(scaled=False)
    named = tuple(found.feature_names)
    values = found.data.astype(float).copy()
    values[:, named.index("sex")] -= 1
    units = {"age": "years", "bmi": "kg/m2"}
    classes = ("progresses least", "progresses more", "progresses most")
    return Table(named, values, found.target.astype(float), classes, {"sex": ("1", "2")}, units)


ADULT_LEVELS = {
    "work": ("private", "self-employed", "government", "none"),
    "family": ("married", "never married", "divorced", "widowed"),
    "occupation": ("office", "craft", "service", "sales", "transport", "professional"),
    "sex": ("female", "male"),
    "region": ("north", "east", "south", "west"),
}


def _adult_like() -> Table:
    """People drawn variable by variable, each from a law that depends on those before it; all numbers are invented."""
    draw = np.random.RandomState(20220101)

    def level(scores: np.ndarray) -> np.ndarray:
        """One level for every row of scores (N, levels), each with a probability proportional to exp(score)."""
        return (scores + draw.gumbel(size=scores.shape)).argmax(1)

    age = np.clip(17 + draw.gamma(2.6, 8.5, MADE), 17, 90).round()
    sex, region = draw.binomial(1, 0.5, MADE), level(np.tile([0.0, 0.2, 0.5, 0.1], (MADE, 1)))
    education = np.clip(10.5 + 2.6 * draw.standard_normal(MADE) - 0.02 * (age - 40), 4, 18).round()
    old, young = (age - 40) / 12, np.maximum(0, 30 - age) / 6
    family = level(np.stack([1.0 - young, young, 0.3 * old - 0.5, old - 3.0], 1))
    skilled = (education - 10.5) / 2.6
    zero = np.zeros(MADE)
    occupation = level(
        np.stack([zero + 0.4, -0.6 * skilled, 0.2 - 0.7 * skilled, zero, -0.5 - 0.5 * skilled, 1.3 * skilled], 1)
    )
    work = level(np.stack([zero + 1.5, 0.3 * old - 0.3, 0.3 * skilled - 0.3, np.abs(old) - 2.5], 1))
    hours = 40 + 6 * draw.standard_normal(MADE) + 5 * (work == 1) - 12 * (work == 3) - 6 * np.maximum(0, old - 1.8)
    hours = np.clip(hours, 1, 90).round()
    score = 0.9 * skilled + 0.5 * old - 0.15 * old**2 + 0.05 * (hours - 40) + 0.9 * (family == 0) - 1.6
    rich = draw.binomial(1, 1 / (1 + np.exp(-score)))
    capital = np.where(draw.uniform(size=MADE) < 0.1 + 0.15 * rich, draw.exponential(4, MADE).round(1), 0.0)
    named = {
        "age": age, "education": education, "hours": hours, "capital gain": capital, "work": work, "family": family,
        "occupation": occupation, "sex": sex, "region": region,
    }  # fmt: skip
    values = np.stack([column.astype(float) for column in named.values()], 1)
    units = {"age": "years", "education": "years", "hours": "a week", "capital gain": "thousands"}
    return Table(tuple(named), values, rich.astype(np.int64), ("up to 50 thousand", "above"), ADULT_LEVELS, units)


TABLES: dict[str, Callable[[], Table]] = {
    "wine": _wine,
    "breast_cancer": _breast_cancer,
    "diabetes": _diabetes,
    "adult_like": _adult_like,
}
