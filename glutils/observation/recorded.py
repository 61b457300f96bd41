"""Logs of real programs that come with this package, and the data of their clients, for scoring."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import _validate, models
from ..data.batch import Batch
from ..protocols import ZerothOrder

FOLDER = Path(__file__).resolve().parents[1] / "data" / "logs"
RECORDED = ("decomfl_central", "decomfl_forward_local2")
"""Names of recorded runs: of the public DeComFL program, with central and with forward differences."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A run of a real program.

    Attributes:
        path: its log, for :func:`glutils.observation.logs.read`.
        model: the network; its weights are not those of the log.
        protocol: how the program's clients make their scalars.
        lr: step size of clients and server.
        clients: their private data. Nothing but a score may read them.
        about: what else is known of the run, by name.
    """

    path: Path
    model: nn.Module
    protocol: ZerothOrder
    lr: float
    clients: tuple[Batch, ...]
    about: dict


def recorded(name: str) -> Recording:
    """A run of a real program, recorded on its server: the log, and what reads and scores it.

    Args:
        name: one of :data:`~glutils.observation.recorded.RECORDED`.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> import glutils as gl
        >>> run = gl.transcripts.recorded("decomfl_central")
        >>> log = gl.transcripts.read(run.path, run.model, run.protocol, lr=run.lr)
        >>> log.rounds, len(log.clients), run.protocol.law
        (60, 3, 'decomfl')
        >>> seen = gl.observe(log, client=0, shape=(2, 1, 8, 8), classes=10)
        >>> seen.scalars, seen.labels
        (400, None)
    """
    _validate.choice("name", name, RECORDED)
    about = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(FOLDER / f"{name}_private.npz", allow_pickle=False) as held:
        pairs = [(held[f"images/{k}"], held[f"labels/{k}"]) for k in range(len(held.files) // 2)]
    clients = tuple(
        Batch(torch.from_numpy(x), torch.from_numpy(y), tuple(map(str, range(10))), "scikit-learn digits")
        for x, y in pairs
    )
    scheme = about["method"].removeprefix("rge-")
    how = {"directions": about["scalars_per_step"], "mu": about["mu"], "scheme": scheme, "law": "decomfl"}
    model = models.build("mlp", clients[0], hidden=(48,), seed=0)
    return Recording(FOLDER / f"{name}.npz", model, ZerothOrder(**how), about["lr"], clients, about)
