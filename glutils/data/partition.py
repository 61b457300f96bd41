"""Labelled images dealt to the clients of a federation."""

from __future__ import annotations

import os

import numpy as np
import torch

from .. import _device, _validate
from .batch import Batch
from .pool import MOST_SEED
from .sampling import sample

LAWS = ("iid", "dirichlet", "pathological")
DRAWS = 1000  # how often a Dirichlet partition is drawn before it is called impossible


def partition(
    of: str | Batch,
    *,
    clients: int,
    per_client: int | None = None,
    law: str = "iid",
    beta: float = 0.5,
    min_samples: int = 1,
    classes_per_client: int = 2,
    seed: int = 0,
    size: int | None = None,
    split: str = "private",
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    device: str | torch.device | None = None,
) -> list[Batch]:
    """One Batch of images for each client; no image goes to two of them.

    The images are the n = ``clients * per_client`` of ``sample(of, count=n, seed=seed, ...)``, or a random n of the
    Batch ``of``, or all there are if ``per_client`` is None. (Crops of ``photos`` are drawn one by one; their windows
    in the photograph may overlap.) How they are dealt:

    - ``"iid"``: shuffled and cut into equal parts (sizes differ by one where n is not a multiple of ``clients``).
    - ``"dirichlet"``: class by class, each client's share drawn from a symmetric Dirichlet law with parameter ``beta``.
      A client that already holds n / clients images gets nothing more, so clients differ in their classes more than in
      their size. Drawn again, up to 1,000 times, until every client has ``min_samples`` images.
    - ``"pathological"``: sorted by class, cut into ``clients * classes_per_client`` equal runs, and dealt at random,
      ``classes_per_client`` runs to a client, which so sees about that many classes.

    Args:
        of: a set's name, or a Batch.
        clients: at least 1.
        per_client: images per client (their mean for ``"dirichlet"``), at least 1, or None for all images.
        law: ``"iid"``, ``"dirichlet"`` or ``"pathological"``.
        beta: above 0; small means clients with few classes each. Read by ``"dirichlet"`` only.
        min_samples: the least a client may hold, at least 1.
        classes_per_client: at least 1, at most ``per_client``. Read by ``"pathological"`` only.
        seed: of the choice of images and of the dealing.
        size, split, root, download: as in ``sample``; for a Batch they are settled and must be left alone.
        device: as in ``sample``; None leaves a Batch where it is.

    Returns:
        One Batch per client, in which the images are in random order.

    Raises:
        TypeError, ValueError: a bad argument, or a partition that cannot be had: too few images, a law by classes for
            texts or numbers, or no Dirichlet draw that gives every client ``min_samples``.
        FileNotFoundError, ConnectionError: as in ``sample``.

    Example:
        >>> import glutils as gl
        >>> clients = gl.data.partition("digits", clients=3, per_client=4, seed=0)
        >>> [len(client) for client in clients], clients[0].source
        ([4, 4, 4], 'digits, private split')
    """
    clients = _validate.integer("clients", clients, at_least=1)
    if per_client is not None:
        per_client = _validate.integer("per_client", per_client, at_least=1)
    _validate.choice("law", law, LAWS)
    beta = _validate.number("beta", beta, above=0)
    min_samples = _validate.integer("min_samples", min_samples, at_least=1)
    classes_per_client = _validate.integer("classes_per_client", classes_per_client, at_least=1)
    rng = np.random.default_rng(_validate.integer("seed", seed, at_least=0, at_most=MOST_SEED))

    if isinstance(of, Batch):
        settled = {
            "size": (size, None),
            "split": (split, "private"),
            "root": (root, None),
            "download": (download, False),
        }
        for name, (value, default) in settled.items():
            if value != default:
                raise ValueError(f"{name} must be left alone when a Batch is dealt, got {value!r}")
        batch = of if device is None else of.to(_device.resolve(device))
    else:
        count = "all" if per_client is None else clients * per_client
        batch = sample(of, count=count, size=size, seed=seed, split=split, root=root, download=download, device=device)
    total = len(batch) if per_client is None else clients * per_client
    if total > len(batch):
        raise ValueError(f"clients * per_client must be at most {len(batch)}, the images there are, got {total}")
    if clients > total:
        raise ValueError(f"clients must be at most {total}, one for each image; got {clients}")
    if clients * min_samples > total:
        most = total // clients
        raise ValueError(f"min_samples must be at most {most} ({total} images, {clients} clients), got {min_samples}")

    if law != "iid" and batch.labels.ndim > 1:
        raise ValueError(f"law must be 'iid' for records without classes to deal by, got {law!r}")
    chosen = rng.permutation(len(batch))[:total]
    labels = batch.labels.cpu().numpy()[chosen]
    if law == "iid":
        parts = np.array_split(np.arange(total), clients)
    elif law == "dirichlet":
        parts = _dirichlet(labels, clients, beta, min_samples, rng)
    else:
        parts = _pathological(labels, clients, classes_per_client, rng)
    short = min(len(part) for part in parts)
    if short < min_samples:
        raise ValueError(f"min_samples must be at most {short} for this partition, got {min_samples}")
    return [batch[chosen[rng.permutation(part)].tolist()] for part in parts]


def _dirichlet(labels: np.ndarray, clients: int, beta: float, min_samples: int, rng: np.random.Generator) -> list:
    """Positions in ``labels`` for every client: Dirichlet shares per class, capped, drawn until all have enough."""
    cap = len(labels) / clients
    for _ in range(DRAWS):
        held, dealt = np.zeros(clients, dtype=int), []
        for label in np.unique(labels):
            positions = rng.permutation(np.flatnonzero(labels == label))
            open_ = held < cap
            shares = rng.dirichlet(np.full(clients, beta)) * open_
            if not shares.sum() > 0:  # a small beta can put all its mass on clients that are full
                shares = open_.astype(float)
            edges = np.cumsum(shares)
            cuts = np.floor(len(positions) * (edges / edges[-1])).astype(int)  # the last open edge is exactly 1
            held += np.diff(cuts, prepend=0)
            dealt.append((positions, cuts[:-1]))
        if held.min() >= min_samples:
            pieces = zip(*(np.split(positions, cuts) for positions, cuts in dealt), strict=True)
            return [np.concatenate(own) for own in pieces]
    raise ValueError(
        f"min_samples must allow a partition: none of {DRAWS} draws gave all {clients} clients {min_samples} of "
        f"{len(labels)} images at beta={beta}; lower min_samples or clients, or raise beta or per_client"
    )


def _pathological(labels: np.ndarray, clients: int, each: int, rng: np.random.Generator) -> list:
    """Positions in ``labels`` for every client: ``each`` runs of the images sorted by class."""
    if clients * each > len(labels):
        raise ValueError(f"classes_per_client must be at most {len(labels) // clients} here, got {each}")
    runs = np.array_split(np.argsort(labels, kind="stable"), clients * each)
    order = rng.permutation(len(runs))
    return [np.concatenate([runs[i] for i in order[client::clients]]) for client in range(clients)]
