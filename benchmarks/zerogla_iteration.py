"""One evaluation of the ZeroGLA objective and its gradient: this project, the reference way, plain gradient matching.

The reference way draws every direction from its seed again in every iteration and multiplies it with the gradient in
the autograd graph. Plain gradient matching is the floor: the same network, the whole gradient, no directions; as one
writes it in PyTorch, and as this project does it.

    python benchmarks/zerogla_iteration.py [--repeats 15] [--device cpu]

Record in benchmarks/results (OMP_NUM_THREADS=2):

    zerogla_iteration_cpu: python benchmarks/zerogla_iteration.py
"""

from __future__ import annotations

import argparse

import torch
from common import RESULTS, arguments
from common.reference import reference
from common.timing import alternate, medians

import glutils as gl
from glutils.attacks.matching.objective import matching

CASES = [("lenet", 1, 12), ("lenet", 1, 256), ("lenet", 1, 3072), ("resnet18", 1, 12), ("resnet18", 4, 12)]
BARS = {("lenet", 12): (1.4, 1.2), ("lenet", 256): (8, 1.5), ("lenet", 3072): (20, 6), ("resnet18", 12): (12, 1.5)}


def ordinary(seen: gl.Observation, images: torch.Tensor):
    """Plain gradient matching as one writes it."""
    loss = torch.nn.functional.cross_entropy(seen.model(images), seen.labels)
    gradient = torch.autograd.grad(loss, list(seen.model.parameters()), create_graph=True)
    total = sum(((a - b) ** 2).sum() for a, b in zip(gradient, seen.payload.values(), strict=True))
    return torch.autograd.grad(total, images)


def case(name: str, count: int, directions: int, repeats: int, device: str) -> dict:
    """Medians of one case."""
    batch = gl.data.sample("photos", size=32, count=count, seed=0, device=device)
    model = gl.models.build(name, batch, seed=0)
    labels = {"labels"}
    zo = gl.protocols.ZerothOrder(directions=directions, seed=0)
    seen = gl.observe(model, zo, zo.transmit(model, batch.images, batch.labels), batch, knows=labels)
    sgd = gl.protocols.FedSGD()
    full = gl.observe(model, sgd, sgd.transmit(model, batch.images, batch.labels), batch, knows=labels)
    images = torch.rand(batch.images.shape, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
    ours = matching(seen, lambda v: (v[0], batch.labels))
    plain = matching(full, lambda v: (v[0], batch.labels))

    # an attack iterates, so each timed run does, too: a single step after another's would time the cache, not the step
    steps = 10 if directions <= 256 and name == "lenet" else 3

    def finished(run):
        def call():
            for _ in range(steps):
                run()
            if images.is_cuda:
                torch.cuda.synchronize()

        return call

    work = {
        "ours": finished(lambda: ours((images,))),
        "plain gradient matching": finished(lambda: ordinary(full, images)),
        "plain, this project's": finished(lambda: plain((images,))),
        "reference way": finished(lambda: reference(seen, images)),
    }
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    ms = {key: value / steps for key, value in medians(alternate(work, repeats)).items()}
    faster, over = ms["reference way"] / ms["ours"], ms["ours"] / ms["plain gradient matching"]
    bars = BARS[name, directions]
    row = {"model": name, "batch": count, "scalars": directions, "parameters": zo.draw(model).dim, "steps": steps}
    row |= {f"{key} (ms)": value for key, value in ms.items()}
    row |= {"faster than reference": faster, "bar": bars[0], "over plain": over, "bar over plain": bars[1]}
    row["over this project's plain"] = ms["ours"] / ms["plain, this project's"]
    if images.is_cuda:
        row["peak memory (MiB)"] = torch.cuda.max_memory_allocated() / 2**20
    return row


def main() -> None:
    """Run all cases and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    options = arguments(parser)
    rows = []
    for name, count, directions in CASES:
        repeats = options.repeats if name == "lenet" else max(3, options.repeats // 3)
        rows.append(case(name, count, directions, repeats, options.device))
        shown = {key: round(value, 2) if isinstance(value, float) else value for key, value in rows[-1].items()}
        print(shown, flush=True)
    parameters = {"repeats": options.repeats, "threads": torch.get_num_threads()}
    gl.runs.record(
        f"zerogla_iteration_{options.device}", parameters=parameters, rows=rows, seeds=0, device=options.device,
        folder=RESULTS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
