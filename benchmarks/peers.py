"""IG beside the code of others: ours, breaching, the original repository and LeakPro, on the same gradients in one run.

None of their code is here, or comes with this book. To repeat the measurement, get them yourself: the package
"breaching" (0.1.2 as published; it needs "hydra-core"); a checkout of Jonas Geiping's repository "invertinggradients",
whose package is "inversefed" (commit 1157b61); and one of the repository "LeakPro" of aidotse (commit c47752f; its
attack needs optuna, pydantic, pandas, seaborn, transformers, numba and pytorch-ignite). Give the folders that hold the
packages, unless they are installed; "--codes" leaves some out. All ran with today's PyTorch as they are: nothing in
them was changed. From outside, only two things are done to them: each is handed the same starting image, and the images
of every tenth iteration are looked at, with the clock stopped. What they print and log is silenced.

Setting "same": one start, one weight of the total variation (ours), step 0.1, the same iterations; all but LeakPro
step by signs, which it cannot. Setting "own": what each code does by itself, with as many iterations; the starts are
then its own, and so is the weight (0.01 ours, 0.2 breaching, 0.1 the original, a millionth LeakPro). breaching and
LeakPro give the image with their lowest loss, the others the last one. (What LeakPro itself calls its result is chosen
by likeness to the private image, which no attacker has. It is given a first one to begin with, since without it the
code ends in an error where no image is alike.) LeakPro takes the private images and makes the gradient from
them; that it is ours is checked. CPU seconds count, on one thread; the codes take turns, and who begins changes from
image to image.

    python benchmarks/peers.py [--folders FOLDER ...] [--codes ours ...] [--images 5] [--iterations 200]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    peers_cpu: python benchmarks/peers.py --folders ../breaching ../invertinggradients ../LeakPro
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import torch
from common import Rows, arguments
from common.resume import say

import glutils as gl

OURS, BREACHING, ORIGINAL, LEAKPRO = "ours", "breaching", "original", "LeakPro"
NEEDED = {BREACHING: "breaching", ORIGINAL: "inversefed", LEAKPRO: "leakpro"}
NETWORKS = {"same": ("convnet", "lenet"), "own": ("convnet",)}
SIDE, CONTENT, TV, EVERY = 32, 18, 1e-2, 10
PIXELS = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
"""Mean and deviation by which pixels are normalised: not at all."""


class Watch:
    """CPU seconds of an attack, without those of looking at its images: (iteration, seconds, PSNR)."""

    def __init__(self, truth: torch.Tensor):
        self.truth, self.curve, self.number, self.looking = truth, [], 0, 0.0
        self.begin = time.process_time()

    def note(self, images: torch.Tensor) -> None:
        """The images before an iteration."""
        now = time.process_time()
        if self.number % EVERY == 0:
            psnr = float(gl.metrics.psnr(images.detach().clamp(0, 1), self.truth)[0])
            self.curve.append((self.number, now - self.begin - self.looking, psnr))
        self.number += 1
        self.looking += time.process_time() - now

    def seconds(self) -> float:
        """So far."""
        return time.process_time() - self.begin - self.looking


def ours(seen: gl.Observation, start, iterations: int, watch: Watch, same: bool) -> torch.Tensor:
    """IG of this book; its start is the one that all have in the setting "same"."""
    report = gl.solvers.Trace.report

    def noted(trace, step, loss, variables):
        watch.note(variables[0])
        return report(trace, step, loss, variables)

    gl.solvers.Trace.report = noted
    try:
        return gl.attack("ig", seen, iterations=iterations, seed=start.seed, progress=False).images
    finally:
        gl.solvers.Trace.report = report


def breaching_ig(seen: gl.Observation, start, iterations: int, watch: Watch, same: bool) -> torch.Tensor:
    """The attack "invertinggradients" of breaching."""
    import breaching

    settings = breaching.get_attack_config("invertinggradients")
    settings.optim.max_iterations = settings.optim.callback = iterations
    if same:
        settings.regularization.total_variation.scale = TV
    setup = {"device": torch.device("cpu"), "dtype": torch.float}
    attacker = breaching.attacks.prepare_attack(seen.model, torch.nn.CrossEntropyLoss(), settings, setup)
    inner = attacker._compute_objective

    def noted(candidate, *rest):
        watch.note(candidate)
        return inner(candidate, *rest)

    attacker._compute_objective = noted
    about = SimpleNamespace(shape=tuple(seen.shape[1:]), modality="vision")
    served = {"parameters": list(seen.model.parameters()), "buffers": list(seen.model.buffers()), "metadata": about}
    facts = {"num_data_points": seen.shape[0], "labels": seen.labels, "local_hyperparams": None}
    shared = {"gradients": list(seen.payload.values()), "buffers": None, "metadata": facts}
    first = start.images if same else None
    return attacker.reconstruct([served], [shared], {}, initial_data=first)[0]["data"]


def original_ig(seen: gl.Observation, start, iterations: int, watch: Watch, same: bool) -> torch.Tensor:
    """The reconstructor of the original repository, on signs as in the paper."""
    import inversefed

    settings = dict(inversefed.reconstruction_algorithms.DEFAULT_CONFIG) | {"signed": True}
    settings |= {"max_iterations": iterations} | ({"total_variation": TV} if same else {})
    attacker = inversefed.GradientReconstructor(seen.model, PIXELS, settings, num_images=seen.shape[0])
    inner = attacker._gradient_closure

    def noted(optimiser, images, *rest):
        watch.note(images)
        return inner(optimiser, images, *rest)

    attacker._gradient_closure = noted
    if same:
        attacker._init_images = lambda shape: start.images[None].clone()
    return attacker.reconstruct(list(seen.payload.values()), seen.labels, tuple(seen.shape[1:]))[0]


def leakpro_ig(seen: gl.Observation, start, iterations: int, watch: Watch, same: bool) -> torch.Tensor:
    """The attack InvertingGradients of LeakPro."""
    from leakpro.attacks.gia_attacks.invertinggradients import InvertingConfig, InvertingGradients
    from leakpro.fl_utils.gia_train import train_nostep
    from torch.utils.data import DataLoader, TensorDataset

    settings = InvertingConfig(at_iterations=iterations, **({"tv_reg": TV} if same else {}))
    loader = DataLoader(TensorDataset(watch.truth, seen.labels), batch_size=seen.shape[0])
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # it makes a folder where it stands
        attacker = InvertingGradients(seen.model, loader, *PIXELS, train_fn=train_nostep, configs=settings)
    attacker.prepare_attack()
    for mine, theirs in zip(seen.payload.values(), attacker.client_gradient, strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-6)
    if same:
        attacker.reconstruction.data.copy_(start.images)
    inner = attacker.gradient_closure

    def noted(optimiser):
        watch.note(attacker.reconstruction)
        return inner(optimiser)

    attacker.gradient_closure = noted
    attacker.final_best = attacker.reconstruction_loader  # else missing where no image is like the private one
    for _ in attacker.run_attack():
        pass
    return attacker.best_reconstruction.dataset.reconstruction


CODES = {OURS: ours, BREACHING: breaching_ig, ORIGINAL: original_ig, LEAKPRO: leakpro_ig}


def case(setting: str, network: str, image: int, iterations: int, names: list[str]) -> list[dict]:
    """A row for each code on one image."""
    batch = gl.data.sample("photos", size=SIDE, seed=image, content=CONTENT, device="cpu")
    model = gl.models.build(network, batch, seed=image)
    protocol = gl.protocols.FedSGD()
    payload = protocol.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
    generator = torch.Generator().manual_seed(image * 1_000_003)  # as the attack draws it
    first = (0.5 + 0.25 * torch.randn(batch.images.shape, generator=generator)).clamp(0, 1)
    start, rows, turn = SimpleNamespace(seed=image, images=first), [], image % len(names)
    for name in names[turn:] + names[:turn]:
        for steps in (3, iterations):  # the first warms up
            torch.manual_seed(image)  # theirs draw their starts from it
            watch = Watch(batch.images)
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # theirs, about the future
                found = CODES[name](seen, start, steps, watch, setting == "same")
            spent = watch.seconds()
            if watch.number < steps:
                raise ArithmeticError(f"{name} ended after {watch.number} of {steps} iterations")
        row = {"setting": setting, "network": network, "seed": image, "code": name, "CPU seconds": spent}
        row |= {"CPU ms an iteration": 1e3 * spent / iterations, "curve": watch.curve}
        flat = batch.images.mean((2, 3), keepdim=True).expand_as(batch.images)
        for key, images in (("PSNR", found), ("mean colour", flat)):
            row[key] = float(gl.metrics.psnr(images.detach().clamp(0, 1), batch.images)[0])
        rows.append(row)
    return rows


def version(name: str) -> str:
    """Version of a package, or commit of the checkout that it comes from."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    folder = Path(str(sys.modules[name].__file__)).parent
    asked = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True)
    return f"commit {done.stdout.strip()}" if done.returncode == 0 else "not known"


def main() -> None:
    """Compare what is not in the record yet."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folders", nargs="*", default=[], help="that hold breaching, inversefed and leakpro")
    parser.add_argument("--codes", nargs="+", default=list(CODES), choices=CODES)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=200)
    options = arguments(parser)
    home = Path(__file__).resolve().parent  # whose transformers.py would hide the package of that name
    sys.path[:] = [*(str(Path(folder).resolve()) for folder in options.folders),
                   *(path for path in sys.path if Path(path).resolve() != home)]  # fmt: skip
    needed = {code: name for code, name in NEEDED.items() if code in options.codes}
    _ = gl.data, gl.models  # what LeakPro imports of torchvision needs what these do to it first
    for code, name in needed.items():
        try:
            importlib.import_module(name)
        except ImportError as error:
            parser.exit(2, f"{parser.prog}: {code} needs the package {name!r} ({error}); how to get it is said in the "
                           "first lines of this script\n")  # fmt: skip
    logging.disable(logging.CRITICAL)  # LeakPro reports every step
    settings = {"iterations": options.iterations, "side": SIDE, "tv_weight": TV, "threads": 1}
    settings |= {code: version(name) for code, name in needed.items()}
    with Rows("peers_cpu", settings) as rows:
        for image in range(options.images):
            for setting, network in ((s, n) for s, names in NETWORKS.items() for n in names):
                if {"setting": setting, "network": network, "seed": image} not in rows:
                    new = case(setting, network, image, options.iterations, options.codes)
                    rows.add(*new)
                    for row in new:
                        say({key: value for key, value in row.items() if key != "curve"})


if __name__ == "__main__":
    main()
