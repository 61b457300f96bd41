"""In which form an attack stands in the leaderboard: as published, with settings of its own, or extended by this book.

A ranking mixes attacks with what was done to them. Here the three are told apart, and attacks can be put into each:
with the settings of their source (:data:`PUBLISHED`), tuned with one budget for all (:func:`tune`), and with what this
book added to one of them offered to all (:func:`extend`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..attacks.base import ATTACKS
from ..metrics.pixels import CAP
from ..models.relu import with_surrogates
from ..observation import Observation

AS_PUBLISHED, OWN, EXTENDED, UNKNOWN = "as published", "own settings", "extended", "not stated"
"""How an attack stands in the leaderboard."""
TUNED = "tuned alike"
"""... and how none stands there: that is a measurement of its own."""
KINKS = 4.0
"""Width of the surrogate kinks, STG's default."""

FORMS: dict[str, tuple[str, str]] = {
    "dlg": (AS_PUBLISHED, "a line search, float64, one start"),
    "idlg": (AS_PUBLISHED, "a line search, float64, one start"),
    "dlg_adam": (OWN, "step 0.03 and a box, chosen at 32 pixels through lenet"),
    "dlg_cosine": (OWN, "step 0.03 and a box, chosen at 32 pixels through lenet"),
    "ig": (OWN, "total variation 1e-2 for 1e-1, chosen at 32 pixels; 300 of 4,800 steps"),
    "stg": (EXTENDED, "surrogate kinks and a box are ours; weights chosen at 16 pixels; 300 of 20,000 steps"),
    "grnn": (AS_PUBLISHED, "300 of 1,000 steps"),
    "ggl": (AS_PUBLISHED, "about 300 of 25,000 candidates"),
    "gias": (OWN, "a term for the latent's length, which its authors switch off"),
    "igims": (OWN, "no code was published; steps and the latent's term are ours; two or three generations of CMA-ES"),
    "gifd": (OWN, "our small generators; one radius of features; hundreds of steps for a thousand a layer"),
    "fgla": (AS_PUBLISHED, "a decoder from 256 public images; one arena has the map of features that it needs"),
    "dlf": (AS_PUBLISHED, "300 steps; in one epoch its wish for the same photos in any order does nothing"),
    "fedleak": (OWN, "from summaries of the paper; share of entries and regularisation chosen at 12 pixels"),
    "rog": (OWN, "principal components for the encoder, kernel ridge regression for the network after it"),
    "inverter": (OWN, "one linear map for each set of labels, from hundreds of public images"),
    "cpa": (OWN, "weight 0.03 of mutual information for 1.47; scale and sign from the bias"),
    "cpa_fi": (AS_PUBLISHED, "no term that matches gradients"),
    "rgap": (EXTENDED, "any number of classes"),
    "fc_inversion": (AS_PUBLISHED, ""),
    "spear": (AS_PUBLISHED, ""),
    "sme": (OWN, "the share inside a sigmoid; steps, box and total variation are IG's"),
    "april": (AS_PUBLISHED, "the closed form alone"),
    "fishing": (AS_PUBLISHED, "by classes alone, behind a fully connected first layer"),
    "loki": (AS_PUBLISHED, "clients kept apart by biases in place of convolutional kernels"),
    "rtf": (EXTENDED, "the block has two sides"),
    "zerogla": (EXTENDED, "Gauss-Newton in place of Adam"),
}
"""Attack to how it stands in the leaderboard, and what differs from its source; the files of the attacks have the
whole lists. Settings of its own were found by us, on public images, and not with one budget for all."""


def listed(names: Iterable[str]) -> list[dict[str, str]]:
    """One line for each attack: how it stands in the leaderboard, and in what it differs from its source.

    Example:
        >>> from glutils.experiments import forms
        >>> [line["in the leaderboard"] for line in forms.listed(["dlg", "stg"])]
        ['as published', 'extended']
    """
    found = []
    for name in names:
        form, what = FORMS.get(name, (UNKNOWN, ""))
        found.append({"attack": ATTACKS.get(name).title, "in the leaderboard": form, "what differs": what})
    order = [AS_PUBLISHED, OWN, EXTENDED, UNKNOWN]
    return sorted(found, key=lambda line: order.index(line["in the leaderboard"]))


GRID: dict[str, dict[str, tuple[Any, ...]]] = {
    "ig": {"tv_weight": (1e-2, 1e-3, 1e-4), "lr": (0.1, 0.03)},
    "stg": {"tv_weight": (1e-4, 3e-5, 1e-5), "lr": (0.1, 0.03), "kinks": (0.0,)},
    "dlg_adam": {"lr": (0.1, 0.03, 0.01), "box": (True, False)},
    "dlg_cosine": {"lr": (0.1, 0.03, 0.01), "box": (True, False)},
    "dlg": {"lr": (1.0, 0.7, 0.5, 0.3, 0.1, 0.03)},
    "idlg": {"lr": (1.0, 0.7, 0.5, 0.3, 0.1, 0.03)},
    "fedleak": {"tv_weight": (1e-2, 1e-3, 1e-4), "share": (0.5, 1.0)},
    "rog": {"components": (48, 96, 192), "latent_weight": (0.02, 0.002)},
    "cpa_fi": {"tv_weight": (0.1, 0.03, 0.01), "inversion_lr": (0.1, 0.03)},
    "grnn": {"lr": (1e-4, 3e-4, 1e-3), "momentum": (0.99, 0.9)},
    "ggl": {"distance": ("squared", "cosine"), "spread": (1.0, 0.5, 0.25)},
    "gias": {"tv_weight": (1e-3, 1e-4, 1e-5), "weight_lr": (1e-2, 3e-2)},
    "igims": {"tv_weight": (1e-3, 1e-4, 1e-5), "weight_lr": (1e-2, 3e-2)},
    "gifd": {"tv_weight": (1e-3, 1e-4, 1e-5), "feature_lr": (0.03, 0.1)},
}
"""Settings that are tried where attacks are tuned alike: six for each, the leaderboard's own mostly among them."""
PUBLISHED: dict[str, dict[str, Any]] = {
    "ig": {"tv_weight": 0.1},
    "stg": {"gradient_weight": 1e-3, "tv_weight": 1e-4, "l2_weight": 1e-6, "noise": 0.2, "kinks": 0.0, "box": False},
    "dlg_adam": {"lr": 0.1, "box": False},
    "dlg_cosine": {"lr": 0.01, "box": False},
    "dlg": {},
    "idlg": {},
    "rog": {"lr": 0.05, "latent_weight": 0.0},
    "cpa_fi": {"mi_weight": 5.3},
    "grnn": {},
    "ggl": {"tanh": True, "latent_weight": 0.0, "population": 50},
    "gias": {"latent_lr": 0.03, "weight_lr": 1e-3, "tv_weight": 1e-6, "latent_weight": 0.0},
    "gifd": {"feature_lr": 0.1, "tv_weight": 1e-4, "latent_weight": 0.0},
}
"""The settings of their sources; the number of steps is the leaderboard's, generators and encoders are ours. Of two
attacks in :data:`GRID` we have none: IGIMS, of which no code was published, and FedLeak, written from summaries."""
UNTUNED: dict[str, str] = {
    "fc_inversion": "a closed form without settings",
    "fgla": "one pass of a decoder, which is learned beforehand and not for one message",
    "inverter": "one linear map, whose penalty is chosen on public images already",
}
"""Attacks that are not tuned, and why."""
BLIND: dict[str, str] = {
    "ggl": "it takes no derivative",
    "cpa_fi": "it matches features, and not gradients",
} | UNTUNED
"""Attacks that surrogate kinks cannot help, and why: nothing in them looks at how a gradient moves with the image."""


def settings(name: str) -> list[dict[str, Any]]:
    """The settings of an attack in :data:`GRID`, each a dictionary of options.

    Raises:
        ValueError: an attack without a grid.

    Example:
        >>> from glutils.experiments import forms
        >>> forms.settings("ig")[0]
        {'tv_weight': 0.01, 'lr': 0.1}
    """
    if name not in GRID:
        raise ValueError(f"name must be one of {', '.join(GRID)}, got {name!r}")
    grid = GRID[name]
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def raced(name: str) -> tuple[str, ...]:
    """The forms that an attack in :data:`GRID` can be put into.

    Example:
        >>> from glutils.experiments import forms
        >>> forms.raced("ig"), forms.raced("ggl")
        (('as published', 'tuned alike', 'extended'), ('as published', 'tuned alike'))
    """
    settings(name)
    before = (AS_PUBLISHED,) if name in PUBLISHED else ()
    return (*before, TUNED, *(() if name in BLIND else (EXTENDED,)))


def tune(name: str, score: Callable[[dict[str, Any]], float]) -> dict[str, Any]:
    """The settings in :data:`GRID` with the highest score, the first of them in a tie.

    Args:
        name: of the attack.
        score: of settings: PSNR (dB) on images whose message the attacker made itself, never on private ones.

    Example:
        >>> from glutils.experiments import forms
        >>> forms.tune("ig", lambda settings: -settings["tv_weight"])
        {'tv_weight': 0.0001, 'lr': 0.1}
    """
    return max(settings(name), key=score)


def columns(rows: Iterable[Mapping[str, Any]], arena: str) -> dict[str, dict[str, list[float]]]:
    """Attack and form to PSNR (dB, at most 100), one number for each photograph that all of an arena's rows have.

    Args:
        rows: of ``benchmarks/columns.py``.
        arena: its title.

    Example:
        >>> from glutils.experiments import forms
        >>> rows = [{"arena": "a", "attack": "ig", "form": "extended", "seed": s, "psnr": 20.0 + s} for s in (1, 0)]
        >>> forms.columns(rows, "a")
        {'ig': {'extended': [20.0, 21.0]}}
    """
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        if row["arena"] == arena and "form" in row and "refused" not in row:
            own = found.setdefault(row["attack"], {}).setdefault(row["form"], {})
            own[row["seed"]] = min(row["psnr"], CAP)
    met = [set(scores) for own in found.values() for scores in own.values()]
    seeds = sorted(set.intersection(*met)) if met else []
    return {name: {form: [scores[s] for s in seeds] for form, scores in own.items()} for name, own in found.items()}


def extend(seen: Observation, kinks: float = KINKS) -> Observation:
    """The observation with surrogate kinks in the place of ReLU, for an attack that simulates the client.

    Values and gradients stay what they are; only the way back from a gradient to the pixels sees the kinks. See
    :class:`glutils.models.relu.SurrogateReLU`.

    Args:
        seen: what the attacker holds, of a ReLU network.
        kinks: their width, in units of a layer's inputs.

    Source: this book's own; not peer-reviewed.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> from glutils.experiments import forms, leaderboard
        >>> arena = leaderboard.Arena("mlp", network={"hidden": (8,), "activation": "relu"})
        >>> batch = leaderboard.private(arena, seed=0, dataset="digits", size=8, device="cpu")
        >>> seen = leaderboard.observed(arena, batch, seed=0)
        >>> same = forms.extend(seen).model
        >>> torch.equal(same(batch.images), seen.model(batch.images))
        True
    """
    return dataclasses.replace(seen, model=with_surrogates(seen.model, kinks))
