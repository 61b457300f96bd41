"""Do the scalars matter? The published ZeroGLA and its variants on a residual network, over several seeds.

Photograph, initial weights, directions and starting point change with the seed. Within a seed every variant starts from
the same point, so that differences are paired. The running statistics come from public photographs; the exact ones from
the private batch, which no zeroth-order protocol sends.

    python benchmarks/ablation.py [--model resnet8] [--size 32] [--seeds 10] [--iterations 600] [--quirks]

Records in benchmarks/results (OMP_NUM_THREADS=1):

    ablation_cpu: python benchmarks/ablation.py
    ablation_quirks_cpu: python benchmarks/ablation.py --quirks --seeds 5
"""

from __future__ import annotations

import argparse

import torch
from common import RESULTS, arguments

import glutils as gl


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--directions", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--quirks", action="store_true", help="copy the reference code's oddities, too")
    parser.add_argument("--device", default="cpu")
    options = arguments(parser)
    rows, seconds = [], 0.0
    for seed in range(options.seeds):
        batch = gl.data.sample("photos", size=options.size, count=options.count, seed=seed, device=options.device)
        model = gl.models.build(options.model, batch, seed=seed).train()
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
            rows += gl.runs.rows_from(result, gl.score(result, batch), variant=variant, seed=seed)
            print(seed, variant, round(rows[-1]["psnr"], 2), f"{result.seconds:.0f} s", flush=True)
        name = f"ablation{'_quirks' if options.quirks else ''}_{torch.device(options.device).type}"
        gl.runs.record(
            name, parameters=vars(options) | {"threads": torch.get_num_threads()}, rows=rows, seeds=range(seed + 1),
            seconds=seconds, device=options.device, folder=RESULTS, image_is=("seed", "image"),
        )  # fmt: skip


if __name__ == "__main__":
    main()
