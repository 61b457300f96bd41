"""What the auditor holds: a message or a log becomes an observation, with what was checked and put right on the way."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import _validate
from ..data.batch import Batch
from ..observation import Observation, Transcript, observe
from ..observation.log_files import load
from ..observation.transcripts import read
from ..protocols import Payload, Protocol
from . import checks, planted
from .checks import HIDDEN, MENDED, ODD, PASSED, Check
from .messages import message

SIGN = "the message has the sign that the protocol asks for"
FORM = "the message has the form of the model's parameters"
REPLAY = "the messages lead from the first weights to the last"
UNSEEN = "whether the message has the sign"
"""How an observation's note begins that says so."""


def is_log(source: Any, protocol: Protocol | None) -> bool:
    """Whether ``source`` is a log of a whole run: of scalars with seeds."""
    if protocol is None or protocol.kind != "scalars":
        return False
    if isinstance(source, Mapping):
        return "seeds" in source
    if isinstance(source, (str, os.PathLike)):
        return Path(source).suffix in (".jsonl", ".json") or "seeds" in _names(Path(source))
    return False


def _names(path: Path) -> list[str]:
    import zipfile

    if path.suffix != ".npz" or not zipfile.is_zipfile(path):
        return ["seeds"] if path.suffix == ".npz" and path.is_file() else []  # a damaged one is refused as a log
    with zipfile.ZipFile(path) as held:
        return [name.removesuffix(".npy") for name in held.namelist()]


def of_log(
    model: nn.Module, source: Any, protocol: Protocol | None, *, client: int, lr: Any, decay: Any, how: dict[str, Any]
) -> tuple[Observation, list[Check]]:
    """The observation of one client of a log, and what its replay showed."""
    if isinstance(source, Transcript):
        if protocol is not None or lr is not None:
            raise ValueError("protocol and lr must be left out for a transcript, which has them")
        transcript, ended = source, None
    else:
        if lr is None:
            raise ValueError("lr must be given for a log: the step size of clients and server")
        arrays = load(source if isinstance(source, Mapping) else Path(source))
        ended = any(str(name).partition("/")[0] == "end" for name in arrays)
        transcript = read(arrays, model, _validate.instance("protocol", protocol, Protocol), lr=lr, decay=decay)
    seen = observe(transcript, client=client, **how)
    says = {
        True: (PASSED, "to round-off: law, seeds, sign and lr are right"),
        False: (HIDDEN, "the log has no weights at the end: law, seeds, sign and lr show in the misfit alone"),
        None: (PASSED, f"in each of {transcript.rounds} rounds, as the transcript has them"),
    }[ended]
    return seen, [Check(REPLAY, *says)]


def of_message(
    model: nn.Module, source: Any, protocol: Protocol | None, *, how: dict[str, Any]
) -> tuple[Observation, list[Check]]:
    """The observation of one message, of either sign, and what was done to it."""
    protocol = _validate.instance("protocol", protocol, Protocol)
    payload, notes = message(model, protocol, source, records=int(how["shape"][0]) if how["shape"] else 1)
    form = Check(FORM, MENDED if notes else PASSED, "; ".join(notes) or "name by name")
    found = [form]
    if payload.dtype == torch.float16 or payload.dtype == torch.bfloat16:
        says = f"it is rounded to {payload.dtype}, and agrees to that at best: state the rounding, or send it unrounded"
        found.append(Check("the message is in the client's precision", ODD, says))
    try:
        return _signed(model, protocol, payload, how, found)
    except ValueError as error:
        if payload.kind == "scalars":
            raise
        try:
            seen, told = _signed(model, protocol, -payload, how, [])
        except ValueError as other:  # the sign is the lesser mistake
            raise (other if "wrong sign" in str(error) else error) from None
        if any(check.name == SIGN and check.outcome != PASSED for check in told):
            raise
        words = "new less old" if payload.kind == "delta" else "a step against the gradient"
        check = Check(SIGN, MENDED, f"it came as {words}, and was turned: {str(error).splitlines()[0]}")
        return seen, [*found, check]


def _signed(
    model: nn.Module, protocol: Protocol, payload: Payload, how: dict[str, Any], found: list[Check]
) -> tuple[Observation, list[Check]]:
    """The observation of a message as it stands, with the check of its sign."""
    seen = observe(model, protocol, payload, **how)
    head = checks.head(seen)
    unseen = next((note for note in seen.notes if note.startswith(UNSEEN)), None)
    if payload.kind == "scalars":
        return seen, found
    if head.outcome == PASSED or unseen is None and not protocol.defenses:
        return seen, [*found, Check(SIGN, PASSED, "the last layer shows it")]
    return seen, [*found, Check(SIGN, HIDDEN, unseen or "a defence hides it")]


def examined(seen: Observation, batches: list[Batch]) -> tuple[list[Check], bool]:
    """All further checks, and whether the message was shown to hold next to nothing; ``ValueError`` for a
    contradiction."""
    head = checks.head(seen)
    found = [head, checks.rank(seen), checks.mode(seen, batches[0])]
    lengths = [planted.sent(seen, batch, seed=number).payload for number, batch in enumerate(batches)]
    check, empty = checks.size(replace(seen, rounds=seen.rounds[:1]), lengths, known=head.outcome == PASSED)
    found.append(check)
    missing = _buffers(seen)
    return [*found, *missing], empty


def _buffers(seen: Observation) -> list[Check]:
    """Whether batch norm's running statistics are those that a new network has, where they would matter."""
    if seen.batchnorm != "eval":
        return []
    name = "batch norm has the running statistics of a trained network"
    fresh = [
        module for module in seen.model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
        and module.running_var is not None and not bool(module.running_mean.any())
        and bool((module.running_var == 1).all())
    ]  # fmt: skip
    if not fresh:
        return [Check(name, PASSED, "none of them are those of a new network")]
    moved = any(bool((p.detach() != 1).any()) for m in fresh for p in [m.weight] if p is not None)
    outcome = ODD if moved else HIDDEN
    says = f"{len(fresh)} layers have mean 0 and variance 1" + (
        ", although their weights were trained: the buffers are missing from the weights that were loaded" * moved
        or ", as before any training"
    )
    return [Check(name, outcome, says)]
