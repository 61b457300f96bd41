"""Gauss-Newton ZeroGLA through a smooth network and through one with kinks, by number of scalars.

The same small convolutional network with GELU, and with ReLU, which is attacked as it is (from one start and from
several) and by way of smooth networks. Controls: the mean colour, and permuted scalars.

    python benchmarks/kinks.py [--digits 3] [--photos 1] [--size 12] [--full]
    python benchmarks/kinks.py --near [--photos 3] [--size 12]

The second way writes another record: how much the gradient of these networks holds at the true photograph, and how near
to the truth a search must start to find it. An analysis, not an attack: it starts from the truth and a little noise.

Records in benchmarks/results (OMP_NUM_THREADS=1):

    kinks_cpu: python benchmarks/kinks.py
    kinks_near_cpu: python benchmarks/kinks.py --near --photos 3
"""

from __future__ import annotations

import argparse
import time

import torch
from common import RESULTS, arguments

import glutils as gl
from glutils.attacks.zerogla.equations import ScalarEquations

RATIOS = (1.2, 1.5, 2, 3, 4, 6, 8)
VARIANTS = {
    "GELU": ("gelu", {}),
    "ReLU, directly": ("relu", {"soften": False}),
    "ReLU, by smooth networks": ("relu", {"soften": True}),
}
WIDE = {"channels": (16, 32), "hidden": None}
WIDE_RATIOS = (2, 4)
STARTS = 5  # of the direct attack that takes about as long as the smooth networks
SMALL = {"channels": (8, 16), "hidden": None}
NEAR = (1e-4, 1e-3, 1e-2, 1e-1)  # standard deviation of the noise that is added to the true photograph
LIMITS = {"iterations": 40, "seconds": 180, "progress": False}


def observe(data: str, size: int | None, activation: str, ratio: float, seed: int, **network) -> tuple:
    """One private image, and the message that an attacker who knows its label sees."""
    batch = gl.data.sample(data, size=size, seed=seed, device="cpu")
    model = gl.models.build("convnet", batch, activation=activation, seed=seed, **network)
    count = round(ratio * batch.images.numel())
    protocol = gl.protocols.ZerothOrder(directions=count, mu=1e-4, scheme="central", dtype="float64", seed=seed)
    payload = protocol.transmit(model, batch.images, batch.labels)
    return batch, gl.observe(model, protocol, payload, batch, knows={"labels"})


def row(table: str, variant: str, ratio: float, seed: int, batch, seen, **how) -> dict:
    """Attack, and say how it went."""
    result = gl.attack("zerogla", seen, seed=seed, **LIMITS | how)
    colour = batch.images.mean((2, 3), keepdim=True).expand_as(batch.images)
    psnr = [float(gl.metrics.psnr(images, batch.images)[0]) for images in (result.images, colour)]
    found = {"table": table, "variant": variant, "ratio": ratio, "seed": seed, "size": batch.images.shape[-1]}
    found |= {"scalars": len(seen.payload), "unknowns": batch.images.numel()}
    found |= {"PSNR": psnr[0], "mean colour": psnr[1], "loss": result.loss}
    found |= {"starts": len(result.history.restarts), "steps": int(result.history.steps[-1]), "seconds": result.seconds}
    print(*(f"{value:.3g}" if isinstance(value, float) else value for value in found.values()), flush=True)
    return found


def sweep(data: str, size: int | None, seeds: int, several: bool) -> list[dict]:
    """One row for each seed, number of scalars and variant; permuted scalars for the first image and most scalars."""
    rows = []
    for seed in range(seeds):
        for ratio in RATIOS:
            for name, (activation, how) in VARIANTS.items():
                batch, seen = observe(data, size, activation, ratio, seed, **SMALL)
                rows.append(row(data, name, ratio, seed, batch, seen, restarts=1, **how))
            if several:
                name = f"ReLU, directly, {STARTS} starts"
                rows.append(row(data, name, ratio, seed, batch, seen, restarts=STARTS, soften=False))
        if seed == 0 and several:
            misled = gl.tamper(seen, "permuted", seed=seed)
            rows.append(row(data, "ReLU, permuted scalars", ratio, seed, batch, misled, restarts=1, soften=True))
    return rows


def wide(size: int) -> list[dict]:
    """The first photo through a network with twice the channels."""
    rows = []
    for ratio in WIDE_RATIOS:
        batch, seen = observe("photos", size, "relu", ratio, 0, **WIDE)
        for name in list(VARIANTS)[1:]:
            rows.append(row("photos, wider", name, ratio, 0, batch, seen, restarts=1, **VARIANTS[name][1]))
    return rows


def full(size: int) -> list[dict]:
    """The network in its usual size (152,000 parameters at 12 x 12), eight scalars per pixel value: many minutes."""
    batch, seen = observe("photos", size, "relu", 8, 0)
    return [row("full", "ReLU, by smooth networks", 8, 0, batch, seen, restarts=1, soften=True, seconds=3600)]


def near(size: int, seeds: int) -> list[dict]:
    """How far from the truth a search may start, through each network and bend; and what the gradient holds there."""
    rows = []
    client = gl.protocols.FedSGD()
    for network, options in (("narrow", SMALL), ("wide", WIDE)):
        for activation in ("gelu", "relu"):
            for seed in range(seeds):
                batch, seen = observe("photos", size, activation, 2, seed, **options)
                sent = client.transmit(seen.model, batch.images, batch.labels)
                whole = gl.observe(seen.model, client, sent, batch, knows={"labels"})
                values = gl.attacks.singular_values(whole, batch.images)
                found = {"network": network, "activation": activation, "seed": seed, "size": size, "ratio": 2}
                found |= {"pixel values": batch.images.numel(), "condition number": float(values[0] / values[-1])}
                found |= {"independent": int((values > 1e-12 * values[0]).sum())}
                for distance in NEAR:
                    rows.append(found | {"distance": distance, "PSNR": search_from(seen, batch, distance, seed)})
                    print(*rows[-1].values(), flush=True)
    return rows


def search_from(seen, batch, distance: float, seed: int) -> float:
    """PSNR at the end of a plain search that starts at the truth and noise; unclamped."""
    truth = batch.images.double().flatten()
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(seed), dtype=truth.dtype)
    equations = ScalarEquations(seen, lambda u: (u.view(seen.shape), seen.labels), len(truth))
    trace = gl.solvers.Trace(LIMITS["iterations"], keep="last")
    gl.solvers.gauss_newton(equations, truth + distance * noise, trace, iterations=LIMITS["iterations"], damping=1e-6)
    return float(-10 * (trace.best[0] - truth).square().mean().log10())


def main() -> None:
    """Run and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=int, default=3, help="seeds")
    parser.add_argument("--photos", type=int, default=1, help="seeds")
    parser.add_argument("--size", type=int, default=12, help="side of the photos")
    parser.add_argument("--full", action="store_true", help="also the network in its usual size, for many minutes")
    parser.add_argument("--near", action="store_true", help="how near to the truth a search must start; its own record")
    options = arguments(parser)
    begin = time.perf_counter()
    setting = vars(options) | {"threads": torch.get_num_threads(), "small": SMALL, "wide": WIDE} | LIMITS
    if options.near:
        rows, seeds = near(options.size, options.photos), range(options.photos)
        seconds = time.perf_counter() - begin
        gl.runs.record("kinks_near_cpu", parameters=setting, rows=rows, seeds=seeds, seconds=seconds, folder=RESULTS)
        return
    rows = sweep("digits", None, options.digits, several=True)
    rows += sweep("photos", options.size, options.photos, several=False)
    rows += wide(options.size)
    rows += full(options.size) if options.full else []
    gl.runs.record(
        "kinks_cpu",
        parameters=setting,
        rows=rows,
        seeds=range(max(options.digits, options.photos)),
        seconds=time.perf_counter() - begin,
        folder=RESULTS,
    )


if __name__ == "__main__":
    main()
