"""How the attacker reads a language model: the next token after many prefixes at once, under many weight vectors.

Any causal model will do that turns tokens (B, L) into outputs (B, L, V). Where it also has a method ``branch``, as the
book's ``gpt`` has, prefixes are not read again: keys and values of a token that several prefixes share are kept once.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from ... import models


@dataclass(frozen=True, eq=False)
class Prefixes:
    """N hypotheses of how a sentence begins, as the model sees them.

    Attributes:
        tokens: (N, longest) int64, padded on the right.
        lengths: (N,) int64, at least 1.
        visible: (N, P) bool: which of the P kept tokens each prefix holds, without its last one.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    visible: torch.Tensor

    @classmethod
    def start(cls, tokens: torch.Tensor) -> Prefixes:
        """Prefixes of one token each, (N,)."""
        lengths = torch.ones_like(tokens)
        return cls(tokens[:, None], lengths, tokens.new_zeros((len(tokens), 0), dtype=torch.bool))

    @property
    def last(self) -> torch.Tensor:
        """(N,) the last token of each."""
        return self.tokens.gather(1, self.lengths[:, None] - 1)[:, 0]

    def extended(self, parents: torch.Tensor, tokens: torch.Tensor, fresh: torch.Tensor) -> Prefixes:
        """Prefix ``parents[i]`` with ``tokens[i]`` behind it; where ``fresh``, a new sentence that begins with it."""
        lengths = torch.where(fresh, torch.ones_like(tokens), self.lengths[parents] + 1)
        found = torch.cat([self.tokens[parents], tokens[:, None]], 1)
        found = found.scatter(1, lengths[:, None] - 1, tokens[:, None])[:, : int(lengths.max())]
        own = nn.functional.one_hot(parents, len(self.tokens)).bool()
        visible = torch.cat([self.visible[parents], own], 1) & ~fresh[:, None]
        return Prefixes(found, lengths, visible)


class Reader:
    """Next-token log-probabilities of a model under stacked weights; without memory, for any causal model."""

    def __init__(self, model: nn.Module):
        self.model = model

    def whole(self, weights: models.Parameters, tokens: torch.Tensor) -> torch.Tensor:
        """Outputs (W, N, L, V) for texts (N, L) under W weight vectors."""
        return models.vectorised(self.model, partial(_outputs, self.model, tokens))(weights)

    def next(self, weights: models.Parameters, prefixes: Prefixes, block: int) -> torch.Tensor:
        """Log-probabilities (W, N, V) of the token behind each prefix."""
        at = prefixes.lengths - 1

        def of(params: models.Parameters) -> torch.Tensor:
            return _outputs(self.model, prefixes.tokens, params)[torch.arange(len(at), device=at.device), at]

        return models.vectorised(self.model, of)(weights).log_softmax(-1)

    def forget(self) -> None:
        """Begin another search."""

    def keep(self, visible: torch.Tensor) -> torch.Tensor:
        """Drop what no prefix sees any more; what is left of ``visible``."""
        return visible[:, :0]


class CachedReader(Reader):
    """The same with a memory: one key and one value for each block, weight vector and token of a living prefix.

    Hypotheses that share a beginning share its keys and values, and a mask says who sees what. So nothing is copied
    when the search goes on from one hypothesis twice and from another not at all.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.stepper = _Branch(model)
        self.memory: dict[int, torch.Tensor] = {}
        self.living: torch.Tensor | None = None

    def forget(self) -> None:
        self.memory, self.living = {}, None

    def next(self, weights: models.Parameters, prefixes: Prefixes, block: int) -> torch.Tensor:
        like = next(iter(weights.values()))
        past = self.memory.get(block)
        if past is None:
            past = self.model.empty(1).to(like.dtype).expand(len(like), -1, -1, -1, -1, -1, -1)  # type: ignore[operator]
        elif self.living is not None:
            past = past.index_select(-2, self.living)
        args = (prefixes.last, prefixes.lengths - 1, prefixes.visible)
        of = partial(_branched, self.stepper, args)
        logits, self.memory[block] = torch.func.vmap(of)({f"model.{n}": p for n, p in weights.items()}, past)
        return logits.log_softmax(-1)

    def keep(self, visible: torch.Tensor) -> torch.Tensor:
        self.living = visible.any(0).nonzero()[:, 0]
        return visible[:, self.living]


class _Branch(nn.Module):
    """``model.branch`` as a forward pass, so that it can be called with other parameters."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *args: Any) -> Any:
        return self.model.branch(*args)  # type: ignore[operator]


def _branched(stepper: nn.Module, args: tuple, params: models.Parameters, past: torch.Tensor) -> Any:
    return functional_call(stepper, params, (*args, past))


def _outputs(model: nn.Module, tokens: torch.Tensor, params: models.Parameters) -> torch.Tensor:
    return models.logits(model, params, tokens)


def as_sent(model: nn.Module, client: torch.dtype, dtype: torch.dtype) -> nn.Module:
    """A copy in the attacker's ``dtype``, of which all numbers are such as the client has in its own.

    Parameters that a message is about are replaced at every use; this is for the rest, which nobody trains.
    """
    model = copy.deepcopy(model)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(client).to(dtype)
    return model


def reader_of(model: nn.Module, vocabulary: int, length: int) -> Reader:
    """The fastest reader that gives what the model gives; ``ValueError`` for a model that is not causal.

    Both are found out by trying, on random tokens.
    """
    generator = torch.Generator().manual_seed(0)
    like = next(model.parameters())
    length = max(2, min(length, 12))
    tokens = torch.randint(vocabulary, (2, length), generator=generator).to(like.device)
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % vocabulary
    with torch.no_grad():
        own = models.parameters(model)
        one, two = (models.logits(model, own, t) for t in (tokens, other))
        if one.ndim != 3 or one.shape[:2] != tokens.shape:
            raise ValueError(f"model must give outputs (B, L, V) for tokens (B, L), gives {tuple(one.shape)}")
        if not torch.allclose(one[:, :-1], two[:, :-1], rtol=1e-4, atol=1e-5):
            raise ValueError("model must be causal: here a later token changes what it says about earlier ones")
        if not (callable(getattr(model, "branch", None)) and callable(getattr(model, "empty", None))):
            return Reader(model)
        cached = CachedReader(model)
        stacked = {name: p[None] for name, p in own.items()}
        prefixes = Prefixes.start(tokens[:, 0])
        for at in range(length):
            found = cached.next(stacked, prefixes, 0)[0]
            if not torch.allclose(found, one[:, at].log_softmax(-1), rtol=1e-3, atol=1e-4):
                return Reader(model)
            if at + 1 < length:
                rows = torch.arange(2, device=tokens.device)
                prefixes = prefixes.extended(rows, tokens[:, at + 1], torch.zeros(2, dtype=torch.bool))
                prefixes = Prefixes(prefixes.tokens, prefixes.lengths, cached.keep(prefixes.visible))
        cached.forget()
        return cached
