"""The Cocktail Party Attack on large batches: 16 to 128 photographs behind one layer of 256 neurons.

The gradient of a batch through a network of one hidden layer with a ReLU. For every photograph the absolute correlation
with the image matched to it. Beside CPA: FastICA, which does not know what an image is; the division, as many rows as
there are photographs, the loudest first; CPA on a spoiled gradient. An image counts as taken apart above 0.9. Rows that
are in the record already are kept.

    python benchmarks/cpa_large.py [--seeds 5]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    cpa_large_cpu: python benchmarks/cpa_large.py
"""

from __future__ import annotations

from common import measure, seeds

import glutils as gl

SIZES, NEURONS, SIZE = (16, 32, 64, 128), 256, 16
FED = gl.protocols.FedSGD()
ATTACKS = {
    "CPA": ("cpa", {}),
    "FastICA": ("cpa", {"solver": "fastica", "iterations": 300}),
    "the division": ("fc_inversion", {}),
    "CPA, wrong gradient": ("cpa", {}),
}


def read(photos: int, attack: str, seed: int) -> dict:
    """One batch, one attack."""
    batch = gl.data.sample("photos", size=SIZE, count=photos, seed=seed, device="cpu")
    model = gl.models.build("mlp", batch, hidden=(NEURONS,), activation="relu", seed=seed)
    seen = gl.observe(model, FED, FED.transmit(model, batch.images, batch.labels), batch)
    if attack.endswith("wrong gradient"):
        seen = gl.tamper(seen, "wrong_gradient", seed=seed)
    name, how = ATTACKS[attack]
    found = gl.attack(name, seen, seed=seed, **how)
    alike = gl.metrics.correlation(found.images.float(), batch.images)
    about = {"correlation": float(alike.mean()), "apart": int((alike > 0.9).sum()), "images": len(found.images)}
    return about | {"sources": found.diagnostics.get("sources")}


def main() -> None:
    """Measure what is missing."""
    cells = [
        {"photos": photos, "attack": attack, "seed": seed}
        for seed in seeds(__doc__, 5)
        for photos in SIZES
        for attack in ATTACKS
    ]
    measure("cpa_large_cpu", cells, read, {"neurons": NEURONS, "size": SIZE})


if __name__ == "__main__":
    main()
