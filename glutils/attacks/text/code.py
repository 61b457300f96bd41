"""The additive code: what every next token would add to every scalar.

With n targets in the client's mean, a central difference of its loss is, exactly and for any step mu,

    s_k = sum over targets i of a_k(t_<=i -> t_{i+1}),
    a_k(prefix -> v) = -[log p_{theta_k + mu z_k}(v | prefix) - log p_{theta_k - mu z_k}(v | prefix)] / (2 mu n),

because the loss is a sum over positions and a causal model's position i sees no later token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .pairs import Pairs
from .reader import Prefixes, Reader

IGNORED = -100
"""Label of a token on which there is no loss."""
LOGITS = 2**23
"""Most entries of outputs (weights, texts, tokens, vocabulary) that are held at a time."""


@dataclass(frozen=True, eq=False)
class Code:
    """n times the contributions, so that nothing but the target n s depends on n.

    Attributes:
        pairs: the weight vectors.
        reader: the model.
    """

    pairs: Pairs
    reader: Reader

    @property
    def count(self) -> int:
        """K."""
        return self.pairs.count

    def next(self, prefixes: Prefixes) -> tuple[torch.Tensor, torch.Tensor]:
        """Contributions (K, N, V) of each token behind each prefix, and its log-probability (N, V).

        The log-probability is the mean over all weight vectors: the attacker's own language model.
        """
        parts, prior = [], None
        for number, (where, weights) in enumerate(self.pairs.blocks()):
            found = self.reader.next(weights, prefixes, number)
            prior = found.sum(0) if prior is None else prior + found.sum(0)
            parts.append(self._differences(found, where))
        assert prior is not None
        return torch.cat(parts), prior / (2 * self.count)

    def texts(self, tokens: torch.Tensor, labels: torch.Tensor, every: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Contributions (K, N, L - 1) of the targets of whole texts, and their log-probabilities (N, L - 1).

        Args:
            tokens: (N, L) int64.
            labels: (N, L), the tokens that are predicted, :data:`IGNORED` elsewhere: there the contribution is 0.
            every: only each so many blocks of scalars.
        """
        targets = labels[:, 1:]
        told = targets != IGNORED
        index = targets.clamp(min=0)
        parts, prior, seen = [], torch.zeros(targets.shape, device=tokens.device), 0
        for where, weights in self.pairs.blocks(every):
            count = 2 * (where.stop - where.start)
            vocabulary = self._vocabulary(tokens)
            size = max(1, LOGITS // (count * tokens.shape[1] * vocabulary))
            rows = []
            for first in range(0, len(tokens), size):
                outputs = self.reader.whole(weights, tokens[first : first + size])[:, :, :-1]
                own = index[first : first + size][None, :, :, None].expand(len(outputs), -1, -1, 1)
                rows.append((outputs.gather(-1, own)[..., 0] - outputs.logsumexp(-1)) * told[first : first + size])
            found = torch.cat(rows, 1)
            prior, seen = prior + found.sum(0), seen + count
            parts.append(self._differences(found, where))
        return torch.cat(parts), prior / seen

    def table(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Contributions (K, L, V) of every token behind every prefix of one text (L,), and log-probabilities (L, V)."""
        parts, prior = [], 0
        for where, weights in self.pairs.blocks():
            found = self.reader.whole(weights, tokens[None])[:, 0].log_softmax(-1)
            prior = prior + found.sum(0)
            parts.append(self._differences(found, where))
        return torch.cat(parts), prior / (2 * self.count)

    def _differences(self, found: torch.Tensor, where: slice) -> torch.Tensor:
        """(2 n, ...) log-probabilities ahead and behind to (n, ...) slopes."""
        ahead, behind = found.chunk(2)
        factor = -(self.pairs.weights[where] / self.pairs.spans[where].to(self.pairs.weights)).to(found)
        return (ahead - behind).mul_(factor.view(-1, *[1] * (found.ndim - 1)))

    def _vocabulary(self, tokens: torch.Tensor) -> int:
        where, weights = next(iter(self.pairs.blocks()))
        one = {name: p[:1] for name, p in weights.items()}
        return self.reader.whole(one, tokens[:1, :1]).shape[-1]
