"""Small measurements for the claims page: what sentences of the sources say, on digits and small photographs.

Each function makes the rows of one measurement with one seed. Rows that are in the record already are kept.

    python benchmarks/claims.py [--only batch_size noise ...] [--again noise] [--seeds 3]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    claims_cpu: python benchmarks/claims.py --seeds 5
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from common.sentences import DLG, FED, FOUND, Measures, attack, collector, digits, main

import glutils as gl

MEASURES: Measures = {}
measure = collector(MEASURES)


@measure
def batch_size(seed: int) -> Iterator[dict]:
    """DLG on 1, 2, 4 and 8 digits at once."""
    for count in (1, 2, 4, 8):
        batch = digits(count, seed)
        yield {"case": count} | attack(
            "dlg", gl.models.build("lenet", batch, seed=seed), batch, knows=(), seed=seed, **DLG
        )


@measure
def initialisation(seed: int) -> Iterator[dict]:
    """DLG and iDLG where the network starts as in the paper, and as PyTorch would start it."""
    batch = digits(1, seed)
    for start in ("wide", "default"):
        model = gl.models.build("lenet", batch, seed=seed)
        if start == "default":
            torch.manual_seed(seed)
            [layer.reset_parameters() for layer in model if hasattr(layer, "reset_parameters")]
        for name in ("dlg", "idlg"):
            yield {"case": f"{name}, {start}"} | attack(name, model, batch, knows=(), seed=seed, **DLG)


@measure
def noise(seed: int) -> Iterator[dict]:
    """DLG against Gaussian noise on the gradient."""
    batch = digits(1, seed)
    model = gl.models.build("lenet", batch, seed=seed)
    for sigma in (0.0, 1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0):
        protocol = gl.defenses.Defended(FED, gl.defenses.get("gaussian_noise", sigma=sigma)) if sigma else FED
        yield {"case": sigma} | attack("dlg", model, batch, protocol, knows=(), seed=seed, **DLG)


@measure
def compression(seed: int) -> Iterator[dict]:
    """DLG against a gradient of which only the largest entries are sent."""
    batch = digits(1, seed)
    model = gl.models.build("lenet", batch, seed=seed)
    for keep in (1.0, 0.5, 0.3, 0.1, 0.01):
        protocol = gl.defenses.Defended(FED, gl.defenses.get("topk", keep=keep)) if keep < 1 else FED
        yield {"case": keep} | attack("dlg", model, batch, protocol, knows=(), seed=seed, **DLG)


@measure
def solvers(seed: int) -> Iterator[dict]:
    """The three variants of DLG at their own defaults, on one digit."""
    batch = digits(1, seed)
    model = gl.models.build("lenet", batch, seed=seed)
    for name, how in (("dlg", DLG), ("dlg_adam", {"iterations": 1000}), ("dlg_cosine", {"iterations": 1000})):
        yield {"case": name} | attack(name, model, batch, knows=(), seed=seed, **how | {"progress": False})


@measure
def local_training(seed: int) -> Iterator[dict]:
    """IG, which simulates local training, against attacks on its average, by images, batches and epochs."""
    for images, size, epochs, lr in (
        (4, 4, 1, 0.1),
        (4, 2, 1, 0.1),
        (4, 2, 5, 0.1),
        (8, 2, 1, 0.1),
        (8, 4, 1, 0.1),
        (4, 2, 5, 0.004),
    ):
        batch = gl.data.sample("photos", count=images, size=12, seed=seed, device="cpu")
        model = gl.models.build("convnet", batch, seed=seed, channels=(8, 16), hidden=64)
        protocol = gl.protocols.FedAvg(epochs=epochs, batch_size=size, lr=lr)
        case = f"{images} images, batches of {size}, {epochs} epochs, lr {lr}"
        how = {"seed": seed, "iterations": 150, "progress": False}
        yield {"case": case, "attack": "ig"} | attack("ig", model, batch, protocol, **how)
        for name in ("ig", "dlg_adam"):
            row = attack(name, model, batch, protocol, transform=gl.observation.as_gradient, **how)
            yield {"case": case, "attack": f"{name} on the average"} | row


@measure
def image_size(seed: int) -> Iterator[dict]:
    """IG with one budget on larger and larger photographs."""
    for size in (12, 24, 48):
        batch = gl.data.sample("photos", size=size, seed=seed, device="cpu")
        model = gl.models.build("convnet", batch, seed=seed, channels=(8, 16), hidden=64)
        yield {"case": size} | attack("ig", model, batch, seed=seed, iterations=200, progress=False)


@measure
def imprint(seed: int) -> Iterator[dict]:
    """RTF by batch size, local epochs, and the equal columns that its subtraction needs."""
    public = gl.data.public("photos", count=200, size=12, seed=seed, device="cpu")
    for images, epochs, equal in ((8, 0, True), (8, 0, False), (32, 0, True), (8, 1, True), (8, 5, True)):
        batch = gl.data.sample("photos", count=images, size=12, seed=seed, device="cpu")
        model = gl.models.build("convnet", batch, seed=seed)
        model = gl.imprint.imprint(model, public, bins=128, equal=equal, seed=seed)
        protocol = gl.protocols.FedAvg(epochs=epochs, batch_size=images, lr=1e-3) if epochs else FED
        seen = gl.observe(
            model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows={"labels"}
        )
        score = gl.score(gl.attack("rtf", seen), batch)
        case = f"{images} images, {epochs or 'no local'} epochs, {'equal' if equal else 'random'} columns"
        yield {"case": case, "psnr": score.mean_psnr, "found": float((score.psnr > FOUND).double().mean())}


@measure
def training(seed: int) -> Iterator[dict]:
    """Accuracy after federated training, with and without RTF's block, and of the networks of this book."""
    clients = gl.data.partition("digits", clients=3, per_client=60, seed=seed, device="cpu")
    public = gl.data.public("digits", count=200, seed=seed, device="cpu")
    protocol = gl.protocols.FedAvg(epochs=1, batch_size=10, lr=0.1)
    for name in ("convnet", "mlp"):
        model = gl.models.build(name, clients[0], seed=seed)
        variants = {name: model}
        if name == "convnet":
            variants |= {
                "convnet, block added": gl.imprint.imprint(model, public, bins=16, seed=seed),
                "convnet, block in front": gl.imprint.imprint(model, public, bins=16, connection="replace", seed=seed),
            }
        for title, network in variants.items():
            accuracy = gl.federation.train(protocol, network, clients, rounds=15, seed=seed, progress=False).accuracy
            yield {"case": title, "accuracy": float(accuracy[-1])}


@measure
def label_rules(seed: int) -> Iterator[dict]:
    """Share of labels that rules account for: distinct and repeated labels, untrained and trained networks."""
    pool = gl.data.sample("digits", count=200, seed=seed, device="cpu")
    one = int(pool.labels[0])
    same = [i for i in range(200) if int(pool.labels[i]) == one][:8]
    others = [i for i in range(200) if int(pool.labels[i]) != one][: 16 - len(same)]
    batches = {"distinct": digits(8, seed), "half of one class": pool[same + others]}
    models = {
        "untrained": gl.models.build("convnet", pool, seed=seed),
        "trained": gl.models.build("convnet", pool, seed=seed),
    }
    protocol = gl.protocols.FedAvg(lr=0.1)
    run = gl.federation.train(protocol, models["trained"], [pool], rounds=8, seed=seed, progress=False)
    models["trained"].load_state_dict(run.states[-1])
    public = gl.data.public("digits", count=200, seed=seed, device="cpu")
    for state, model in models.items():
        for case, batch in batches.items():
            seen = gl.observe(
                model, FED, FED.transmit(model, batch.images, batch.labels), batch, knows={"public"}, public=public
            )
            for rule in ("zero_shot", "alr", "geng", "llg", "ilrg", "rlu", "bias_corrected"):
                try:
                    accuracy = gl.metrics.count_accuracy(gl.labels.infer(rule, seen), batch)
                except ValueError:
                    continue
                yield {"case": f"{rule}, {state}, {case}", "accuracy": accuracy}


@measure
def unmixing(seed: int) -> Iterator[dict]:
    """CPA on the gradient of a batch, and on the sum of several local steps."""
    for images in (4, 8):
        batch = gl.data.sample("photos", count=images, size=16, seed=seed, device="cpu")
        model = gl.models.build("mlp", batch, seed=seed, hidden=(256,), activation="relu")
        for case, protocol in (
            ("gradient", FED),
            ("four local steps", gl.protocols.FedAvg(batch_size=images // 4, lr=0.1)),
        ):
            seen = gl.observe(
                model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows={"labels"}
            )
            result = gl.attack("cpa", seen, seed=seed, iterations=2000, progress=False)
            found = gl.metrics.correlation(result.images, batch.images)
            yield {"case": f"{images} images, {case}", "correlation": float(found.abs().mean())}


if __name__ == "__main__":
    main(MEASURES, "claims_cpu", __doc__)
