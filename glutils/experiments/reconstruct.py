"""An experiment in a folder: attack batch after batch, keep images, scores and records, and go on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import _device, _files, _validate, attacks, data, metrics, observation
from ..runs import records
from . import conditions, kept

STORED = "experiment.json"
TABLE = "results.csv"
COLUMNS = (
    "batch", "image", "psnr", "ssim", "mse", "lpips", "cells", "numeric_error", "exact", "token_accuracy", "secrets",
    "edit_distance", "label_true", "label_found", "label_right", "loss", "seconds", "notes",
)  # fmt: skip
"""Of the table: those that the kind of records has."""
MISLED = ("wrong_seed", "permuted", "wrong_gradient", "zero")
PUBLIC = 256
"""Most public images that are drawn of an embedded set: for controls, and for attacks that learn from them. Of an
external set a quarter of that."""


@dataclass(frozen=True)
class Experiment:
    """What an experiment holds so far.

    Attributes:
        folder: where it is stored.
        parameters: what it was asked to do.
        rows: one mapping per attacked image, as in ``results.csv``, with ``controls``.
        stopped: why not all batches are there, or ``None``.
    """

    folder: Path
    parameters: dict[str, Any]
    rows: list[dict[str, Any]]
    stopped: str | None = None

    def images(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Truth and reconstruction of a batch from its files, each (B, C, H, W) in [0, 1], in the truth's order; of a
        table (B, columns), of texts (B, L)."""
        truth, found = ([kept.read(self.folder, stem) for stem in self._stems(batch, w)] for w in ("truth", "found"))
        return torch.stack(truth), torch.stack(found)

    def said(self, batch: int) -> list[tuple[Any, Any]]:
        """Truth and reconstruction of every record of a batch in words: texts, or mappings from variable to value."""
        pairs = zip(self._stems(batch, "truth"), self._stems(batch, "found"), strict=True)
        return [(kept.says(self.folder, truth), kept.says(self.folder, found)) for truth, found in pairs]

    def _stems(self, batch: int, what: str) -> list[str]:
        count = sum(row["batch"] == batch for row in self.rows)
        if not count:
            raise ValueError(f"batch must be one of those finished, got {batch}")
        return [_file(batch, image, what) for image in range(count)]


def reconstruct(
    algorithm: str = "ig",
    dataset: str = "photos",
    *,
    root: str | None = None,
    size: int | None = None,
    model: str | None = None,
    batch_size: int = 1,
    reconstruct_num: int = 2,
    max_iteration: int | None = None,
    update: str | None = None,
    num_pert: int | None = None,
    generator_weights: str | None = None,
    misled: str | None = None,
    exp_name: str = "my_exp",
    folder: str | Path | None = None,
    device: str | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **options: Any,
) -> Experiment:
    """Attack batches of private images, one after the other, and store everything in ``data/reconstruct/<exp_name>``.

    The folder gets ``experiment.json`` (the parameters), ``results.csv`` (one row per image: scores, controls), and for
    every batch a record (JSON) and truth and reconstruction of each image (PNG, in the truth's order; of a table or a
    text JSON). A batch counts
    once its record is written. Called again with the same parameters, an experiment goes on where it stopped, and
    nothing that is there is written again; ``reconstruct_num`` may grow. Ctrl-C drops the batch that is being attacked.

    Args:
        algorithm: one of :func:`glutils.attacks.names`.
        dataset: one of :func:`glutils.data.names`; ``root`` is the folder of an external one.
        size: side of the images in pixels; default: the set's own.
        model: network under attack; default: the one of the attack's conditions
            (:mod:`glutils.experiments.conditions`).
        batch_size: images in a batch, 1 or more.
        reconstruct_num: number of batches, 1 or more. The images are drawn with ``seed``, all different.
        max_iteration: the attack's ``iterations``; default: its own. Refused for an attack that has none.
        update: what the attack is given, one of :data:`glutils.experiments.conditions.UPDATES`; default: the first
            kind that it reads. ``"estimate"`` and ``"short estimate"`` point an attack on gradients at the gradient
            estimated from scalars, with and without the factor d.
        num_pert: directions of zeroth-order protocols; default: 1.25 per unknown pixel.
        generator_weights: path of a trained generator, for attacks that take one.
        misled: a way of :func:`glutils.tamper`; the attack runs again on the spoiled update, as one more control.
        exp_name: letters, digits, ``.``, ``_`` and ``-``.
        folder: where the experiment's folder goes; default ``data/reconstruct`` under the project's root, or
            below ``~/leaky-scalars``, with a warning, where that cannot be written.
        device: default: a GPU where there is one.
        seed: of the images, of the network's weights, of the directions, and of the attack.
        progress: see :func:`glutils.solvers.search`.
        options: further options of the attack.

    Raises:
        ValueError, TypeError: a bad argument, and whatever the attack refuses; before anything is written.
        FileExistsError: an experiment of this name with other parameters, each named; another process that writes it.
    """
    asked = {
        "algorithm": algorithm, "dataset": dataset, "root": root, "size": size, "model": model,
        "batch_size": batch_size, "reconstruct_num": reconstruct_num, "max_iteration": max_iteration, "update": update,
        "num_pert": num_pert, "generator_weights": generator_weights, "misled": misled, "exp_name": exp_name,
        "device": _device.resolve(device).type, "seed": seed,
    }  # fmt: skip
    asked["update"] = _checked(asked)
    for name in options:
        if name in ("iterations", "seconds"):
            raise TypeError(f"{name} is not an option here: use max_iteration; got {name}={options[name]!r}")
    asked["options"] = records.encode("options", options)
    where = (Path(folder) if folder is not None else _files.own_place("data", "reconstruct")) / exp_name
    with _files.held(where, "exp_name"):
        return _continued(where, asked, options, _device.resolve(device), progress)


def _continued(
    where: Path, asked: dict[str, Any], options: Mapping[str, Any], device: torch.device, progress: bool | None
) -> Experiment:
    """The batches that are missing, when nobody else writes to the folder."""
    agree(where, asked)
    size, seed, root, wanted = (asked[name] for name in ("batch_size", "seed", "root", "reconstruct_num"))
    rows, learned, stopped = _finished(where, asked), {}, None
    todo = [k for k in range(wanted) if not any(row["batch"] == k for row in rows)]
    if todo:
        every = data.sample(
            asked["dataset"], count=wanted * size, size=asked["size"], seed=seed, root=root, device=device
        )
        public = _public(every, root, seed)
        if (task := conditions.of(asked["algorithm"]).task) is not None:
            every, public = task(every), task(public)
    for k in todo:
        batch = every[slice(k * size, (k + 1) * size)]
        try:
            found = _attacked(asked, batch, public, options, learned, progress)
        except KeyboardInterrupt:
            found = None
        if found is None or any(note.startswith("interrupted") for note in found[0].notes):
            stopped = f"interrupted at batch {k}"
            if not rows:
                raise KeyboardInterrupt(f"{stopped}; nothing was finished")
            break
        _store(where, asked, k, batch, *found)
        rows = _finished(where, asked)
    records.write_table(where / TABLE, rows, [name for name in COLUMNS if not rows or name in rows[0]])
    return Experiment(where, asked, rows, stopped)


def _checked(asked: Mapping[str, Any]) -> str:
    """Refuse what cannot work; return the update that the attack is given."""
    algorithm = asked["algorithm"]
    takes = conditions.options_of(algorithm)
    for name in ("batch_size", "reconstruct_num"):
        _validate.integer(name, asked[name], at_least=1)
    conditions.check_records(algorithm, asked["dataset"], asked["size"])
    _validate.integer("seed", asked["seed"], at_least=0)
    if asked["num_pert"] is not None:
        _validate.integer("num_pert", asked["num_pert"], at_least=1)
    if asked["max_iteration"] is not None:
        _validate.integer("max_iteration", asked["max_iteration"], at_least=0)
        if "iterations" not in takes:
            raise ValueError(f"max_iteration must be None for {algorithm!r}, which searches nothing")
    if asked["generator_weights"] is not None and conditions.of(algorithm).load is None:
        able = [name for name, entry in conditions.CONDITIONS.items() if entry.load is not None]
        raise ValueError(
            f"generator_weights must be None for {algorithm!r}, which has no generator; those that have: "
            f"{', '.join(able) or 'none'}"
        )
    _validate.file_name("exp_name", asked["exp_name"])
    update = conditions.update_of(algorithm, asked["update"])
    sent = conditions.SENT.get(update, update)
    if asked["num_pert"] is not None and sent != "scalars":
        raise ValueError(f"num_pert must be None where a {sent} is sent, got {asked['num_pert']}")
    if asked["misled"] is not None:
        _validate.choice("misled", asked["misled"], MISLED if update == "scalars" else MISLED[1:])
    return update


def agree(where: Path, asked: Mapping[str, Any], grows: tuple[str, ...] = ("reconstruct_num",)) -> dict[str, Any]:
    """What an experiment's folder asks for from now on; an experiment that is stored with other parameters is refused.

    A number or a list named in ``grows`` may become larger.
    """
    stored, now = where / STORED, json.loads(json.dumps(asked))
    if not stored.is_file():
        if where.exists() and any(where.iterdir()):
            raise FileExistsError(f"{where} holds files of something else; choose another exp_name")
        return now
    before = json.loads(stored.read_text(encoding="utf-8"))
    apart = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name) and not (name in grows and _grown(before.get(name), now[name]))
    ]
    if apart:
        raise FileExistsError(
            f"experiment {asked['exp_name']!r} exists with other parameters ({'; '.join(apart)}); "
            "choose another exp_name, or repeat the stored ones"
        )
    return now


def _grown(before: Any, now: Any) -> bool:
    return set(before) <= set(now) if isinstance(now, list) else now > before


def _public(batch: data.Batch, root: str | None, seed: int) -> data.Batch:
    """Public images of the same set: as many as the controls want, or what there is."""
    most, there = PUBLIC if root is None else PUBLIC // 4, data.available(batch, root=root)
    return data.public(batch, count=most if there is None else min(most, there), seed=seed, root=root)


def _attacked(asked, batch, public, options, learned, progress):
    """Reconstruction and score of one batch."""
    algorithm, seed = asked["algorithm"], asked["seed"]
    seen = conditions.observe(
        algorithm, batch, update=asked["update"], model=asked["model"], directions=asked["num_pert"], public=public,
        seed=seed,
    )  # fmt: skip
    takes = conditions.options_of(algorithm)
    options = dict(options)
    if asked["max_iteration"] is not None:
        options["iterations"] = asked["max_iteration"]
    own = conditions.of(algorithm)
    if asked["generator_weights"] is not None:
        options |= own.load(asked["generator_weights"], seen)
    elif own.learn is not None:
        learned |= learned or own.learn(seen, seed)  # once: network and public data are those of the experiment
        options = learned | options
    if "progress" in takes:
        options["progress"] = progress
    result = attacks.attack(algorithm, seen, seed=seed, **options)
    more = {}
    if asked["misled"] is not None:
        spoiled = observation.tamper(seen, asked["misled"], seed=seed)
        try:
            more[f"misled: {asked['misled']}"] = attacks.attack(algorithm, spoiled, seed=seed, **options)
        except ValueError as error:  # an attack that sees the spoiling, and finds nothing
            result = replace(result, notes=(*result.notes, f"refuses the spoiled message: {error}"))
        if any(note.startswith("interrupted") for other in more.values() for note in other.notes):
            raise KeyboardInterrupt
    return result, metrics.score(result, batch, public=public, controls=more)


def _store(where: Path, asked: Mapping[str, Any], number: int, batch: data.Batch, result, score) -> None:
    """Files of one batch; the record comes last, because it says that the batch is finished."""
    where.mkdir(parents=True, exist_ok=True)
    _files.write(where / STORED, json.dumps(asked, indent=1) + "\n")
    for image in range(len(batch)):
        kept.write(where, _file(number, image, "truth"), batch, batch.records[image])
        kept.write(where, _file(number, image, "found"), batch, result.records[score.matching[image]])
    rows = records.rows_from(result, score, batch=number)
    for row, label in zip(rows, batch.labels.tolist(), strict=True):
        row |= {} if isinstance(label, list) else {"label_true": label}
        row["notes"] = "; ".join([*result.notes, *score.notes])
    records.record(
        f"batch_{number:04d}", parameters=asked, rows=rows, seeds=asked["seed"], seconds=result.seconds,
        device=batch.images.device, folder=where,
    )  # fmt: skip


def _finished(where: Path, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the stored batches, in order; a batch that was made with other parameters is refused."""
    rows, now = [], json.loads(json.dumps(dict(asked)))
    for path in sorted(where.glob("batch_????.json")):
        found = records.load(path)
        apart = [name for name in now if found.parameters.get(name) != now[name] and name != "reconstruct_num"]
        if apart:
            raise FileExistsError(
                f"{path} was made with another {apart[0]} ({found.parameters.get(apart[0])!r}, not {now[apart[0]]!r}); "
                "choose another exp_name"
            )
        rows += found.rows
    return rows


def _file(batch: int, image: int, what: str) -> str:
    return f"batch_{batch:04d}_image_{image:03d}_{what}"
