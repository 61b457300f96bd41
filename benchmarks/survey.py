"""The survey's grid: nine attacks inside rounds of FedAvg, as its code runs them and as they should be run.

Images are dealt to clients by a Dirichlet law (0.5); all clients train; client 0 is attacked from its message of one
round. From one base setting each axis is varied by itself, for the attacks that the survey goes on with there
(``--full``: all attacks, all combinations). Two ways:

- ``"right"``: the mean gradient where an attack reads gradients; local steps simulated as they were taken, in the order
  of the images (the client's own order is private); all of the client's images looked for; RTF's block two-sided.
- ``"survey"``: the bare difference in place of a gradient; one full-batch step an epoch (IG); as many images as a batch
  holds (DLF: all, by counted labels, with its order prior); RTF's block one-sided with gains 1e-3 and 1e3.

``"counted"`` is the right way without being told the labels. iDLG and GGL make one image in any way. A private image is
scored by the found image nearest to it; it is ``recognised`` at 20 dB or more and 3 dB above its mean colour. Control:
a payload of the same norm in a random direction (``"tampered"``). DMGAN plays inside the rounds, on digits. Rows that
are in the record already are kept.

    python benchmarks/survey.py [--seeds 3] [--full]
    python benchmarks/survey.py --record survey_paper --data cifar10 --size 32 --total 40000 --root data \\
        --clients 100 10 1000 --batch 10 50 --epochs 1 2 5 --models cnn resnet18 mlp --rounds 5 --iterations 24000

Record in benchmarks/results (OMP_NUM_THREADS=1):

    survey_cpu: python benchmarks/survey.py --seeds 2
    survey_400_cpu: python benchmarks/survey.py --record survey_400_cpu --data photos --clients 20 --batch 2 \
        --epochs 1 --model convnet --law dirichlet --at 0 --attacks ig dlf cpa rtf ggl dlg idlg grnn --iterations 400 \
        --seeds 10 --players

    survey_later_cpu: python benchmarks/survey.py --record survey_later_cpu --attacks fedleak sme \
        --varied fedleak sme --seeds 8 --players

The first was stopped after 85 of 134 rows, before DMGAN. The second is its base setting again: ten clients, each of a
federation of its own, and five times the steps. The third puts two attacks that the survey does not have beside the
first, with as many gradients.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
from common import arguments, measure
from common.judges import JUDGES, judge, verdicts

import glutils as gl

LR = 0.1
MODELS = {
    "convnet": ("convnet", {}),
    "mlp": ("mlp", {"hidden": (256,), "activation": "relu"}),
    "cnn": ("cnn", {}),
    "resnet18": ("resnet18", {}),
}
"""``cnn`` is the survey's; ``convnet`` a smaller one for processors."""
ATTACKS = ("ig", "dlf", "dlg", "idlg", "grnn", "ggl", "cpa", "rtf")
LATER = {"fedleak": 0.5, "sme": 1.0}
"""Attacks that the survey does not have, and their iterations as multiples; one of FedLeak's takes two gradients."""
TOLD = ("ig", "dlf", *LATER)
"""Attacks that are told the labels in the right way."""
SINGLE = ("idlg", "ggl")
BLOCKS = {
    "right": {"two_sided": True, "gain": 1e-5},
    "survey": {"gain": 1e-3, "strength": 1e3, "connection": "replace"},
}
STEPS = {"ig": 1.0, "dlf": 1.0, "dlg": 0.2, "idlg": 0.2, "grnn": 3.0, "ggl": 4.0, "cpa": 8.0}
"""Iterations of each attack as multiples of ``--iterations``; one of DLG's and iDLG's takes some 25 gradients."""


@functools.cache
def federation(data, size, total, root, clients, batch, epochs, model, law, rounds, seed):
    """Clients, the network before training, and the transcript of some rounds."""
    dealt = gl.data.partition(
        data, clients=clients, per_client=total // clients, law=law, min_samples=min(4, total // clients), size=size,
        seed=seed, root=root, device="cpu",
    )  # fmt: skip
    name, options = MODELS[model]
    network = gl.models.build(name, dealt[0], seed=seed, **options)
    protocol = gl.protocols.FedAvg(epochs=epochs, batch_size=batch, lr=LR, shuffle=seed)
    public = gl.data.public(dealt[0], count=400, root=root)
    run = gl.federation.train(protocol, network, dealt, rounds=rounds, test=public, seed=seed, progress=False)
    return dealt, network, run, public


@functools.cache
def generator(data, size, root):
    """Principal components of public images, a small generator for GGL."""
    public = gl.data.public(gl.data.sample(data, size=size, count=1, root=root, device="cpu"), count=400, root=root)
    return gl.latent.PCA.fit(public, 32)


def observe(way, attack, dealt, network, run, public, at, seed) -> gl.Observation:
    """The message of client 0 in round ``at``; for RTF of a network with the block that the server sends anew."""
    knows = {"labels"} if attack in TOLD and way == "right" else set()
    if attack != "rtf":
        return gl.observe(run, client=0, rounds=[at], knows=knows)
    network.load_state_dict(network.state_dict() | {name: p.clone() for name, p in run.states[at].items()})
    trap = gl.imprint.imprint(network, public, bins=8 * len(dealt[0]), seed=seed, **BLOCKS[way])
    protocol = gl.protocols.FedAvg(run.of(0)[0].protocol.epochs, run.of(0)[0].protocol.batch_size, LR, shuffle=seed)
    with torch.no_grad():
        payload = protocol.transmit(trap, dealt[0].images, dealt[0].labels)
    return gl.observe(trap, protocol, payload, dealt[0])


def prepare(way: str, attack: str, seen: gl.Observation) -> tuple[gl.Observation, dict]:
    """What the attack is given, and the options of this way."""
    how = {}
    if attack in ("dlg", "idlg", "grnn", "ggl"):
        target = gl.observation.as_gradient(seen, scaled=way != "survey")
    else:
        target = seen
    if way == "survey" and attack == "ig":
        how = {"local": "epochs"}
    if way == "survey" and attack == "dlf":
        ties = seen.protocol.epochs > 1 and seen.shape[0] % seen.protocol.epochs == 0
        how = {"simulator": "full", "order": "survey" if ties else "max"}
    if way != "right" and attack in TOLD:
        told = gl.labels.infer("dlf", seen, class_agnostic=way == "survey").labels
        target = replace(target, labels=told, knows=target.knows | {"labels"})
    asked = 1 if attack in SINGLE else seen.shape[0]
    if way == "survey" and attack in ("ig", "dlg", "grnn", "cpa", *LATER):
        asked = min(asked, seen.protocol.batch_size)
    if asked < seen.shape[0]:
        labels = None if target.labels is None else target.labels[:asked]
        target = replace(target, shape=(asked, *seen.shape[1:]), labels=labels)
    return target, how


def attack_client(
    attack: str, way: str, tampered: str, seed: int, clients: int, batch: int, epochs: int, model: str, law: str,
    at: int, data: str, size: int, total: int, root: str | None, rounds: int, iterations: int,
) -> dict:  # fmt: skip
    """One attack on one message."""
    about = {"data": data, "size": size, "total": total, "root": root, "rounds": rounds}
    dealt, network, run, public = federation(
        clients=clients, batch=batch, epochs=epochs, model=model, law=law, seed=seed, **about
    )
    seen = observe(way, attack, dealt, network, run, public, at, seed)
    steps = gl.observation.local_steps(seen)
    if tampered != "none":
        seen = gl.tamper(seen, tampered, seed=seed)
    target, how = prepare(way, attack, seen)
    if (times := (STEPS | LATER).get(attack)) is not None:
        how |= {"iterations": max(1, int(iterations * times)), "progress": False}
    if attack in ("dlg", "idlg"):
        how["restarts"] = 1
    if attack == "ggl":
        how["prior"] = generator(data, size, root)
    found = gl.attack(attack, target, seed=seed, **how).images.float()
    return {"images": len(dealt[0]), "steps": steps, "asked": len(found)} | scores(found, dealt[0].images)


def scores(found: torch.Tensor, private: torch.Tensor) -> dict:
    """Of every private image the nearest found one: median and best PSNR, share recognised, mean |correlation|."""
    mean = gl.metrics.psnr(private.mean((2, 3), keepdim=True).expand_as(private), private)
    psnr = gl.metrics.psnr(gl.metrics.pixels.nearest(found.clamp(0, 1), private).float(), private)
    alike = gl.metrics.mixed.correlations(found, private).abs().amax(0)
    return {
        "psnr": float(psnr.median()), "best": float(psnr.max()), "mean colour": float(mean.median()),
        "recognised": float(((psnr >= 20) & (psnr >= mean + 3)).double().mean()), "correlation": float(alike.mean()),
    }  # fmt: skip


def play(seed: int, clients: int, epochs: int, batch: int, per_client: int, rounds: int) -> dict:
    """DMGAN on digits of class ``seed`` modulo 10, judged by two classifiers that took no part."""
    public, label = gl.data.public("digits", device="cpu"), seed % 10
    judges = {kind: judge(kind, public) for kind in JUDGES}
    dealt = gl.data.partition("digits", clients=clients, per_client=per_client, seed=seed, device="cpu")
    dealt[0] = gl.attacks.without_class(dealt[0], label)
    protocol = gl.protocols.FedAvg(epochs=epochs, batch_size=batch, lr=LR)
    how = {"tracked": label, "rounds": rounds, "samples": 50, "protocol": protocol, "seed": seed, "progress": False}
    result = gl.attacks.dmgan(dealt, **how)
    accuracy = result.diagnostics[f"accuracy, round {rounds}"]
    return {"accuracy": accuracy} | verdicts(judges, result.images, label, public)


def settings(options: argparse.Namespace) -> Iterator[dict]:
    """The base setting, then each axis by itself; or all combinations."""
    axes = {name: getattr(options, name) for name in ("epochs", "clients", "model", "batch", "at", "law", "data")}
    if options.full:
        yield from (dict(zip(axes, choice, strict=True)) for choice in itertools.product(*axes.values()))
        return
    base = {name: values[0] for name, values in axes.items()}
    yield base
    for name, values in axes.items():
        yield from (base | {name: value} for value in values[1:])


def cells(options: argparse.Namespace) -> Iterator[dict]:
    """Attacks by setting, seed by seed: the right way everywhere, the others and the control where they tell most."""
    fixed = {name: getattr(options, name) for name in ("total", "root", "rounds", "iterations")}
    for seed in range(options.seeds):
        for number, setting in enumerate(settings(options)):
            about = setting | fixed | {"seed": seed, "size": 8 if setting["data"] == "digits" else options.size}
            for attack in options.attacks if number == 0 or options.full else options.varied:
                own = about | {"model": "mlp"} if attack == "cpa" else about
                if attack == "cpa" and setting["model"] == "mlp":
                    continue
                ways = ["right", "survey"] if number == 0 or setting["epochs"] != options.epochs[0] else ["right"]
                ways += ["counted"] * (attack in TOLD and len(ways) > 1)
                yield from (own | {"attack": attack, "way": way, "tampered": "none"} for way in ways)
                if number == 0:
                    yield own | {"attack": attack, "way": "right", "tampered": "wrong_gradient"}


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", default="survey_cpu")
    parser.add_argument("--data", nargs="+", default=["photos", "digits"])
    parser.add_argument("--size", type=int, default=16, help="side of the images (digits: 8)")
    parser.add_argument("--root", help="folder of an external set")
    parser.add_argument("--total", type=int, default=100, help="images of all clients together")
    parser.add_argument("--clients", type=int, nargs="+", default=[20, 5])
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--model", "--models", nargs="+", default=["convnet", "mlp"], choices=MODELS)
    parser.add_argument("--law", nargs="+", default=["dirichlet", "iid"])
    parser.add_argument("--at", type=int, nargs="+", default=[0, 4], help="rounds in which the client is attacked")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=[*ATTACKS, *LATER])
    parser.add_argument("--varied", nargs="+", default=["ig", "dlf", "ggl", "cpa", "rtf"], help="beyond the base")
    parser.add_argument("--iterations", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="all combinations")
    parser.add_argument("--players", type=int, nargs="*", default=[5, 20], help="clients of DMGAN's federations")
    options = arguments(parser)
    later = {name: times for name, times in LATER.items() if name in options.attacks}
    measure(options.record, cells(options), attack_client, {"lr": LR, "steps": STEPS | later})
    games = [
        {"clients": clients, "per_client": 1000 // clients, "epochs": 2, "batch": 10, "rounds": 5, "seed": seed}
        for seed in range(options.seeds)
        for clients in options.players
    ]
    measure(f"{options.record}_dmgan", games, play, {"lr": LR})


if __name__ == "__main__":
    main()
