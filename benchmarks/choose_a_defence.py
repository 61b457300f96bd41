"""What six defences leave of four digits, and of the accuracy: the pictures and numbers behind "Choose a defence".

Five clients with ten 8x8 digits each. Gradient defences: a small convolutional network, 150 rounds at lr 0.3 with one
digit a client and round; the attack is IG with 120 evaluations on single digits of client 0, weights at their start.
Scalar noise: a tanh MLP, 200 rounds of 10 scalars at lr 0.1; the attack is Gauss-Newton on client 0's transcript.
Each is run by an attacker who knows the defence and by one who does not. Finished rows are kept, so that the benchmark
can be stopped and started again.

    python benchmarks/choose_a_defence.py [--seeds 2] [--only noise bits ...]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    choose_a_defence_cpu: python benchmarks/choose_a_defence.py --seeds 1
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time

import torch
from common import Rows, arguments

from glutils.experiments import defended

GRADIENT = defended.Scene(attack="ig", clients=5, images=4, rounds=150, evaluations=120, misled=None, device="cpu")
SCALARS = defended.Scene(attack="zerogla", clients=5, rounds=200, misled=None, device="cpu")
CASES = {
    "noise": (GRADIENT, "gaussian_noise", (1.0, 3.0, 10.0, 30.0, 100.0)),
    "dpsgd": (GRADIENT, "dpsgd", (0.001, 0.003, 0.01, 0.03, 0.1)),
    "topk": (GRADIENT, "topk", (0.1, 0.03, 0.01, 0.003, 0.001)),
    "bits": (GRADIENT, "bits", (8, 6, 4, 3, 2)),
    "soteria": (GRADIENT, "soteria", (0.5, 0.8, 0.9, 0.95, 0.99)),
    "scalars": (SCALARS, "gaussian_noise", (0.03, 0.1, 0.3, 1.0, 3.0)),
}
"""Case to scene, defence and strengths, from weak to strong."""
KEPT = ("attacker", "image", "psnr", "ssim", "accuracy", "epsilon", "tv_weight", "found")
SHOWN = 4


def measure(scene: defended.Scene, name: str | None, strength: float | None, seed: int) -> list[dict]:
    """Rows of one strength with what the page needs; pictures of the first seed only."""
    if name is None:
        scene = dataclasses.replace(scene, misled="permuted")
    rows = defended.measure(scene, name, strength, seed=seed)
    kept = []
    for row in rows:
        short = {key: row[key] for key in KEPT if key in row}
        if seed or row["image"] >= SHOWN:
            del short["found"]
        kept.append(short | {"controls": {who: four["psnr"] for who, four in row["controls"].items()}})
    return kept


def main() -> None:
    """Run what is missing, and write the record every now and then."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--name", default="choose_a_defence_cpu")
    options = arguments(parser)
    parameters = {case: dataclasses.asdict(CASES[case][0]) | {"defence": CASES[case][1]} for case in CASES}
    with Rows(options.name, parameters | {"threads": torch.get_num_threads()}, same=list(CASES)) as rows:
        for seed, case in itertools.product(range(options.seeds), options.only):
            scene, name, strengths = CASES[case]
            for strength in (None, *strengths):
                shared = "noise" if strength is None and scene is GRADIENT else case  # undefended once for all
                cell = {"case": shared, "strength": strength, "seed": seed}
                if cell in rows:
                    continue
                begin = time.perf_counter()
                found = measure(scene, name if strength is not None else None, strength, seed)
                seconds = time.perf_counter() - begin
                rows.add(cell | {"seconds": seconds, "found": found})
                middle = {
                    who: torch.tensor([r["psnr"] for r in found if r["attacker"] == who]).median()
                    for who in ("adaptive", "naive")
                }
                print(shared, strength, seed, f"accuracy {found[0]['accuracy']:.3f}", *(
                    f"{who} {value:.1f}" for who, value in middle.items()
                ), f"{seconds:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
