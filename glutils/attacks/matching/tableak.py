"""TabLeak: records of a table from a gradient (Vero, Balunovic, Dimitrov, Vechev, ICML 2023)."""

from __future__ import annotations

import time
from typing import cast

import torch

from ... import _validate, metrics
from ...data.columns import Columns
from ...observation import Observation
from ...solvers import Found, Tally, adam, lbfgs, search
from ..base import Card, Reconstruction, need_labels, reconstruction, register
from .objective import cosine, matching, normal_start

SHARPEST = 1e-6
"""Level shares of a reported record are at least this much, so that their entropy is finite."""
FITS, ROUND_OFF, EXACT = 10.0, 1e-6, 1e-12
"""A search votes if its loss is at most this many times the lowest, or what round-off leaves of a cosine in float32; of
a message in float32 where the search ends in float64."""


@register(
    "tableak",
    Card(
        title="TabLeak",
        kinds=("gradient", "delta"),
        several=("gradient", "delta"),
        simulates="FedSGD or FedAvg",
        variable="numbers, and logits of levels",
        distance="cosine",
        prior="levels are shares; ensemble",
        solver="signed Adam, L-BFGS, then a vote",
        labels="given",
        source="vero2023tableak",
        records=("tables",),
    ),
)
def tableak(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 1000,
    polish: int = 50,
    ensemble: int = 3,
    lr: float | int = 0.1,
    pooling: bool = True,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Records whose gradient points the observed way, with levels as shares, pooled over several searches.

    A level is one of several: each categorical variable is searched as logits, and a softmax of them enters the network
    (section 4.1). Searches from several starts end in different places, and what they agree about is right more often.
    So their records are matched with those of the search of lowest loss, and pooled: the median of a number, the mean
    of a level's share (section 4.2). A search that fits ten times worse than the best has no vote: where one search
    finds the records, those that failed would outvote it.

    ``diagnostics["disagreement"]``: the mean over numbers of the standard deviation over searches, in public standard
    deviations; ``diagnostics["entropy"]``: of the pooled levels, as a share of the largest possible: where both are
    near zero, the paper trusts a cell (section 4.3). They are zero of one search. ``diagnostics["voters"]``: how many
    searches were pooled.

    Args:
        iterations: of Adam, in each search.
        polish: steps of L-BFGS after it, each of about 20 evaluations, in float64; 0 leaves it out.
        ensemble: searches, of which those that fit about as well as the best are pooled.
        pooling: False reports the search of lowest loss.
        seconds: of all searches together.

    Deviations: 3 searches in place of 30; not all of them vote; Adam on the sign of the gradient with IG's steps, which
    ends in far more right cells here than Adam without; L-BFGS after it, since of a table with many columns that go
    together Adam finds the well-determined combinations only; the softmax has no temperature; labels are as told.

    Raises:
        ValueError: labels that were not told, or a bad option.
    """
    labels = need_labels(seen, "tableak", "; of a gradient, 'dlg' searches them, too")
    columns = cast("Columns", seen.columns)
    _validate.number("lr", lr, above=0)
    _validate.instance("pooling", pooling, bool)
    ensemble = _validate.integer("ensemble", ensemble, at_least=1)
    iterations = _validate.integer("iterations", iterations, at_least=0)
    polish = _validate.integer("polish", polish, at_least=0)
    tally, groups = Tally(), [list(group) for group in columns.groups]

    def records(variables: tuple[torch.Tensor, ...]) -> torch.Tensor:
        made = variables[0].clone()
        for group in groups:
            made[:, group] = variables[0][:, group].softmax(-1)
        return made

    how = {"decode": lambda v: (records(v), labels), "distance": cosine, "tally": tally}
    objective, exact = matching(seen, **how), matching(seen, dtype=torch.float64, **how)

    def solve(trace, generator):
        ending = adam(
            objective,
            (normal_start(seen, generator),),
            trace,
            iterations=iterations,
            lr=lr,
            schedule="steps",
            sign=True,
        )
        if polish and not ending:
            stage = trace.stage(lambda variables: tuple(v.float() for v in variables))
            lbfgs(exact, tuple(v.double() for v in trace.best), stage, iterations=polish, line_search=True)

    members: list[Found] = []
    begin = time.monotonic()
    for member in range(ensemble):
        left = None if seconds is None else seconds - (time.monotonic() - begin)
        if members and left is not None and left <= 0:
            break
        members.append(
            search(
                solve,
                iterations=iterations + (polish + 1 if polish else 0),
                restarts=1,
                seed=seed + 1000 * member,
                keep="last",
                progress=progress,
                seconds=None if left is None else max(left, 1e-3),
                label="tableak",
            )  # fmt: skip
        )
    members.sort(key=lambda found: found.loss)
    with torch.no_grad():
        made = [records(found.variables) for found in members]
        stack = torch.stack([made[0], *(one[metrics.match_records(one, made[0], columns)] for one in made[1:])])
        most = max(FITS * members[0].loss, EXACT if polish else ROUND_OFF)
        voters, numbers = stack[[found.loss <= most for found in members]], list(columns.numeric)
        pooled = voters.mean(0)
        pooled[:, numbers] = voters[:, :, numbers].median(0).values
    entropy = [
        -(share * share.log()).sum(1).mean() / torch.tensor(float(len(group))).log()
        for group in groups
        for share in [pooled[:, group].clamp_min(SHARPEST)]
    ]
    apart = float(stack[:, :, numbers].std(0, unbiased=False).mean()) if numbers else 0.0
    extra = {"searches": float(len(members)), "voters": float(len(voters)), "disagreement": apart}
    extra["entropy"] = float(torch.stack(entropy).mean()) if entropy else 0.0
    return reconstruction(members[0], pooled if pooling else made[0], labels, tally=tally, **extra)
