"""How many scalars a message is worth: its bits under the language model over the bits of a scalar.

The messages of ``benchmarks/text.py``, whose record says from how many scalars they came back. Noise is in units of the
scalars of that message.

    python benchmarks/text_bits.py [--seeds 10] [--first 300]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    text_bits_cpu: python benchmarks/text_bits.py
"""

from __future__ import annotations

import argparse
import itertools

from common import arguments, measure

import glutils as gl

CLIENTS = {
    "float64": ({"dtype": "float64"}, 0.0),
    "float32": ({}, 0.0),
    "float16, float32 loss": ({"dtype": "float16", "loss_dtype": "float32"}, 0.0),
    "bfloat16, float32 loss": ({"dtype": "bfloat16", "loss_dtype": "float32"}, 0.0),
    "bfloat16": ({"dtype": "bfloat16"}, 0.0),
    "float32, noise 0.3": ({}, 0.3),
    "float32, noise 1": ({}, 1.0),
    "float32, noise 3": ({}, 3.0),
    "float32, noise 30": ({}, 30.0),
}


def count(client: str, seed: int) -> dict:
    """What one message is worth to one client."""
    arithmetic, noise = CLIENTS[client]
    batch = gl.data.sample("messages", seed=seed, device="cpu")
    model = gl.models.build("gpt", batch, weights="trained")
    protocol = gl.protocols.ZerothOrder(directions=1, mu=1e-3, law="mezo", seed=seed, **arithmetic)
    found = gl.audit.count_texts(model, protocol, batch)
    if noise:
        added = gl.defenses.get("gaussian_noise", sigma=noise * found.spread)
        found = gl.audit.count_texts(model, gl.defenses.Defended(protocol, added), batch)
    return {"pieces": found.targets, "bits": float(found.surprise.sum()), "secret bits": float(found.secrets.sum()),
            "spread": found.spread, "noise": found.noise, "bits per scalar": found.bits_per_scalar,
            "least": found.least, "decoded": found.decoded}  # fmt: skip


def main() -> None:
    """Count what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=300, help="the first seed")
    options = arguments(parser)
    seeds = range(options.first, options.first + options.seeds)
    cells = [{"client": client, "seed": seed} for seed, client in itertools.product(seeds, CLIENTS)]
    measure("text_bits_cpu", cells, count, {"mu": 1e-3})


if __name__ == "__main__":
    main()
