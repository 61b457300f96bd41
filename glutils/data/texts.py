"""Texts as records: numbers of word pieces, padded to one length, and labelled by the piece that comes next."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from .. import _validate
from . import messages
from .batch import Batch
from .pool import Pool, source
from .vocabulary import Vocabulary

FOLDER = Path(__file__).resolve().parent / "language"


def names() -> dict[str, str]:
    """Every set of texts, with what it is."""
    count = " and ".join(f"{number:,} {split}" for split, number in messages.COUNTS.items())
    return {"messages": f"embedded, needs nothing: {count} made-up messages with names and numbers, 512 word pieces"}


@lru_cache(maxsize=1)
def messages_vocabulary() -> Vocabulary:
    """The 512 word pieces of the set ``"messages"``, trained on its public split by ``tools/train_gpt.py``.

    Example:
        >>> import glutils as gl
        >>> vocabulary = gl.data.messages_vocabulary()
        >>> [vocabulary.pieces[token] for token in vocabulary.encode("My card was lost.")]
        ['My', 'Ġcard', 'Ġwas', 'Ġlost', '.']
    """
    return Vocabulary.load(FOLDER / "messages.json")


def from_texts(
    texts: Sequence[str], vocabulary: Vocabulary | None = None, *, length: int | None = None, source: str = ""
) -> Batch:
    """A Batch of texts of your own, each with the piece that begins and the one that ends it.

    Args:
        texts: one or more.
        vocabulary: cuts them; None: :func:`messages_vocabulary`.
        length: pieces to which all are padded; None: those of the longest.
        source: as in :class:`~glutils.data.Batch`.

    Returns:
        Batch: ``images`` (B, L) int64: begin, pieces, end, padding. ``labels`` (B, L): the same, but -100 (no loss) at
        the first position and at padding. ``classes`` are the pieces.

    Raises:
        TypeError, ValueError: naming the argument: no texts, an empty one, one longer than ``length``, a vocabulary
            that cannot cut one.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.from_texts(["Please call Jane, phone 5550199.", "My code is 4821."])
        >>> batch.images.shape, batch.texts[1], int((batch.labels != -100).sum())
        (torch.Size([2, 16]), 'My code is 4821.', 24)
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
        raise TypeError(f"texts must be a list of at least one text, got {texts!r}")
    vocabulary = _validate.instance("vocabulary", vocabulary or messages_vocabulary(), Vocabulary)
    rows = []
    for text in texts:
        pieces = vocabulary.encode(_validate.instance("texts", text, str))
        ends = ([vocabulary.bos], [vocabulary.eos])
        rows.append([token for part in (ends[0], pieces, ends[1]) for token in part if token is not None])
        if not pieces or len(rows[-1]) < 2:
            raise ValueError(f"texts must not be empty, got {text!r}")
    longest = max(map(len, rows))
    length = longest if length is None else _validate.integer("length", length, at_least=longest)
    return Batch(*stacked(rows, vocabulary, length), vocabulary.pieces, source, vocabulary=vocabulary)


def stacked(
    rows: Sequence[Sequence[int]], vocabulary: Vocabulary | None, length: int | None = None
) -> tuple[Int64[Tensor, "batch length"], Int64[Tensor, "batch length"]]:
    """Rows of pieces as one stack of tokens, and its labels, both (B, L); L is ``length``, or that of the longest."""
    length = max(map(len, rows)) if length is None else length
    ends = (None, None) if vocabulary is None else (vocabulary.pad, vocabulary.eos)
    tokens = torch.full((len(rows), length), next((end for end in ends if end is not None), 0))
    labels = torch.full((len(rows), length), _validate.IGNORED)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
        labels[i, 1 : len(row)] = tokens[i, 1 : len(row)]
    return tokens, labels


class Texts(Pool):
    """One split of a set of texts; its classes are topics, by which a draw may choose."""

    def batch(self, indices: list[int], size: int | None) -> Batch:
        """The chosen texts, padded to the longest."""
        return from_texts([messages.text(self.split, i) for i in indices], source=source(self.name, self.split))


@lru_cache(maxsize=2)
def pool(name: str, split: str) -> Pool:
    """One split of a set of texts."""
    topics = tuple(messages.PATTERNS)
    targets = torch.tensor([topics.index(messages.topic(split, i)) for i in range(messages.COUNTS[split])])
    read = lambda i: from_texts([messages.text(split, i)]).images[0]  # noqa: E731
    return Texts(name, split, topics, targets, read, None)
