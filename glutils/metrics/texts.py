"""Metrics of two stacks of texts, one number per text: the pieces in place, the secrets, the whole.

A text is what its pieces say: from after the piece that begins it, up to and with the first that ends it; padding does
not count. So stacks need not be of one length.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from .. import _validate
from ..data.vocabulary import Vocabulary

SECRET = re.compile(r"\d{4,}")
"""What counts as a secret: four digits in a row, or more."""
Tokens = Int64[Tensor, "batch length"]


def pieces(tokens: Tensor | Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """The pieces of one text that count: without the first one and without padding, with the one that ends it."""
    found = [int(token) for token in tokens]
    if found and found[0] == vocabulary.bos:
        found = found[1:]
    if vocabulary.eos is not None and vocabulary.eos in found:
        return found[: found.index(vocabulary.eos) + 1]
    while found and found[-1] == vocabulary.pad:
        found.pop()
    return found


def exact(
    tokens: Tokens, truth: Int64[Tensor, "batch other"], vocabulary: Vocabulary
) -> Bool[Tensor, " batch"]:
    """Which texts are the true ones, to the last piece: (B,) bool.

    Args:
        tokens: (B, L) int64. truth: (B, L') int64.
        vocabulary: what their numbers stand for.

    Raises:
        TypeError, ValueError: not two stacks of as many texts.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.from_texts(["The code is 4821.", "Please call 5550199."])
        >>> other = gl.data.from_texts(["The code is 4827.", "Please call 5550199."])
        >>> gl.metrics.exact(other.images, batch.images, batch.vocabulary)
        tensor([False,  True])
        >>> gl.metrics.token_accuracy(other.images, batch.images, batch.vocabulary)
        tensor([0.8889, 1.0000], dtype=torch.float64)
        >>> gl.metrics.secrets(other.images, batch.images, batch.vocabulary)
        tensor([0., 1.], dtype=torch.float64)
        >>> gl.metrics.edit_distance(other.images, batch.images, batch.vocabulary)
        tensor([1., 0.], dtype=torch.float64)
    """
    return torch.tensor([one == other for one, other in _pairs(tokens, truth, vocabulary)])


def token_accuracy(
    tokens: Tokens, truth: Int64[Tensor, "batch other"], vocabulary: Vocabulary
) -> Float64[Tensor, " batch"]:
    """Share of the true pieces that stand in their place: (B,) float64, 0 to 1. Arguments as in :func:`exact`.

    Example:
        >>> import glutils as gl
        >>> one, other = gl.data.from_texts(["The code is 4821."]), gl.data.from_texts(["The code is 4827."])
        >>> gl.metrics.token_accuracy(other.images, one.images, one.vocabulary).round(decimals=2)
        tensor([0.8900], dtype=torch.float64)
    """
    pairs = _pairs(tokens, truth, vocabulary)
    right = [sum(a == b for a, b in zip(one, other, strict=False)) / max(1, len(other)) for one, other in pairs]
    return torch.tensor(right, dtype=torch.float64)


def edit_distance(
    tokens: Tokens, truth: Int64[Tensor, "batch other"], vocabulary: Vocabulary
) -> Float64[Tensor, " batch"]:
    """Pieces to be put in, left out or exchanged to get to the truth (Levenshtein): (B,) float64, 0 and up.

    Arguments as in :func:`exact`.

    Example:
        >>> import glutils as gl
        >>> one, other = gl.data.from_texts(["The code is 4821."]), gl.data.from_texts(["The code is 4827."])
        >>> gl.metrics.edit_distance(other.images, one.images, one.vocabulary).round(decimals=2)
        tensor([1.], dtype=torch.float64)
    """
    found = [float(distances([one], other)[0]) for one, other in _pairs(tokens, truth, vocabulary)]
    return torch.tensor(found, dtype=torch.float64)


def secrets(
    tokens: Tokens, truth: Int64[Tensor, "batch other"], vocabulary: Vocabulary
) -> Float64[Tensor, " batch"]:
    """Share of a text's secrets that were found: (B,) float64, 0 to 1, NaN for a text without any.

    A secret is a run of four digits or more (account, card, code, telephone). It is found if the same run stands in the
    text that was reconstructed, wherever. Arguments as in :func:`exact`.

    Example:
        >>> import glutils as gl
        >>> one, other = gl.data.from_texts(["The code is 4821."]), gl.data.from_texts(["The code is 4827."])
        >>> gl.metrics.secrets(other.images, one.images, one.vocabulary)
        tensor([0.], dtype=torch.float64)
    """
    shares = []
    for one, other in zip(tokens, truth, strict=True):
        wanted, held = (Counter(SECRET.findall(vocabulary.decode(row))) for row in (other, one))
        shares.append((wanted & held).total() / wanted.total() if wanted else math.nan)
    return torch.tensor(shares, dtype=torch.float64)


def match_texts(
    tokens: Tokens, truth: Int64[Tensor, "batch other"], vocabulary: Vocabulary
) -> Int64[Tensor, " batch"]:
    """For each truth the index of its text, (B,) int64: the least total edit distance (Hungarian).

    Arguments as in :func:`exact`.

    Example:
        >>> import glutils as gl
        >>> one = gl.data.from_texts(["The code is 4821.", "Call me at noon."])
        >>> gl.metrics.match_texts(one.images.flip(0), one.images, one.vocabulary)
        tensor([1, 0])
    """
    from scipy.optimize import linear_sum_assignment  # here, because SciPy takes long to load

    pairs = _pairs(tokens, truth, vocabulary)
    cost = np.stack([distances([one for one, _ in pairs], other) for _, other in pairs])
    return torch.from_numpy(linear_sum_assignment(cost)[1])


def distances(texts: Sequence[Sequence[int]], truth: Sequence[int]) -> np.ndarray:
    """Edit distance of every one of the texts, lists of pieces, from one truth: (N,)."""
    length = max((len(text) for text in texts), default=0)
    stack = np.full((len(texts), length), -1)
    for i, text in enumerate(texts):
        stack[i, : len(text)] = text
    row = np.broadcast_to(np.arange(length + 1), (len(texts), length + 1))  # to the beginnings of the texts
    for i, piece in enumerate(truth):
        after = np.empty_like(row)
        after[:, 0] = i + 1
        kept = np.minimum(row[:, :-1] + (stack != piece), row[:, 1:] + 1)
        for j in range(length):
            after[:, j + 1] = np.minimum(kept[:, j], after[:, j] + 1)
        row = after
    return row[np.arange(len(texts)), [len(text) for text in texts]]


def _pairs(tokens: Tensor, truth: Tensor, vocabulary: Vocabulary) -> list[tuple[list[int], list[int]]]:
    """The pieces that count of every text and of its truth."""
    for name, value in (("tokens", tokens), ("truth", truth)):
        _validate.instance(name, value, Tensor)
        if value.ndim != 2 or value.is_floating_point():
            raise TypeError(f"{name} must be whole numbers (B, L), got {value.dtype} of shape {tuple(value.shape)}")
    if len(tokens) != len(truth):
        raise ValueError(f"tokens must be as many texts as the truth's {len(truth)}, got {len(tokens)}")
    return [(pieces(a, vocabulary), pieces(b, vocabulary)) for a, b in zip(tokens.cpu(), truth.cpu(), strict=True)]
