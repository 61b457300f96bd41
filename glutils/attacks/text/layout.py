"""Two ways to write down a client's texts: one row of all targets, one sentence after the other, or a row for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ... import _validate

IGNORED = _validate.IGNORED
"""Label of a token on which there is no loss."""
NOTHING = -1
"""Behind the end of a flat row that is shorter than others."""


@dataclass(frozen=True)
class Frame:
    """What is known of the texts beforehand.

    Attributes:
        vocabulary: V.
        sentences: how many the client has.
        targets: n, tokens with a loss in all of them together.
        begin: the token with which every sentence begins; None: not known.
        end: the token that ends one; None: sentences end by their length alone.
        length: tokens of a sentence, the first one among them, where it has no end token; where it has, at most.
        never: tokens that no text holds (padding).
    """

    vocabulary: int
    sentences: int
    targets: int
    begin: int | None
    end: int | None
    length: int
    never: tuple[int, ...] = ()

    @property
    def fixed(self) -> set[int]:
        """Tokens that frame a text and are no part of it."""
        return {token for token in (self.begin, self.end, *self.never) if token is not None}

    def ends(self, flat: list[int]) -> list[int]:
        """Where the sentences of a flat row end: the index of each one's last token."""
        last = len(flat) - 1
        if self.end is None:
            return list(range(self.length - 1, last, self.length - 1)) + [last]
        found = [i for i, token in enumerate(flat) if token == self.end and i]
        return found if found and found[-1] == last else [*found, last]


@dataclass(frozen=True, eq=False)
class Sentences:
    """Flat rows (N, T + 1), the first token and all targets, as sentences that a model reads.

    Attributes:
        tokens: (S, L) int64, padded on the right.
        labels: (S, L), :data:`IGNORED` where there is no loss.
        rows, places: (N, T) where in ``tokens`` the prefix of each target ends; 0 where there is none.
        told: (N, T) bool.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    places: torch.Tensor
    told: torch.Tensor

    @classmethod
    def of(cls, flat: torch.Tensor, frame: Frame) -> Sentences:
        """Those of flat rows, :data:`NOTHING` behind the end of one."""
        count, length = flat.shape
        sentences: list[list[int]] = []
        rows = torch.zeros(count, length - 1, dtype=torch.int64)
        places, told = rows.clone(), rows.bool()
        for number, line in enumerate(flat.tolist()):
            line = [token for token in line if token != NOTHING]
            start = 0
            for end in frame.ends(line):
                first = line[0] if not start else (frame.begin if frame.begin is not None else line[0])
                sentence = [first, *line[start + 1 : end + 1]]
                for place in range(len(sentence) - 1):
                    rows[number, start + place], places[number, start + place] = len(sentences), place
                    told[number, start + place] = True
                sentences.append(sentence)
                start = end
        longest = max(map(len, sentences))
        tokens = torch.zeros(len(sentences), longest, dtype=torch.int64)
        labels = torch.full_like(tokens, IGNORED)
        for i, sentence in enumerate(sentences):
            tokens[i, : len(sentence)] = torch.tensor(sentence)
            labels[i, 1 : len(sentence)] = tokens[i, 1 : len(sentence)]
        return cls(*(part.to(flat.device) for part in (tokens, labels, rows, places, told)))

    @classmethod
    def cut(cls, flat: torch.Tensor, lengths: list[int]) -> Sentences:
        """Those of one flat row, finished or not, of which the lengths are known."""
        frames = [Frame(0, 1, length, None, None, length + 1) for length in lengths]
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        rows = [torch.cat([flat[:1], flat[1 + s : 1 + s + n]]) for s, n in zip(starts, lengths, strict=True)]
        own = [cls.of(row[None], frame) for row, frame in zip(rows, frames, strict=True)]
        pad = torch.nn.utils.rnn.pad_sequence
        tokens = pad([one.tokens[0] for one in own], batch_first=True)
        labels = pad([one.labels[0] for one in own], batch_first=True, padding_value=IGNORED)
        return cls(tokens, labels, own[0].rows, own[0].places, own[0].told)

    def shared(self) -> Sentences:
        """The same, but a sentence with which another one begins is read there: a causal model makes no difference."""
        lines = [row[: 1 + int(told)].tolist() for row, told in zip(self.tokens, self.lengths, strict=True)]
        kept: list[int] = []
        where: dict[tuple[int, ...], int] = {}
        for i in sorted(range(len(lines)), key=lambda i: -len(lines[i])):
            line = tuple(lines[i])
            if line not in where:
                where |= {line[:end]: len(kept) for end in range(1, len(line) + 1) if line[:end] not in where}
                kept.append(i)
        new = torch.tensor([where[tuple(line)] for line in lines], device=self.rows.device)
        return Sentences(self.tokens[kept], self.labels[kept], new[self.rows], self.places, self.told)

    @property
    def lengths(self) -> torch.Tensor:
        """(S,) how many targets each sentence has."""
        return (self.labels[:, 1:] != IGNORED).sum(1)
