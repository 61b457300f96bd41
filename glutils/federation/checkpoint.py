"""A training run on disk: what it was asked, and after every round all that is needed to go on, bit for bit."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

from .. import models
from .._checkpoint import RunFolder, generator_state, set_generator_state
from ..data.batch import Batch
from ..observation.transcripts import Round
from ..protocols import Payload

FORMAT = "glutils federation 1"
INDEX = "run.json"


class Checkpoint(RunFolder):
    """One run's folder: ``run.json``, model states and recorded messages as safetensors.

    A round is done when ``run.json`` names it.
    """

    FORMAT, INDEX = FORMAT, INDEX

    def __init__(self, folder: Any, asked: dict[str, Any]):
        """Reads ``run.json`` if there is one; ``ValueError`` if the folder holds another run, or anything else."""
        super().__init__(folder, asked)
        new = {"format": FORMAT, "asked": self.asked, "rounds": [], "states": {}}
        self.index: dict[str, Any] = new if self.found is None else self.found
        self.done = len(self.index["rounds"])

    done: int
    """Rounds on disk."""

    def unpack(self, written: Any) -> dict[str, Any]:
        index = written["run"]
        if written["sha256"] != _digest(index) or not isinstance(index["rounds"], list):
            raise ValueError("it is not the file that was written")
        return index

    def restore(self, run: Any) -> None:
        """Set ``run`` to the end of the last round that is done; nothing if there is none."""
        if not self.done:
            return
        try:
            self._restore(run)
        except (KeyError, TypeError, IndexError) as error:
            raise self.damaged(INDEX, error) from error

    def _restore(self, run: Any) -> None:
        if self.done > run.rounds:
            raise ValueError(f"rounds must be at least {self.done}, those done in {self.path}; got {run.rounds}")
        for turn, entry in enumerate(self.index["rounds"]):
            if entry["protocol"] != repr(run.protocols[turn]):
                raise ValueError(
                    f"checkpoint must be of the same run, but round {turn} in {self.path} was run with "
                    f"{entry['protocol']}, not {run.protocols[turn]!r}; choose another folder"
                )
        for turn in range(1, self.done + 1):
            found = self.index["states"].get(str(turn))
            run.states.append(None if found is None else self._state(run, *found))
        for turn, entry in enumerate(self.index["rounds"]):
            run.accuracy.append(float(entry["accuracy"]))
            run.uplink.append(int(entry["uplink"]))
            run.took_part.append(tuple(entry["took_part"]))
            said, drawn = self._messages(run, turn, entry)
            run.messages.append(said)
            run.drawn.append(drawn)
        set_generator_state(run.generator, self.index["generator"])

    def _state(self, run: Any, file: str, digest: str) -> models.Parameters:
        found = self.read_tensors(file, digest)
        return {name: found[name].to(p.device) for name, p in run.states[0].items()}

    def _messages(self, run: Any, turn: int, entry: dict) -> tuple[tuple, tuple]:
        """What the recorded clients said in a round, and from which images."""
        said: list[tuple[Round, ...]] = [()] * len(run.clients)
        drawn: list[tuple[torch.Tensor, ...]] = [()] * len(run.clients)
        if entry["messages"] is None:
            return tuple(said), tuple(drawn)
        found, device = self.read_tensors(*entry["messages"]), next(iter(run.states[0].values())).device
        part = lambda start: {n[len(start) :]: t.to(device) for n, t in found.items() if n.startswith(start)}  # noqa: E731
        steps, mode = run.steps(turn), entry.get("mode", models.batchnorm_mode(run.model))
        for k in entry["recorded"]:
            for j, step in enumerate(steps):
                named = part(f"{k}.{j}.payload.")
                ordered = {name: named[name] for name in run.states[0] if name in named}  # as it was sent
                payload = Payload(step.kind, named[""] if step.kind == "scalars" else ordered, mode)
                own = part(f"{k}.{j}.own.") or run.states[turn]
                said[k] = (*said[k], Round(step.public_view(payload), payload, own, turn, k))
                drawn[k] = (*drawn[k], found[f"{k}.{j}.drawn"])
        return tuple(said), tuple(drawn)

    def keep(self, run: Any) -> None:
        """Write the round that has just ended."""
        turn = len(run.accuracy) - 1
        messages = {}
        for k, said in enumerate(run.messages[turn]):
            for j, message in enumerate(said):
                messages |= {f"{k}.{j}.drawn": run.drawn[turn][k][j]}
                scalars = message.payload.kind == "scalars"
                named = {"": message.payload.scalars} if scalars else message.payload.tensors
                messages |= {f"{k}.{j}.payload.{name}": tensor for name, tensor in named.items()}
                if j:
                    messages |= {f"{k}.{j}.own.{name}": p for name, p in message.parameters.items()}
        self.index["rounds"].append({
            "accuracy": run.accuracy[turn],
            "uplink": run.uplink[turn],
            "took_part": run.took_part[turn],
            "recorded": [k for k, said in enumerate(run.messages[turn]) if said],
            "protocol": repr(run.protocols[turn]),
            "mode": models.batchnorm_mode(run.working),
            "messages": self.write_tensors(f"messages-{turn:05d}.safetensors", messages) if messages else None,
        })  # fmt: skip
        states = self.index["states"]
        states[str(turn + 1)] = self.write_tensors(f"state-{turn + 1:05d}.safetensors", run.states[turn + 1])
        gone = [key for key in states if run.states[int(key)] is None]
        files = [states.pop(key)[0] for key in gone]
        self.index["generator"] = generator_state(run.generator)
        self.write_index({"sha256": _digest(self.index), "run": self.index})
        self.done = turn + 1
        for file in files:
            (self.path / file).unlink(missing_ok=True)


def fingerprint(*values: nn.Module | Batch) -> str:
    """One number for the contents of models and batches."""
    digest = hashlib.sha256()
    for value in values:
        tensors = value.state_dict() if isinstance(value, nn.Module) else {"x": value.images, "y": value.labels}
        digest.update(repr((value, value.training) if isinstance(value, nn.Module) else value.classes).encode())
        for name, tensor in tensors.items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _digest(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index).encode()).hexdigest()
