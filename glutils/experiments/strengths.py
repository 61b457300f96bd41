"""How strong defences are tried: the one table that experiments, panels and benchmarks take their numbers from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NOISE = (0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 14.0, 20.0, 30.0, 100.0)
KEEP = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
PRIVACY = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Strength:
    """The one number that says how strong a defence is.

    Attributes:
        option: its name, as :func:`glutils.defenses.get` has it.
        grid: values from weak to strong, among which a breaking point is looked for.
        fixed: what else the defence is given unless told otherwise.
        panels: what clients send ("gradient", "scalars") to the values that a panel offers, from weak to strong; a
            defence that no panel offers has none.
    """

    option: str
    grid: tuple[float | int, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    panels: Mapping[str, tuple[float | int, ...]] = field(default_factory=dict)


STRENGTHS: dict[str, Strength] = {
    "gaussian_noise": Strength(
        "sigma", NOISE, {"relative": True},
        {"gradient": (1.0, 3.0, 10.0, 30.0), "scalars": (0.03, 0.1, 0.3, 1.0, 3.0)},
    ),
    "laplace_noise": Strength("sigma", NOISE, {"relative": True}),
    "clip": Strength("bound", (1.0, 0.3, 0.1, 0.03, 0.01, 0.001), panels={"gradient": (1.0, 0.3, 0.1)}),
    "clip_scalars": Strength("bound", (0.1, 0.03, 0.01, 0.003, 0.001), panels={"scalars": (0.03, 0.01, 0.003)}),
    "dpsgd": Strength("sigma", PRIVACY, {"clip": 1.0}, {"gradient": (0.003, 0.01, 0.03, 0.1)}),
    "dp_update": Strength("sigma", PRIVACY, {"clip": 1.0}),
    "dp_scalars": Strength(
        "sigma", (0.03, 0.1, 0.3, 1.0, 3.0, 10.0), {"clip": 0.05}, {"scalars": (0.3, 1.0, 3.0, 10.0)}
    ),
    "topk": Strength("keep", KEEP, panels={"gradient": (0.1, 0.03, 0.01, 0.003)}),
    "randomk": Strength("keep", KEEP),
    "prune_last": Strength("keep", (0.5, 0.2, 0.1, 0.03, 0.01, 0.0)),
    "bits": Strength("bits", (8, 6, 4, 3, 2), panels={"gradient": (8, 4, 3, 2), "scalars": (8, 4, 3, 2)}),
    "qsgd": Strength("levels", (64, 16, 4, 2, 1)),
    "soteria": Strength(
        "prune", (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99), panels={"gradient": (0.5, 0.8, 0.9, 0.99)}
    ),
}  # fmt: skip
"""Defence to the one number that is its strength, with what else it is given and which values are tried."""
