"""What a training leaves on disk: a checkpoint an epoch, then weights, record, loss curve and samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from .... import _files, _png
from ...._checkpoint import RunFolder, generator_state, set_generator_state

FORMAT = "glutils decoder training 1"
STATE, WEIGHTS, RECORD = "state.json", "weights.safetensors", "record.json"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Checkpoint(RunFolder):
    """One training's folder: ``state.json``, and the decoder and its optimiser after the last whole epoch."""

    FORMAT, INDEX, ASKED, ARGUMENT = FORMAT, STATE, "parameters", "folder"

    def __init__(self, folder: Any, asked: dict[str, Any]):
        """Reads the checkpoint if there is one; ``ValueError`` if the folder holds anything but this training."""
        super().__init__(folder, asked)
        if self.found is not None:
            self._tensors = self.read_tensors(self.found["file"], self.found["sha256"])

    def unpack(self, written: Any) -> dict[str, Any]:
        return written | {"file": str(written["file"]), "sha256": str(written["sha256"])}

    def restore(self, run: Any) -> None:
        """Set ``run`` to where the checkpoint was written, if there is one."""
        if self.found is None:
            self.keep(run)  # so that there is something to go on from, however early a run is interrupted
            return
        state, tensors = self.found, self._tensors
        try:
            run.decoder.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("decoder.")})
            if state["epoch"] > 0:
                names = [name for name, _ in run.decoder.named_parameters()]
                moments = {i: {m: tensors[f"adam.{n}.{m}"] for m in MOMENTS} for i, n in enumerate(names)}
                run.adam.load_state_dict({"state": moments, "param_groups": run.adam.state_dict()["param_groups"]})
            set_generator_state(run.generator, state["generator"])
            run.epoch, run.seconds = int(state["epoch"]), float(state["seconds"])
            run.losses, run.psnr = list(state["losses"]), list(state["psnr"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise self.damaged(STATE, error) from error

    def keep(self, run: Any) -> None:
        """Write the state of ``run``. The new file is complete before ``state.json`` names it and the old one goes."""
        tensors = {f"decoder.{name}": tensor for name, tensor in run.decoder.state_dict().items()}
        for name, parameter in run.decoder.named_parameters():
            for moment, value in run.adam.state.get(parameter, {}).items():
                tensors[f"adam.{name}.{moment}"] = value
        before = None if self.found is None else self.found["file"]
        file, digest = self.write_tensors(f"epoch-{run.epoch:04d}.safetensors", tensors)
        self.found = {
            "format": FORMAT,
            "epoch": run.epoch,
            "file": file,
            "sha256": digest,
            "parameters": self.asked,
            "generator": generator_state(run.generator),
            "losses": run.losses,
            "psnr": run.psnr,
            "seconds": run.seconds,
        }
        self.write_index(self.found, indent=1)
        if before not in (None, file):
            (self.path / before).unlink(missing_ok=True)

    def finish(self, run: Any) -> None:
        """Weights, record and pictures, each only where it is not there already."""
        if not (self.path / WEIGHTS).exists():
            run.decoder.save(self.path / WEIGHTS)
        if not (self.path / RECORD).exists():
            record = {
                "parameters": self.asked,
                "decoder": run.decoder.about(),
                "psnr": run.psnr,
                "losses": run.losses,
                "seconds": run.seconds,
                "device": str(run.images.device),
                "torch": torch.__version__,
            }
            _files.write(self.path / RECORD, json.dumps(record, indent=1) + "\n")
        if not (self.path / "loss.png").exists():
            _loss_curve(self.path / "loss.png", run.losses)
        if not (self.path / "samples.png").exists():
            _samples(self.path / "samples.png", run.held[:8], run.reconstructed(8))


def _loss_curve(path: Path, losses: list[float]) -> None:
    from matplotlib.figure import Figure

    fig = Figure(figsize=(5, 3), layout="constrained")
    axes = fig.add_subplot(xlabel="step", ylabel="mean squared error", yscale="log")
    axes.plot(range(1, len(losses) + 1), losses)
    fig.savefig(path, dpi=120, metadata={"Software": None})


def _samples(path: Path, truth: torch.Tensor, found: torch.Tensor) -> None:
    """Held-out images above, what the decoder makes of their features below, enlarged without smoothing."""
    rows = [torch.cat(list(images.cpu()), 2) for images in (truth, found)]
    times = max(1, 64 // truth.shape[3])
    _files.write(path, _png.encode(torch.cat(rows, 1).repeat_interleave(times, 1).repeat_interleave(times, 2)))
