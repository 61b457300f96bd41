"""Training a decoder on public images, with a checkpoint after every epoch from which a run goes on, byte for byte."""

from __future__ import annotations

import hashlib
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from .... import _device, _files, _validate
from ....data.batch import Batch
from ....solvers.engine import show_progress
from .checkpoint import Checkpoint
from .network import Decoder, backbone_digest, feature_shape, features

HELD_OUT = 16  # one image in so many is kept from training, to see what the decoder does with new ones


@dataclass(frozen=True, eq=False)
class Training:
    """A trained decoder and how it got there.

    Attributes:
        decoder: in ``eval`` mode.
        losses: mean squared error of every step. psnr: of the held-out public images after every epoch, in dB.
        parameters: what the run was asked for.
        stopped: None, or where the run was interrupted; calling :func:`train` again with the same folder goes on.
        folder: where the results lie, if a folder was given.
    """

    decoder: Decoder
    losses: tuple[float, ...]
    psnr: tuple[float, ...]
    parameters: dict[str, Any]
    stopped: str | None = None
    folder: Path | None = None


def folder(exp_name: Any, root: Any = None) -> Path:
    """``<root>/train_generator/<exp_name>``; the root is ``$GLUTILS_DATA``, else ``data`` under the project's root."""
    _validate.file_name("exp_name", exp_name)
    root = root or os.environ.get("GLUTILS_DATA") or _files.own_place("data")
    return Path(root) / "train_generator" / exp_name


def train(
    model: nn.Module,
    public: Any,
    *,
    width: int = 32,
    units: int = 1,
    epochs: int = 8,
    batch_size: int = 16,
    lr: float | int = 2e-3,
    flip: bool = True,
    seed: int = 0,
    device: Any = None,
    folder: Any = None,
    progress: bool | None = None,
) -> Training:
    """Train a :class:`Decoder` to undo the layers of ``model`` before its last one: min mean (G(F(x)) - x)^2.

    Pixels' squared error only, Adam, public images only; the victim's layers are neither trained nor left in another
    mode. The learning rate falls to zero along half a cosine.

    Args:
        model: the victim's network.
        public: a :class:`~glutils.data.Batch` of at least two public images; one in sixteen is held out. Labels are
            not used.
        width, units: size of the decoder.
        epochs, batch_size, lr: of Adam.
        flip: mirror images at random, anew in every epoch.
        seed: of initial weights, order and flips.
        device: where to train; default: where the model is.
        folder: where to leave checkpoint, weights, record, loss curve and samples. A finished run found there is
            returned as it is; an unfinished one is continued.
        progress: True or False; default: a bar in notebooks and terminals, none where ``CI`` is set.

    Returns:
        The training. Ctrl-C ends it; what was reached is returned, and the folder holds the last whole epoch.

    Raises:
        TypeError, ValueError: a bad argument; a folder that holds something else, another experiment, or a damaged
            checkpoint. Nothing there is ever overwritten.

    Deviations from Xue et al.: learning rate 2e-3 with decay instead of 1e-4, and fewer epochs; the backbone runs
    without gradients in the mode that it was given in (the reference code leaves it in train mode, so that its running
    statistics drift).
    """
    _validate.instance("model", model, nn.Module)
    _validate.instance("public", public, Batch)
    _validate.instance("flip", flip, bool)
    if len(public) < 2:
        raise ValueError(f"public must hold at least two images, got {len(public)}")
    device = next(model.parameters()).device if device is None else _device.resolve(device)
    asked = {
        "width": _validate.integer("width", width, at_least=1),
        "units": _validate.integer("units", units, at_least=0),
        "epochs": _validate.integer("epochs", epochs, at_least=1),
        "batch_size": _validate.integer("batch_size", batch_size, at_least=2),
        "lr": _validate.number("lr", lr, above=0),
        "flip": flip,
        "seed": _validate.integer("seed", seed, at_least=0),
        "images": len(public),
        "source": public.source,
        "pixels": hashlib.sha256(public.images.cpu().numpy().tobytes()).hexdigest()[:16],
        "backbone": backbone_digest(model),
    }
    run = _Run(model.to(device), public.to(device), asked)
    checkpoint = None if folder is None else Checkpoint(folder, asked)
    if checkpoint is not None:
        checkpoint.restore(run)
    stopped = None
    steps = asked["epochs"] * run.steps
    with tqdm(
        total=steps, initial=run.epoch * run.steps, desc="decoder", disable=not show_progress(progress), leave=False
    ) as bar:
        try:
            while run.epoch < asked["epochs"]:
                run.one_epoch(bar)
                if checkpoint is not None:
                    checkpoint.keep(run)
        except KeyboardInterrupt:
            stopped = f"interrupted in epoch {run.epoch + 1} of {asked['epochs']}"
    run.decoder.eval()
    if checkpoint is not None and stopped is None:
        checkpoint.finish(run)
    return Training(
        run.decoder, tuple(run.losses), tuple(run.psnr), asked, stopped, None if checkpoint is None else checkpoint.path
    )


class _Run:
    """The state of one training: what a checkpoint has to hold."""

    def __init__(self, model: nn.Module, public: Batch, asked: dict[str, Any]):
        self.model, self.asked = model, asked
        held = max(1, len(public) // HELD_OUT)
        self.images, self.held = public.images[:-held], public.images[-held:]
        self.steps = math.ceil(len(self.images) / asked["batch_size"])
        if len(self.images) % asked["batch_size"] == 1 and self.steps > 1:
            self.steps -= 1  # batch norm has nothing to say about a batch of one
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(asked["seed"])
            shape = feature_shape(model, public.shape)
            decoder = Decoder(
                shape, public.shape, width=asked["width"], units=asked["units"], backbone=asked["backbone"]
            )
        self.decoder = decoder.to(public.images.device)
        self.adam = torch.optim.Adam(self.decoder.parameters(), lr=asked["lr"])
        self.generator = torch.Generator().manual_seed(asked["seed"] + 1)  # order and flips
        self.epoch, self.losses, self.psnr, self.seconds = 0, [], [], 0.0

    def one_epoch(self, bar: tqdm) -> None:
        """One pass over the images; the counters move only when it is complete."""
        begin, losses = time.perf_counter(), []
        self.decoder.train()
        order = torch.randperm(len(self.images), generator=self.generator)
        mirrored = torch.rand(len(self.images), generator=self.generator) < 0.5
        for step, index in enumerate(order.split(self.asked["batch_size"])[: self.steps]):
            done = (self.epoch * self.steps + step) / (self.asked["epochs"] * self.steps)
            for group in self.adam.param_groups:
                group["lr"] = self.asked["lr"] * (1 + math.cos(math.pi * done)) / 2
            images = self.images[index.to(self.images.device)]
            if self.asked["flip"]:
                images = torch.where(mirrored[index].to(images.device)[:, None, None, None], images.flip(3), images)
            loss = (self.decoder(features(self.model, images)) - images).square().mean()
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()
            losses.append(float(loss.detach()))
            bar.update()
        self.decoder.eval()
        wrong = (self.reconstructed() - self.held).square().flatten(1).mean(1)
        self.psnr.append(float(-10 * wrong.double().log10().mean()))
        self.losses += losses
        self.epoch += 1
        self.seconds += time.perf_counter() - begin

    def reconstructed(self, count: int | None = None) -> torch.Tensor:
        """The held-out images, or the first ``count`` of them, through features and decoder."""
        with torch.no_grad():
            return self.decoder(features(self.model, self.held[:count]))
