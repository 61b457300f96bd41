"""Runs that go on where they stopped: a folder that knows what it was asked for, and which of its files are whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from . import _files


class RunFolder:
    """The folder of one run: an index (JSON), and the files of tensors (safetensors) that it names by their digests.

    A subclass says what is in the index and when it is written. The index is replaced only after all the files that it
    names are complete, so that a run which is killed at any moment goes on from the last index. As long as the object
    lives, no other process can open the folder.

    Attributes:
        path: of the folder; it is removed with the object if nothing was written.
        asked: what the run was asked for, as JSON holds it.
        found: the index that was there already, or None for a new run.
    """

    FORMAT: str
    """Name and version of what is written here; a folder of another one is refused."""
    INDEX: str
    """The index's file name."""
    ASKED: str = "asked"
    """The entry of the index that holds what was asked."""
    ARGUMENT: str = "checkpoint"
    """What the caller calls the folder, for error messages."""

    def __init__(self, folder: Any, asked: dict[str, Any]):
        """Reads the index if there is one.

        Raises:
            TypeError: ``folder`` is no path.
            ValueError: the folder holds something else, a damaged index, or a run that was asked for something else.
            FileExistsError: another process is writing there.
        """
        if not isinstance(folder, (str, os.PathLike)):
            raise TypeError(f"{self.ARGUMENT} must be the path of a folder, got {type(folder).__name__}")
        self.path, self.asked, self.found = Path(folder), json.loads(json.dumps(asked)), None
        if self.path.is_dir() or not self.path.exists():
            stack = contextlib.ExitStack()
            stack.enter_context(_files.held(self.path, self.ARGUMENT))
            weakref.finalize(self, stack.close)
            if not any(self.path.iterdir()):
                return
        if not (self.path / self.INDEX).is_file():
            raise ValueError(
                f"{self.ARGUMENT} must be an empty folder or one of this run, but {self.path} is neither: it holds "
                "something else"
            )
        try:
            index = self.unpack(json.loads((self.path / self.INDEX).read_text(encoding="utf-8")))
            before = dict(index[self.ASKED])
            if index["format"] != self.FORMAT:
                raise ValueError("it was written by something else")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self.damaged(self.INDEX, error) from error
        for key in self.asked:
            if before.get(key) != self.asked[key]:
                raise ValueError(
                    f"{self.ARGUMENT} must be of the same run, but {self.path} was made with {key}="
                    f"{_short(before.get(key))}, not {_short(self.asked[key])}; choose another folder"
                )
        self.found = index

    def unpack(self, written: Any) -> dict[str, Any]:
        """The index in what its file holds; ``ValueError``, ``KeyError`` or ``TypeError``: the file is damaged."""
        return written

    def damaged(self, file: str, error: Exception) -> ValueError:
        """The error that says which file cannot be used, and what to do."""
        return ValueError(
            f"{self.ARGUMENT} cannot be used: {self.path / file} is damaged ({error}); nothing was changed. Restore "
            "that file, or choose another folder"
        )

    def read_tensors(self, file: str, digest: str) -> dict[str, torch.Tensor]:
        """The tensors in a file, on the CPU; ``ValueError`` if it is not the one that was written."""
        try:
            content = (self.path / file).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise ValueError("it is not the file that was written")
            return load(content)
        except (OSError, ValueError, SafetensorError) as error:
            raise self.damaged(file, error) from error

    def write_tensors(self, file: str, tensors: dict[str, torch.Tensor]) -> tuple[str, str]:
        """Write a file of tensors; its name and its digest, for the index."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        _files.write(self.path / file, content)
        return file, hashlib.sha256(content).hexdigest()

    def write_index(self, written: Any, indent: int | None = None) -> None:
        """Replace the index: the run has come this far."""
        self.path.mkdir(parents=True, exist_ok=True)
        _files.write(self.path / self.INDEX, json.dumps(written, indent=indent) + "\n")


def generator_state(generator: torch.Generator) -> str:
    """Where a generator stands, as hexadecimal digits."""
    return generator.get_state().numpy().tobytes().hex()


def set_generator_state(generator: torch.Generator, state: str) -> None:
    """Put a generator where :func:`generator_state` found one."""
    generator.set_state(torch.tensor(list(bytes.fromhex(state)), dtype=torch.uint8))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 or not isinstance(value, Sequence) else text[:57] + "..."
