"""What a training leaves on disk: a checkpoint a epoch, then weights, record, loss curve and samples."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from .... import _files, _png

FORMAT = "glutils decoder training 1"
STATE, WEIGHTS, RECORD = "state.json", "weights.safetensors", "record.json"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Shelf:
    """One experiment's folder."""

    def __init__(self, path: Path, asked: dict[str, Any]):
        """Refuses a folder that holds anything but this experiment (``ValueError``)."""
        self.path, self.asked, self.state = path, asked, None
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        if not (path / STATE).is_file():
            raise ValueError(f"folder must be empty or hold an experiment, but {path} holds something else")
        try:
            self.state = json.loads((path / STATE).read_text(encoding="utf-8"))
            if self.state["format"] != FORMAT:
                raise ValueError("it was written by something else")
            before = self.state["parameters"]
            self._bytes = (path / self.state["file"]).read_bytes()
            if hashlib.sha256(self._bytes).hexdigest() != self.state["sha256"]:
                raise ValueError(f"{self.state['file']} is not the file that was written")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(error) from error
        other = [key for key in asked if before.get(key) != asked[key]]
        if other:
            raise ValueError(
                f"folder must hold the same experiment, but {path} was made with {other[0]}={before.get(other[0])!r}, "
                f"not {asked[other[0]]!r}; choose another one"
            )

    def _damaged(self, error: Exception) -> ValueError:
        return ValueError(
            f"the checkpoint in {self.path} cannot be used: {error}; choose another folder, or remove this one"
        )

    def restore(self, run: Any) -> None:
        """Set ``run`` to where the checkpoint was written, if there is one."""
        if self.state is None:
            self.keep(run)  # so that there is something to go on from, however early a run is interrupted
            return
        try:
            tensors = load(self._bytes)
            run.decoder.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("decoder.")})
            if self.state["epoch"] > 0:
                names = [name for name, _ in run.decoder.named_parameters()]
                moments = {i: {m: tensors[f"adam.{n}.{m}"] for m in MOMENTS} for i, n in enumerate(names)}
                run.adam.load_state_dict({"state": moments, "param_groups": run.adam.state_dict()["param_groups"]})
            run.generator.set_state(torch.tensor(list(bytes.fromhex(self.state["generator"])), dtype=torch.uint8))
            run.epoch, run.seconds = int(self.state["epoch"]), float(self.state["seconds"])
            run.losses, run.psnr = list(self.state["losses"]), list(self.state["psnr"])
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise self._damaged(error) from error

    def keep(self, run: Any) -> None:
        """Write the state of ``run``. The new file is complete before ``state.json`` names it and the old one goes."""
        self.path.mkdir(parents=True, exist_ok=True)
        tensors = {f"decoder.{name}": tensor for name, tensor in run.decoder.state_dict().items()}
        for name, parameter in run.decoder.named_parameters():
            for moment, value in run.adam.state.get(parameter, {}).items():
                tensors[f"adam.{name}.{moment}"] = value
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        file = f"epoch-{run.epoch:04d}.safetensors"
        before = None if self.state is None else self.state["file"]
        self.state = {
            "format": FORMAT,
            "epoch": run.epoch,
            "file": file,
            "sha256": hashlib.sha256(content).hexdigest(),
            "parameters": self.asked,
            "generator": run.generator.get_state().numpy().tobytes().hex(),
            "losses": run.losses,
            "psnr": run.psnr,
            "seconds": run.seconds,
        }
        _files.write(self.path / file, content)
        _files.write(self.path / STATE, json.dumps(self.state, indent=1) + "\n")
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
