"""A privacy-utility experiment in a folder: one defence at many strengths, each attacked twice, through a sweep."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _device, _files, _validate, metrics
from ..runs import records
from ..runs.sweep import Sweep, sweep
from . import defended
from .reconstruct import agree

TABLE = "results.csv"
STORED = "experiment.json"
COLUMNS = (
    "defence", "strength", "seed", "attacker", "image", "psnr", "ssim", "mse", "lpips", "label_right", "accuracy",
    "epsilon", "tv_weight", "loss", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class DefenseSweep:
    """What an experiment holds so far.

    Attributes:
        folder: with ``results.csv``, ``experiment.json`` and, under ``runs``, a record for each strength and seed.
        parameters: what it was asked to do.
        rows: one mapping for each strength, seed, attacker and attacked image, as in ``results.csv``, with
            ``controls`` and ``found``; undefended ones (strength None) first, strengths in the order given.
        runs: the sweep behind it, with its failures.
    """

    folder: Path
    parameters: dict[str, Any]
    rows: list[dict[str, Any]]
    runs: Sweep

    def of(self, strength: float | int | None, attacker: str = "adaptive") -> list[dict[str, Any]]:
        """The rows of one strength (None: undefended) and one attacker; empty if its runs failed."""
        return [row for row in self.rows if row["strength"] == strength and row["attacker"] == attacker]

    def summary(self) -> list[dict[str, Any]]:
        """One mapping for each strength that finished: medians and spreads over seeds and images, side by side.

        ``psnr`` maps an attacker to (median, least, most), each image at most 100 dB; ``accuracy`` is (median, least,
        most) over seeds; ``control`` is the higher of the medians of mean colour and of the spoiled message.
        """
        table = []
        for strength in dict.fromkeys(row["strength"] for row in self.rows):
            both = {who: self.of(strength, who) for who in ("adaptive", "naive")}
            mine = {row["seed"]: row["accuracy"] for row in both["adaptive"]}
            misled = {row["misled"] for row in both["adaptive"]} - {None}
            names = ["mean_colour", *sorted(misled)]
            controls = {n: _spread([row["controls"][n]["psnr"] for row in both["adaptive"]]) for n in names}
            table.append({
                "strength": strength,
                "psnr": {who: _spread([row["psnr"] for row in rows]) for who, rows in both.items()},
                "accuracy": _spread(list(mine.values())),
                "control": max(middle for middle, *_ in controls.values()),
                "epsilon": both["adaptive"][0].get("epsilon"),
            })  # fmt: skip
        return table

    @property
    def breaks(self) -> dict[str, float | None]:
        """Attacker to the first strength, in the order given, whose median is at most 1 dB above its control."""
        table = [row for row in self.summary() if row["strength"] is not None]
        return {
            who: next((row["strength"] for row in table if row["psnr"][who][0] <= row["control"] + 1), None)
            for who in ("adaptive", "naive")
        }


def defense_sweep(
    attack: str = "ig",
    defense: str = "gaussian_noise",
    strengths: Sequence[float | int] = (1.0, 3.0, 10.0),
    *,
    model: str | None = None,
    data: str = "digits",
    seeds: int = 3,
    options: Mapping[str, Any] | None = None,
    exp_name: str = "my_exp",
    folder: str | Path | None = None,
    cluster: Any = None,
    workers: int | None = None,
    progress: bool | None = None,
    **scene: Any,
) -> DefenseSweep:
    """Attack a defence at several strengths, naive and adaptive, beside accuracy; ``data/defense_sweep/<exp_name>``.

    Every strength and seed is one run of :func:`glutils.experiments.defended.measure` in a :func:`glutils.runs.sweep`,
    and so is the undefended client. Called again with the same parameters, an experiment goes on where it stopped, and
    nothing that is there is computed or written again; ``strengths`` and ``seeds`` may grow.

    Args:
        attack: one of :func:`glutils.attacks.names`.
        defense: one of :data:`glutils.experiments.strengths.STRENGTHS`, with its ``strengths`` from weak to strong.
        model: network under attack, which is also the one that learns; default: the one of the attack's conditions.
        data: one of :func:`glutils.data.names`.
        seeds: repetitions: images, weights, noise and starting points of seeds 0, 1, ...
        options: further options of the defence.
        exp_name: letters, digits, ``.``, ``_`` and ``-``.
        folder: where the experiment's folder goes; default ``data/defense_sweep`` under the project's
            root, or below ``~/leaky-scalars``, with a warning, where that cannot be written.
        cluster, workers, progress: as in :func:`glutils.runs.sweep`.
        scene: the rest of :class:`glutils.experiments.defended.Scene`, such as ``rounds``, ``images``, ``evaluations``.

    Raises:
        ValueError, TypeError: a bad argument, or a defence that cannot protect what this attack reads; before any run.
        FileExistsError: an experiment of this name with other parameters, each named; another process that writes it.
    """
    known = {field.name for field in dataclasses.fields(defended.Scene)} - {"attack", "model", "data"}
    if strangers := [name for name in scene if name not in known]:
        raise TypeError(f"unknown argument {strangers[0]!r}; valid, beside those named: {', '.join(sorted(known))}")
    scene = scene | {"attack": attack, "model": model, "data": data}
    scene["device"] = _device.resolve(scene.get("device")).type
    whole, options = defended.Scene(**scene), dict(options or {})
    if isinstance(strengths, str | Mapping) or not isinstance(strengths, Sequence) or not strengths:
        raise ValueError(f"strengths must be a list of at least one number, got {strengths!r}")
    if len(set(strengths)) != len(strengths):
        raise ValueError(f"strengths must differ, got {list(strengths)}")
    for strength in strengths:
        whole.protocol(defended.defense_of(defense, strength, **options))
    _validate.integer("seeds", seeds, at_least=1)
    _validate.file_name("exp_name", exp_name)
    where = (Path(folder) if folder is not None else _files.own_place("data", "defense_sweep")) / exp_name
    asked = dataclasses.asdict(whole) | {"defence": defense, "options": options, "exp_name": exp_name}
    asked |= {"strengths": list(strengths), "seeds": seeds}
    with _files.held(where, "exp_name"):
        asked = agree(where, asked, grows=("strengths", "seeds"))
        _files.write(where / STORED, json.dumps(asked, indent=1) + "\n")
        grid = [
            {"scene": scene, "defense": name, "strength": strength, "options": more, "seed": seed}
            for name, strength, more in [(None, None, {}), *((defense, value, options) for value in asked["strengths"])]
            for seed in range(asked["seeds"])
        ]
        runs = sweep(_point, grid, cluster, workers=workers, folder=where / "runs", progress=progress)
    rows = [{"misled": whole.misled} | {k: v for k, v in row.items() if k not in ("scene", "options", "defense")}
            for row in runs.rows]  # fmt: skip
    records.write_table(where / TABLE, [dict.fromkeys(COLUMNS) | row for row in rows], COLUMNS)
    return DefenseSweep(where, asked, rows, runs)


def _point(scene: dict[str, Any], defense: str | None, strength: float | None, options: dict[str, Any], seed: int):
    """One run: everything that JSON holds, so that it can travel and be recorded."""
    return defended.measure(defended.Scene(**scene), defense, strength, options=options, seed=seed)


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and most, each value at most 100."""
    found = [min(float(value), 100.0) for value in values]
    return metrics.summary(found).median, min(found), max(found)
