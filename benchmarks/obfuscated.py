"""ROG beside IG where messages are coarse or sparse: digits, each behind one rounded, signed or sparse gradient.

Both simulate the defence, and take as many gradients. ROG knows public digits besides; so the mean public image of the
right class and the nearest public image stand beside it, and ROG on a message of the same size that was spoiled.
Settings of ROG were chosen on other digits.

    python benchmarks/obfuscated.py [--seeds 48] [--iterations 200]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    obfuscated_cpu: python benchmarks/obfuscated.py
"""

from __future__ import annotations

import argparse

from common import arguments, measure

import glutils as gl
from glutils.defenses import Defended, get

DEFENSES = {
    "sign": ("sign", {}),
    "sign and size": ("sign", {"scaled": True}),
    "2 bits": ("bits", {"bits": 2}),
    "4 bits": ("bits", {"bits": 4}),
    "largest 1 %": ("topk", {"keep": 0.01}),
    "largest 0.3 %": ("topk", {"keep": 0.003}),
}
ATTACKS = ("IG", "ROG", "ROG, wrong message")
FIRST = 100
"""First of the seeds; those below were used to choose settings."""


def attack(seed: int, defence: str, attack: str, iterations: int) -> dict:
    """One attack on one digit, with the controls of one who knows public digits."""
    batch = gl.data.sample("digits", size=8, count=1, seed=seed, device="cpu")
    model, public = gl.models.build("mlp", batch, seed=seed), gl.data.public(batch, count=400, seed=seed)
    name, strength = DEFENSES[defence]
    protocol = Defended(gl.protocols.FedSGD(), get(name, **strength), private=seed)
    payload = protocol.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, protocol, payload, batch, knows={"labels", "public"}, public=public)
    if attack.endswith("wrong message"):
        seen = gl.tamper(seen, "wrong_gradient", seed=seed)
    found = gl.attack(attack.split(",")[0].lower(), seen, seed=seed, iterations=iterations, progress=False)
    score = gl.score(found, batch, public=public)
    controls = {title.replace("_", " "): float(values.mean()) for title, values in score.controls.items()}
    return {"psnr": score.mean_psnr, "ssim": float(score.ssim.mean()), "evaluations": found.evaluations} | controls


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=48)
    parser.add_argument("--iterations", type=int, default=200)
    options = arguments(parser)
    cells = [
        {"seed": seed, "defence": defence, "attack": name, "iterations": options.iterations}
        for seed in range(FIRST, FIRST + options.seeds)
        for defence in DEFENSES
        for name in ATTACKS
    ]
    measure("obfuscated_cpu", cells, attack, {"size": 8, "network": "mlp", "public": 400})


if __name__ == "__main__":
    main()
