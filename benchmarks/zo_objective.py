"""Time and peak memory of one ZeroGLA objective with its gradient, against the number of scalars K.

Four ways: directions kept in memory; drawn again at every use; the reference way (each direction from its seed, inside
the autograd graph); and plain gradient matching, which has no directions. Every case runs in a process of its own:
first the way alone, after which the peak is read, then in turn with plain gradient matching for the time. Times are the
lowest of all repeats: other work on the machine can only add.

    python benchmarks/zo_objective.py [--device cpu] [--limit 3] [--only lenet]

Record in benchmarks/results (OMP_NUM_THREADS=2):

    zo_objective_cpu: python benchmarks/zo_objective.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from common import RESULTS, arguments
from common.reference import reference

import glutils as gl
from glutils import models
from glutils.attacks.matching.objective import matching
from glutils.models import convolutions

CASES = {"lenet": (12, 48, 192, 768, 3072), "resnet18": (12, 48, 192)}
PLAIN, KEPT, REDRAWN, REFERENCE = "plain gradient matching", "kept", "drawn again", "reference way"
BUDGET = 1.5  # seconds of timing a case, once each way has run


def ways(count: int, parameters: int, limit: float) -> list[str]:
    """What to run: no more bytes are kept than the package's budget, or in the reference's graph than the limit."""
    size = 4 * count * parameters
    kept = [KEPT] if size <= gl.zo.MEMORY else []
    return [*kept, REDRAWN, *([REFERENCE] if size <= limit * 2**30 else [])]


def problem(name: str, size: int, device: str):
    """A photograph and a network; the batch that plain gradient matching and ZeroGLA share."""
    batch = gl.data.sample("photos", size=size, seed=0, device=device)
    return batch, gl.models.build(name, batch, seed=0)


def prepare(name: str, size: int, way: str, count: int, device: str):
    """The way, plain gradient matching, and the images, which all share."""
    batch, model = problem(name, size, device)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(batch.images.shape, generator=generator).to(device).requires_grad_()

    def seen(protocol):
        return gl.observe(
            model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows={"labels"}
        )

    def matched(protocol):
        run = matching(seen(protocol), lambda variables: (variables[0], batch.labels))
        return lambda: run((images,))

    plain = matched(gl.protocols.FedSGD())
    before = used(device)
    if way == PLAIN:
        return plain, plain, images, before
    # exact slopes: finite differences would need memory of their own
    memory = gl.zo.MEMORY if way == KEPT else 0
    protocol = gl.protocols.ZerothOrder(directions=count, scheme="exact", memory=memory)
    if way == REFERENCE:
        message = seen(protocol)
        return lambda: reference(message, images), plain, images, before
    return matched(protocol), plain, images, before


def used(device: str) -> float:
    """Memory in use now, in MiB: of the process, or of the GPU's tensors."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated() / 2**20
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak(device: str) -> float:
    """Most memory used so far, in MiB."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts in KiB


def case(name: str, way: str, count: int, device: str) -> dict:
    """One row: a way's peak memory, and its time beside that of plain gradient matching."""
    prepare("lenet", 8, way, 2, device)[0]()  # loads code, which takes memory and time once
    run, plain, images, before = prepare(name, 32, way, count, device)
    first = seconds(run, images)
    most = peak(device)
    seconds(plain, images)
    runs = {way: [first], PLAIN: [seconds(plain, images)]}  # what takes longest runs once
    if first < 4 * BUDGET:
        first = seconds(run, images)
        runs = {way: [], PLAIN: []}
        for _ in range(max(1 if first > BUDGET else 5, min(60, int(BUDGET / (2 * first))))):
            runs[way].append(seconds(run, images))
            runs[PLAIN].append(seconds(plain, images))
    ms = {key: 1e3 * min(values) for key, values in runs.items()}
    parameters = sum(p.numel() for p in problem(name, 32, "cpu")[1].parameters())
    row = {"model": name, "parameters": parameters, "way": way, "scalars": count, "time (ms)": ms[way]}
    over = 1.0 if way == PLAIN else ms[way] / ms[PLAIN]
    row |= {"plain (ms)": ms[PLAIN], "over plain": over, "repeats": len(runs[way])}
    row |= {"peak memory (MiB)": most, "before (MiB)": before, "own memory (MiB)": most - before}
    return row | {"directions (MiB)": parameters * count / 2**18, "parameters that matter": mattering(name)}


def mattering(name: str) -> int:
    """Parameters that meet a pixel of a 32 x 32 image; directions are kept for these alone."""
    batch, model = problem(name, 32, "cpu")
    cut = convolutions.trimmed(model, batch.images.shape, convolutions.sizes(model, batch.images.shape))
    return len(models.flatten(models.parameters(model))) if cut is None else len(cut.columns)


def seconds(run, images: torch.Tensor) -> float:
    """Of one run, to its end on the device."""
    begin = time.perf_counter()
    run()
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    """Run every case in a fresh process and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=3, help="GiB that the reference way's graph may take")
    parser.add_argument("--only", choices=CASES, help="measure one network again; the record keeps the others' rows")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = arguments(parser)
    if options.case:
        print(json.dumps(case(*json.loads(options.case), options.device)))
        return
    record = f"zo_objective_{torch.device(options.device).type}"
    rows, begin = [], time.perf_counter()
    for name, counts in CASES.items():
        if options.only not in (None, name):
            rows += [row for row in gl.runs.load(record, folder=RESULTS).rows if row["model"] == name]
            continue
        parameters = sum(p.numel() for p in problem(name, 32, "cpu")[1].parameters())
        work = [(PLAIN, 0)] + [(way, count) for count in counts for way in ways(count, parameters, options.limit)]
        for way, count in work:
            command = [sys.executable, str(Path(__file__)), "--dirty", "--device", options.device]  # asked once, above
            command += ["--case", json.dumps([name, way, count])]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print({k: round(v, 2) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    parameters = {"device": options.device, "limit (GiB)": options.limit, "budget (MiB)": gl.zo.MEMORY / 2**20}
    parameters |= {"measured again": options.only, "threads": torch.get_num_threads()}
    took = time.perf_counter() - begin
    gl.runs.record(
        record, parameters=parameters, rows=rows, seeds=0, seconds=took, device=options.device, folder=RESULTS
    )  # fmt: skip


if __name__ == "__main__":
    main()
