"""The additive code: what every next token would add to every scalar.

With n targets in the client's mean, a central difference of its loss is, exactly and for any step mu,

    s_k = sum over targets i of a_k(t_<=i -> t_{i+1}),
    a_k(prefix -> v) = -[log p_{theta_k + mu z_k}(v | prefix) - log p_{theta_k - mu z_k}(v | prefix)] / (2 mu n),

because the loss is a sum over positions and a causal model's position i sees no later token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .layout import Frame, Sentences
from .pairs import Pairs
from .reader import Prefixes, Reader

LOGITS = 2**23
"""Most entries of outputs (weights, texts, tokens, vocabulary) that are held at a time."""


@dataclass(frozen=True, eq=False)
class Code:
    """n times the contributions, so that nothing but the target n s depends on n.

    Attributes:
        pairs: the weight vectors.
        reader: the model.
        frame: what is known of the texts.
        goal: (K,) n s, where other texts have been taken off it; None: n s.
        others: (K, K) covariance of what other texts add to the scalars that are not known yet; None: nothing.
    """

    pairs: Pairs
    reader: Reader
    frame: Frame
    goal: torch.Tensor | None = None
    others: torch.Tensor | None = None

    @property
    def count(self) -> int:
        """K."""
        return self.pairs.count

    @property
    def target(self) -> torch.Tensor:
        """n s, (K,), of these texts."""
        if self.goal is not None:
            return self.goal
        return (self.pairs.scalars * self.frame.targets).to(self.pairs.dtype)

    @property
    def noise(self) -> torch.Tensor:
        """Standard deviation of the noise that defences are known to add to n s, (K,)."""
        told = [
            torch.full((len(entry.payload),), entry.protocol.noise(entry.payload, self.frame.sentences))
            for entry in self.pairs.rounds
        ]
        return torch.cat(told).to(self.pairs.weights) * self.pairs.weights * self.frame.targets

    def next(self, prefixes: Prefixes) -> tuple[torch.Tensor, torch.Tensor]:
        """Contributions (K, N, V) of each token behind each prefix, and its log-probability (N, V).

        The log-probability is the mean over all weight vectors: the attacker's own language model.
        """
        parts, prior = [], torch.zeros(())
        for number, (where, weights) in enumerate(self.pairs.blocks()):
            found = self.reader.next(weights, prefixes, number)
            prior = found.sum(0) + prior.to(found)
            parts.append(self._differences(found, where))
        return torch.cat(parts), prior / (2 * self.count)

    def texts(self, flat: torch.Tensor, every: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Contributions (K, N, T) of the targets of flat texts (N, T + 1), 0 behind the end of one, and their
        log-probabilities (N, T).

        Args:
            every: only each so many blocks of scalars.
        """
        written = Sentences.of(flat, self.frame).shared()
        index = written.labels[:, 1:].clamp(min=0)
        parts, prior, seen = [], torch.zeros(()), 0
        for where, weights in self.pairs.blocks(every):
            count = 2 * (where.stop - where.start)
            size = max(1, LOGITS // (count * written.tokens.shape[1] * self.frame.vocabulary))
            rows = []
            for tokens, own in zip(written.tokens.split(size), index.split(size), strict=True):
                outputs = self.reader.whole(weights, tokens)[:, :, :-1]
                own = own[None, :, :, None].expand(len(outputs), -1, -1, 1)
                rows.append(outputs.gather(-1, own)[..., 0] - outputs.logsumexp(-1))
            found = torch.cat(rows, 1)[:, written.rows, written.places] * written.told
            prior, seen = found.sum(0) + prior.to(found), seen + count
            parts.append(self._differences(found, where))
        return torch.cat(parts), prior / seen

    def table(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Contributions (K, n, V) of every token behind every prefix of one flat text (n + 1,), and log-probabilities
        (n, V)."""
        written = Sentences.of(flat[None], self.frame)
        parts, prior = [], torch.zeros(())
        for where, weights in self.pairs.blocks():
            found = self.reader.whole(weights, written.tokens)[:, written.rows[0], written.places[0]].log_softmax(-1)
            prior = found.sum(0) + prior.to(found)
            parts.append(self._differences(found, where))
        return torch.cat(parts), prior / (2 * self.count)

    def misfits(self, flat: torch.Tensor, every: int = 1) -> torch.Tensor:
        """|n s - sum of contributions| / |n s| of flat texts, (N,)."""
        found, _ = self.texts(flat, every)
        part = self.target[self.part(every)]
        return (part[:, None] - found.sum(2)).norm(dim=0) / part.norm().clamp(min=1e-30)

    def part(self, every: int) -> torch.Tensor:
        """The numbers of the scalars in each ``every``-th block."""
        block = self.pairs.block
        found = torch.arange(self.count, device=self.pairs.weights.device)
        return found[(found // block) % every == 0]

    def _differences(self, found: torch.Tensor, where: slice) -> torch.Tensor:
        """(2 n, ...) log-probabilities ahead and behind to (n, ...) slopes."""
        ahead, behind = found.chunk(2)
        factor = -(self.pairs.weights[where] / self.pairs.spans[where].to(self.pairs.weights)).to(found)
        return (ahead - behind).mul_(factor.view(-1, *[1] * (found.ndim - 1)))
