"""Each client's own training and test images, and batches joined into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from .. import _validate
from .batch import Batch
from .sampling import public


def hold_out(clients: Sequence[Batch], *, share: float = 0.2, seed: int = 0) -> tuple[list[Batch], list[Batch]]:
    """Every client's own training Batches and test Batches, two lists; 80 to 20 unless told.

    Args:
        clients: Batches of 2 images or more each, as :func:`partition` gives them with ``min_samples=2``.
        share: of the images that each keeps for testing, between 0 and 1, exclusive; rounded to the nearest number of
            images, at least 1 and not all.
        seed: of the choice.

    Returns:
        The training images and the test images of every client, in the clients' order.

    Raises:
        TypeError, ValueError: a bad argument; a client with a single image (the message names it).

    Example:
        >>> import glutils as gl
        >>> clients = gl.data.partition("digits", clients=2, per_client=10, seed=0, device="cpu")
        >>> kept, held = gl.data.hold_out(clients, share=0.2)
        >>> [len(own) for own in kept], [len(own) for own in held]
        ([8, 8], [2, 2])
    """
    clients = _batches("clients", clients)
    share = _validate.number("share", share, above=0)
    if share >= 1:
        raise ValueError(f"share must be between 0 and 1, exclusive, got {share}")
    generator = torch.Generator().manual_seed(_validate.integer("seed", seed, at_least=0))
    train, test = [], []
    for k, client in enumerate(clients):
        if len(client) < 2:
            raise ValueError(f"clients must hold 2 images or more each, client {k} holds {len(client)}")
        kept = min(max(1, int(share * len(client) + 0.5)), len(client) - 1)
        order = torch.randperm(len(client), generator=generator).tolist()
        test.append(client[order[:kept]])
        train.append(client[order[kept:]])
    return train, test


def concatenate(batches: Sequence[Batch]) -> Batch:
    """All records of several Batches in one, in order; their classes, shapes and columns must be the same.

    Texts of one vocabulary may be of different lengths, and are filled up to the longest.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> len(gl.data.concatenate([batch, batch]))
        4
    """
    batches = _batches("batches", batches)
    if all(batch.kind == "tokens" and batch.labels.ndim == 2 for batch in batches):
        longest = max(batch.shape[0] for batch in batches)
        batches = [_filled(batch, longest) for batch in batches]
    first = batches[0]
    for k, batch in enumerate(batches):
        if batch.classes != first.classes or batch.shape != first.shape:
            raise ValueError(f"batches must have the same classes and image shape, batch {k} differs from batch 0")
        if batch.columns != first.columns:
            raise ValueError(f"batches must have the same columns, batch {k} differs from batch 0")
    images, labels = torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])
    return replace(first, images=images, labels=labels)


def _filled(batch: Batch, length: int) -> Batch:
    """Texts with padding up to that length, and no loss there."""
    more, v = (0, length - batch.shape[0]), batch.vocabulary
    fill = next((end for end in ((v.pad, v.eos) if v else ()) if end is not None), 0)
    tokens, labels = F.pad(batch.images, more, value=fill), F.pad(batch.labels, more, value=_validate.IGNORED)
    return replace(batch, images=tokens, labels=labels)


def _batches(name: str, given: Sequence[Batch]) -> list[Batch]:
    if isinstance(given, (str, Batch)) or not isinstance(given, Sequence):
        raise TypeError(f"{name} must be a list of Batches, got {type(given).__name__}")
    if not given:
        raise ValueError(f"{name} must hold at least one Batch, got none")
    return [_validate.instance(name, batch, Batch) for batch in given]


TEST_TEXTS = 16
"""Of texts, where every next piece is a prediction, and where there may be a round for every single scalar."""


def default_test(client: Batch) -> Batch:
    """The public images of the set that a client's batch was drawn from, on its device: what accuracy is measured on.
    Of texts a few.

    ``ValueError``, which says what to give instead, for a set of the reader's own.
    """
    try:
        return public(client, count=TEST_TEXTS) if client.kind == "tokens" else public(client)
    except ValueError as error:
        raise ValueError(
            f"test must be given where the clients' records are not as a set of the book gives them: {error}; "
            "for example test=gl.data.public(name, root=...)"
        ) from error
