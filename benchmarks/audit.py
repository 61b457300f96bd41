"""Audits of messages whose truth is known: verdicts, seconds, and PSNR, which no verdict looks at.

- ``flower``: what a real Flower client sent (interop/messages), as weights and as new less old, and as
  interop/audit_flower.yaml has it, with a folder of six pictures; and our own client's message, attacked by IG alone
  with as much time.
- ``logs``: real DeComFL clients, labels unknown; and readings of their logs that must be refused.
- ``open``: gradients of single digits, undefended. ``defended``: the same with stated noise, see ``NOISE``.
  ``hidden``: the same noise, and nobody says so. ``empty``: messages of noise alone, stated.

    python benchmarks/audit.py [--only flower logs ...] [--draws 5]

Records in benchmarks/results (OMP_NUM_THREADS=1):

    audit_cpu: python benchmarks/audit.py
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, arguments

import glutils as gl
from glutils._png import encode
from glutils.audit import command

INTEROP = Path(__file__).resolve().parents[1] / "interop"
MINUTES = 3.0
"""Of every audit of a real program, as the bar has it."""
QUICK = 0.3
"""Of every audit of a single digit."""
FIRST = 3000
"""The first seed: those below 1005 were looked at while the rules and their margins were made."""
NOISE = {"gaussian": {"name": "gaussian_noise", "sigma": 3.0, "relative": True},
         "gaussian, 14": {"name": "gaussian_noise", "sigma": 14.0, "relative": True},
         "dpsgd": {"name": "dpsgd", "clip": 1.0, "sigma": 1.0, "expected": 1}}  # fmt: skip
"""In units of the gradient's root mean square, or of the clip. Chapter 15 finds nothing at 14 (breaking_points)."""


def told(report: Any, **more: Any) -> dict:
    """One audit as one row."""
    ran = [row for row in report.rows if row.verdict != "not run"]
    best = min(ran, key=lambda row: row.misfit, default=None)
    return more | {
        "verdict": report.verdict, "reason": report.reason, "seconds": report.seconds,
        "checks": {check.name: check.outcome for check in report.checks if check.outcome in ("mended", "odd")},
        "attacks": {
            row.attack: {"verdict": row.verdict, "misfit": row.misfit, "PSNR": list(row.psnr),
                         "planted": [found.reached for found in row.plants],
                         "recovered": sum(found.passed for found in row.plants)} for row in ran
        },
        "worst PSNR": None if best is None or not best.psnr else min(best.psnr),
    }  # fmt: skip


def flower(options: argparse.Namespace) -> Iterator[dict]:
    """Both signs of a real Flower client's message, and our own client."""
    spec = importlib.util.spec_from_file_location("interop_networks", INTEROP / "networks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = gl.models.load(INTEROP / "messages" / "flower_global.npz", module.small())
    with np.load(INTEROP / "messages" / "flower_private.npz") as held:
        images, labels = torch.from_numpy(held["images"]), torch.from_numpy(held["labels"])
    protocol, share = gl.protocols.FedAvg(epochs=1, batch_size=1, lr=0.01), 0.0
    truth = gl.data.Batch(images, labels, gl.data.sample("photos", size=16, device="cpu").classes, "photos")
    runs = [("flower_fit", seed) for seed in range(FIRST, FIRST + options.draws)] + [("flower_difference", FIRST)]
    for form, seed in runs:
        stand_in = gl.data.sample("photos", size=16, count=6, seed=seed, split="public", device="cpu")
        path = INTEROP / "messages" / f"{form}.npz"
        how = {"shape": (1, 3, 16, 16), "classes": 9, "stand_in": stand_in, "truth": truth, "minutes": MINUTES}
        report = gl.audit.run(model, str(path), protocol, **how, seed=seed)
        share = 60 * MINUTES / 2 / 4  # seconds of each of four runs of two attacks
        yield told(report, case="flower", form=form, seed=seed)
    for seed in range(FIRST, FIRST + options.draws):
        with tempfile.TemporaryDirectory() as folder:
            stand_in = gl.data.sample("photos", size=16, count=6, seed=seed, split="public", device="cpu")
            for place, image in enumerate(stand_in.images):
                (Path(folder) / f"{place}.png").write_bytes(encode(image))
            entries = command.load(INTEROP / "audit_flower.yaml") | {"stand_in": {"folder": folder}, "seed": seed}
            report = gl.audit.run(**command.asked(entries, INTEROP), truth=truth)
        yield told(report, case="flower", form="six pictures in a folder", seed=seed)
    seen = gl.observe(model, protocol, protocol.transmit(model, images, labels), truth)
    begin = time.perf_counter()
    result = gl.attack("ig", seen, seed=FIRST, seconds=share, progress=False)
    reached = float(gl.score(result, truth).psnr[0])
    seconds = time.perf_counter() - begin
    yield {"case": "flower", "form": "our own client, ig", "worst PSNR": reached, "seconds": seconds,
           "seed": FIRST}  # fmt: skip


def logs(options: argparse.Namespace) -> Iterator[dict]:
    """Clients of the public DeComFL program, and two readings that contradict their end weights."""
    for name in gl.transcripts.RECORDED:
        run = gl.transcripts.recorded(name)
        shape = tuple(run.clients[0].images.shape)
        how: dict[str, Any] = {"shape": shape, "classes": 10, "minutes": MINUTES, "seed": FIRST}
        for client in range(options.clients):
            how |= {"client": client, "truth": run.clients[client]}
            report = gl.audit.run(run.model, str(run.path), run.protocol, lr=run.lr, **how)
            yield told(report, case="logs", form=name, client=client)
        for form, law, lr in (("law", "gaussian", run.lr), ("lr", "decomfl", 10 * run.lr)):
            said = None
            try:
                gl.audit.run(run.model, str(run.path), replace(run.protocol, law=law), lr=lr, **how)
            except ValueError as error:
                said = str(error)
            yield {"case": "logs", "form": f"{name}, another {form}", "refused": said is not None, "said": said}


def digits(options: argparse.Namespace) -> Iterator[dict]:
    """Single digits: open, defended, with a defence that nobody states, and no message at all."""
    plain = gl.protocols.FedSGD()
    for seed in range(FIRST, FIRST + options.draws):
        batch = gl.data.sample("digits", seed=seed, device="cpu")
        stand_in = gl.data.sample("digits", count=6, seed=seed, split="public", device="cpu")
        model = gl.models.build("mlp", batch, activation="tanh", seed=seed)
        how = {"shape": (1, 1, 8, 8), "classes": 10, "stand_in": stand_in, "truth": batch, "minutes": QUICK,
               "attacks": ("fc_inversion", "ig"), "seed": seed}  # fmt: skip
        sent = plain.transmit(model, batch.images, batch.labels)
        yield told(gl.audit.run(model, dict(sent.tensors), plain, **how), case="open", seed=seed)
        for name, entry in NOISE.items():
            own = dict(entry)
            defense = gl.defenses.get(own.pop("name"), **own)
            protocol = gl.defenses.Defended(plain, defense, private=seed)
            noisy = dict(protocol.transmit(model, batch.images, batch.labels).tensors)
            yield told(gl.audit.run(model, noisy, protocol, **how), case="defended", form=name, seed=seed)
            try:
                yield told(gl.audit.run(model, noisy, plain, **how), case="hidden", form=name, seed=seed)
            except ValueError as error:
                yield {"case": "hidden", "form": name, "seed": seed, "verdict": "refused", "said": str(error)}
        defense = gl.defenses.get("gaussian_noise", sigma=1.0)
        protocol = gl.defenses.Defended(plain, defense, private=seed)
        generator = torch.Generator().manual_seed(seed)
        noise = {n: torch.randn(t.shape, generator=generator) for n, t in sent.tensors.items()}
        yield told(gl.audit.run(model, noise, protocol, **how), case="empty", seed=seed)


CASES = {"flower": flower, "logs": logs, "digits": digits}


def main() -> None:
    """Run every case, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--draws", type=int, default=5, help="digits of each case, and audits of the Flower message")
    parser.add_argument("--clients", type=int, default=1, help="of each log")
    parser.add_argument("--name", default="audit_cpu")
    options = arguments(parser)
    rows, begin = [], time.perf_counter()
    for case in options.only:
        for row in CASES[case](options):
            rows.append(row)
            shown = ("case", "form", "client", "seed", "verdict", "worst PSNR", "refused", "seconds")
            print({key: row[key] for key in shown if key in row}, flush=True)
    parameters = {"cases": options.only, "draws": options.draws, "clients": options.clients,
                  "minutes": [MINUTES, QUICK], "first seed": FIRST, "threads": torch.get_num_threads()}  # fmt: skip
    seconds = time.perf_counter() - begin
    seeds = sorted({row["seed"] for row in rows if "seed" in row}) or [0]
    gl.runs.record(options.name, parameters=parameters, rows=rows, seeds=seeds, seconds=seconds, folder=RESULTS)


if __name__ == "__main__":
    main()
