"""A small causal language model, in the form of GPT-2 (Radford et al. 2019)."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.func import functional_call

from .. import _validate
from . import functional, loading
from .zoo import MODELS

TRAINED = Path(__file__).resolve().parents[1] / "data" / "language" / "gpt.safetensors"
"""What ``weights="trained"`` stands for: trained by ``tools/train_gpt.py`` on the public messages."""
SPREAD = 0.2
"""Deviation with which pieces and positions are drawn. GPT-2 has 0.02, for a network a hundred times as wide."""

Cache = Float[Tensor, "blocks 2 batch heads _ size"]
"""Keys and values of all positions so far."""


class Block(nn.Module):
    """Attention to what came before, then two layers for every position by itself; each with its norm first, and added
    to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self, x: Float[Tensor, "batch new width"], past: Float[Tensor, "2 batch heads _ size"] | None, mask: Tensor
    ) -> tuple[Float[Tensor, "batch new width"], Float[Tensor, "2 batch heads _ size"]]:
        batch, new, width = x.shape
        split = self.qkv(self.norm1(x)).view(batch, new, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, present = split[0], split[1:]
        if past is not None:
            present = torch.cat([past, present], -2)
        keys, values = present[0], present[1]
        similar = query @ keys.transpose(-1, -2) / (width // self.heads) ** 0.5
        attended = similar.masked_fill(mask[:, None], -torch.inf).softmax(-1) @ values
        x = x + self.out(attended.transpose(1, 2).reshape(batch, new, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x)))), present


class GPT(nn.Module):
    """Pieces and positions as vectors, blocks, a norm and a linear layer to one logit for every piece.

    The output at a position depends on the pieces up to there, and is about the piece after it.
    """

    def __init__(self, pieces: int, depth: int, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.piece, self.position = nn.Embedding(pieces, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, pieces, bias=False)
        for embedding in (self.piece, self.position):
            nn.init.normal_(embedding.weight, std=SPREAD)

    def forward(
        self,
        tokens: Int64[Tensor, "batch new"],
        cache: Cache | None = None,
        start: Int64[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch new pieces"] | tuple[Float[Tensor, "batch new pieces"], Cache]:
        """Logits; and with a ``cache``, be it empty, the longer cache too: see :func:`glutils.models.step`."""
        past = 0 if cache is None else cache.shape[-2]
        rows = past + torch.arange(tokens.shape[1], device=tokens.device)
        columns = torch.arange(len(rows) + past, device=tokens.device)
        mask = (columns > rows[:, None])[None]  # of what comes later
        places = rows[None]
        if start is not None:  # and of texts before this one
            mask, places = mask | (columns < start[:, None, None]), rows - start[:, None]
        if len(rows) and start is None and past + len(rows) > self.context:
            raise ValueError(f"tokens must be at most {self.context} in a row, the model's context, got {len(columns)}")
        x, presents = self.piece(tokens) + self.position(places), []
        for i, block in enumerate(self.blocks):
            x, present = block(x, None if cache is None else cache[i], mask)
            presents.append(present)
        logits = self.head(self.norm(x))
        return logits if cache is None else (logits, torch.stack(presents))

    def branch(
        self,
        tokens: Int64[Tensor, " new"],
        places: Int64[Tensor, " new"],
        sees: Bool[Tensor, "new past"],
        past: Float[Tensor, "blocks 2 1 heads past size"],
    ) -> tuple[Float[Tensor, "new pieces"], Float[Tensor, "blocks 2 1 heads all size"]]:
        """Logits behind many texts that grow as one tree, and the tree's longer cache.

        Each of the ``tokens`` stands at its place behind the cached pieces that it ``sees``, and sees itself. What
        several texts begin with is cached once, and nothing is copied where a text goes on in more than one way.
        """
        own = torch.eye(len(tokens), dtype=torch.bool, device=tokens.device)
        mask = ~torch.cat([sees, own], 1)[None]
        x, presents = (self.piece(tokens) + self.position(places))[None], []
        for i, block in enumerate(self.blocks):
            x, present = block(x, past[i], mask)
            presents.append(present)
        return self.head(self.norm(x))[0], torch.stack(presents)

    def empty(self, batch: int) -> Cache:
        """The cache before the first position."""
        weight = self.head.weight
        heads, width = self.blocks[0].heads, weight.shape[1]  # type: ignore[index]
        return weight.new_zeros(len(self.blocks), 2, batch, heads, 0, width // heads)  # type: ignore[arg-type]


def step(
    model: nn.Module,
    params: functional.Parameters,
    tokens: Int64[Tensor, "batch new"],
    cache: Cache,
    start: Int64[Tensor, " batch"] | None = None,
) -> tuple[Float[Tensor, "batch new pieces"], Cache]:
    """What the next pieces do, given what is known of those before: logits, and the cache that now holds these too.

    A pure function of ``params``: ``torch.func.vmap`` over stacked parameters and caches evaluates many models at once,
    each with one product of matrices. One piece at a time gives the logits of the whole text, at a cost that grows
    with its length and not with its square.

    Args:
        model: a gpt of :func:`glutils.models.build`.
        params: its parameters, as :func:`glutils.models.parameters` has them.
        tokens: (B, new) int64, the pieces that come next.
        cache: (blocks, 2, B, heads, past, size) of what came before; at first ``model.empty(B)``, in the precision of
            ``params``. Choose hypotheses with ``cache[:, :, chosen]``.
        start: (B,) the number of the cached position at which the text that goes on begins, for a row that holds
            several texts one after the other: none sees an earlier one, and positions count from there. None: 0.

    Returns:
        Logits (B, new, pieces), and the cache with ``past + new`` positions.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> batch = gl.data.sample("messages", seed=0, device="cpu")
        >>> model = gl.models.build("gpt", batch, weights="trained")
        >>> params, cache = gl.models.parameters(model), model.empty(1)
        >>> for piece in batch.images.T:
        ...     logits, cache = gl.models.step(model, params, piece[:, None], cache)
        >>> torch.allclose(logits[:, -1], model(batch.images)[:, -1], atol=1e-4), cache.shape[-2] == batch.shape[0]
        (True, True)
    """
    return functional_call(model, params, (tokens, cache, start))


@torch.no_grad()
def likeliest(model: nn.Module, begin: Int64[Tensor, " known"], length: int) -> Int64[Tensor, " length"]:
    """The text that begins with ``begin`` and goes on, piece by piece, with what the model holds likeliest: (length,).

    Of any model from (B, L) pieces to (B, L, pieces) logits; it is the guess of whoever has the model and no message.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> batch = gl.data.sample("messages", seed=0, device="cpu")
        >>> model = gl.models.build("gpt", batch, weights="trained")
        >>> gl.models.likeliest(model, torch.tensor([batch.vocabulary.bos]), 8).shape
        torch.Size([8])
    """
    params = functional.parameters(model)
    text = begin.to(next(model.parameters()).device)
    for _ in range(_validate.integer("length", length, at_least=len(begin)) - len(begin)):
        following = functional.logits(model, params, text[None])[0, -1].argmax()
        text = torch.cat([text, following[None]])
    return text


@MODELS.register("gpt")
def gpt(
    shape: tuple[int, ...],
    classes: int,
    depth: int = 2,
    width: int = 64,
    heads: int = 4,
    context: int = 64,
    weights: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """A causal language model of two blocks, width 64, four heads, GELU, for texts of up to 64 pieces: from (B, L)
    pieces to (B, L, pieces) logits. 169,728 parameters with 512 pieces; pieces and head are not tied.

    ``weights`` is ``"trained"``, trained on the public messages for two minutes on one core, or what
    :func:`glutils.models.load` takes; None: as drawn.
    """
    for name, value in (("depth", depth), ("width", width), ("heads", heads), ("context", context)):
        _validate.integer(name, value, at_least=1)
    if width % heads:
        raise ValueError(f"width must be a multiple of the {heads} heads, got {width}")
    if shape[0] > context:
        raise ValueError(f"context must be at least the {shape[0]} pieces of the batch, got {context}")
    model = GPT(classes, depth, width, heads, context)
    return model if weights is None else loading.load(TRAINED if weights == "trained" else weights, model)
