"""Do the scalars matter? The published ZeroGLA and its variants on a residual network, over several seeds.

Photograph, initial weights, directions and starting point change with the seed. Within a seed every variant starts from
the same point, so that differences are paired. The running statistics come from public photographs; the exact ones from
the private batch, which no zeroth-order protocol sends. With ``--trained`` the network has first learnt to name the
classes of 1,000 public photographs (Adam, batches of 64), and the record says how many of them it names.

    python benchmarks/ablation.py [--model resnet8] [--size 32] [--seeds 10] [--iterations 600] [--quirks]

Records in benchmarks/results (OMP_NUM_THREADS=1):

    ablation_cpu: python benchmarks/ablation.py
    ablation_quirks_cpu: python benchmarks/ablation.py --quirks --seeds 5
    ablation_trained_cpu: python benchmarks/ablation.py --trained 300 --content 18 --size 16
"""

from __future__ import annotations

import argparse

import torch
from common import RESULTS, arguments

import glutils as gl
from glutils.experiments import leaderboard

PUBLIC, PART = 1000, 64
"""Public photographs a network is trained on, and how many at a time."""


def train(model: torch.nn.Module, batch: gl.data.Batch, steps: int, seed: int) -> float:
    """Let the network learn from public photographs; what share of them it names then, with its running statistics."""
    public = gl.data.public(batch, count=PUBLIC, seed=seed)
    leaderboard.train(model, public, steps=steps, seed=seed, part=PART)
    with torch.no_grad():
        named = (model.eval()(public.images).argmax(1) == public.labels).double().mean()
    model.train()
    return float(named)


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--directions", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--trained", type=int, default=0, help="steps that the network has learnt before")
    parser.add_argument("--content", type=float, default=None, help="a blank card has less than so many dB")
    parser.add_argument("--quirks", action="store_true", help="copy the reference code's oddities, too")
    parser.add_argument("--device", default="cpu")
    options = arguments(parser)
    rows, seconds = [], 0.0
    for seed in range(options.seeds):
        how = {"count": options.count, "size": options.size, "content": options.content, "device": options.device}
        batch = gl.data.sample("photos", seed=seed, **how)
        model = gl.models.build(options.model, batch, seed=seed).train()
        learnt = {"named": train(model, batch, options.trained, seed)} if options.trained else {}
        public = gl.data.public(batch, count=256, seed=seed)
        with torch.no_grad():
            for part in public.images.split(8):
                model(part)  # fills the running statistics
        protocol = gl.protocols.ZerothOrder(directions=options.directions, seed=seed)
        payload = protocol.transmit(model, batch.images, batch.labels)
        seen = gl.observe(model, protocol, payload, batch, knows={"labels", "batch_stats"})
        how = {"iterations": options.iterations, "quirks": options.quirks, "progress": False}
        for variant, result in gl.attacks.ablation(seen, seed=seed, **how).items():
            seconds += result.seconds
            rows += gl.runs.rows_from(result, gl.score(result, batch), variant=variant, seed=seed, **learnt)
            print(seed, variant, round(rows[-1]["psnr"], 2), f"{result.seconds:.0f} s", flush=True)
        kind = "_trained" if options.trained else "_quirks" if options.quirks else ""
        name = f"ablation{kind}_{torch.device(options.device).type}"
        gl.runs.record(
            name, parameters=vars(options) | {"threads": torch.get_num_threads()}, rows=rows, seeds=range(seed + 1),
            seconds=seconds, device=options.device, folder=RESULTS, image_is=("seed", "image"),
        )  # fmt: skip


if __name__ == "__main__":
    main()
