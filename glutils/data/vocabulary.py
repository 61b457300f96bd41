"""Word pieces: what a language model reads in place of a text, and how the two lead to each other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .. import _validate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
BYTES = 256
_WORDS = r" ?[0-9]| ?\p{L}+| ?[^\s\p{L}0-9]+|\s+"
"""What no piece reaches beyond: a word, a single digit, signs, each with the blank before it."""


@dataclass(frozen=True)
class Vocabulary:
    """The pieces of a language model, in the order of their numbers.

    ``len()`` is the number of pieces. Two vocabularies are equal if their pieces, rules and special pieces are.

    Attributes:
        pieces: as they are stored: of a trained vocabulary a blank is ``Ġ``, as in GPT-2.
        bos, eos, pad: numbers of the pieces that begin and end a text and fill up a stack of texts; None: there is
            none.
        rules: how a text is cut, as the JSON of the ``tokenizers`` package; empty: the pieces are words, with blanks
            between them.

    Raises:
        TypeError, ValueError: naming the attribute.

    Example:
        >>> import glutils as gl
        >>> vocabulary = gl.data.Vocabulary.plain(64)
        >>> vocabulary.encode("3 1 4"), vocabulary.decode([3, 1, 4]), vocabulary.bos
        ([3, 1, 4], '3 1 4', None)
    """

    pieces: tuple[str, ...]
    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    rules: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pieces", tuple(map(str, self.pieces)))
        if len(self.pieces) < 2 or len(set(self.pieces)) < len(self.pieces):
            raise ValueError(f"pieces must be at least two, and no two alike; got {len(self.pieces)}")
        for name in ("bos", "eos", "pad"):
            if (value := getattr(self, name)) is not None:
                _validate.integer(name, value, at_least=0, at_most=len(self.pieces) - 1)

    @classmethod
    def plain(cls, count: int) -> Vocabulary:
        """``count`` pieces of which nothing is known but their numbers, in which they are written."""
        return cls(tuple(map(str, range(_validate.integer("count", count, at_least=2)))))

    @classmethod
    def train(cls, texts: Iterable[str], *, size: int = 512) -> Vocabulary:
        """Pieces by byte-pair encoding (Sennrich et al. 2016) on UTF-8 bytes (GPT-2), so that any text can be cut.

        A digit is a piece of its own; no piece reaches over the end of a word. The pieces that pad, begin and end a
        text come first, the 256 bytes next, then pairs in the order of their frequency.

        Args:
            texts: what pairs are counted in.
            size: number of pieces, at least 259; fewer come out where the texts have no more pairs.
        """
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

        size = _validate.integer("size", size, at_least=BYTES + 3)
        tokenizer = Tokenizer(models.BPE())
        cut = pre_tokenizers.Split(Regex(_WORDS), "isolated")
        as_bytes = pre_tokenizers.ByteLevel(False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, as_bytes])  # type: ignore[assignment]
        tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        special = [PAD, BOS, EOS]
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls.of(tokenizer.to_str())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """From a ``tokenizer.json`` of the ``tokenizers`` package; special pieces are those called as ours, or as
        GPT-2's and BERT's are."""
        return cls.of(Path(path).read_text(encoding="utf-8"))

    @classmethod
    def of(cls, rules: str) -> Vocabulary:
        """From what such a file holds."""
        numbers = _tokenizer(rules).get_vocab()
        named = {
            "pad": (PAD, "[PAD]"), "bos": (BOS, "<s>", "<|endoftext|>", "[CLS]"),
            "eos": (EOS, "</s>", "<|endoftext|>", "[SEP]"),
        }  # fmt: skip
        found = {key: next((numbers[n] for n in names if n in numbers), None) for key, names in named.items()}
        return cls(tuple(sorted(numbers, key=numbers.__getitem__)), rules=rules, **found)

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's pieces, without special ones; ``ValueError`` for a word that is no piece."""
        if self.rules:
            return _tokenizer(self.rules).encode(text, add_special_tokens=False).ids
        unknown = [word for word in text.split() if word not in self.pieces]
        if unknown:
            raise ValueError(f"text must be made of pieces, got {unknown[0]!r}")
        return [self.pieces.index(word) for word in text.split()]

    def decode(self, tokens: Tensor | Sequence[int]) -> str:
        """The text of one row of numbers: from after ``bos`` to the first ``eos``; padding is left out."""
        numbers = [int(token) for token in tokens]
        if self.eos is not None and self.eos in numbers:
            numbers = numbers[: numbers.index(self.eos)]
        numbers = [n for n in numbers if n not in (self.bos, self.pad)]
        if self.rules:
            return _tokenizer(self.rules).decode(numbers, skip_special_tokens=False)
        return " ".join(self.pieces[n] for n in numbers)


@lru_cache(maxsize=8)
def _tokenizer(rules: str) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(rules)
