"""Texts as vectors in the place of tokens, and the gradient that they would cause: what TAG and LAMP search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.func import functional_call

from ... import _validate, data, models
from ...observation import Observation
from ...solvers import Found, Tally
from ..base import Reconstruction, reconstruction

Gradient = tuple[Tensor, ...]
START = 0.01
"""Deviation of the labels' numbers at the start: nearly all next tokens are held equally likely."""


def table_of(model: nn.Module, pieces: int, attack: str) -> str:
    """Name of the one table of vectors that turns tokens into numbers; ``ValueError`` naming the ``attack`` if there
    are none or several."""
    found = [
        f"{name}.weight" for name, layer in model.named_modules()
        if isinstance(layer, nn.Embedding) and layer.num_embeddings == pieces
    ]  # fmt: skip
    if len(found) != 1:
        raise ValueError(f"attack {attack!r} needs a model with one table of {pieces} vectors, got {len(found)}")
    return found[0]


@dataclass(frozen=True, eq=False)
class Vectors:
    """One gradient of a causal model, and B texts that may have caused it.

    A table of B L vectors in place of the model's own, and tokens 0, 1, 2, ... that read it, make the model a function
    of vectors. Labels are soft: of every next token, probabilities over all pieces.

    Attributes:
        model: as observed.
        table: name of its table of vectors.
        rows: (V, w), the table.
        params: what else is trained, in float32.
        target: the observed gradient of ``params``.
        first: (w,) the vector with which every text begins; None: not known.
        told: (B, L - 1), which places have a loss.
    """

    model: nn.Module
    table: str
    rows: Float[Tensor, "pieces width"]
    params: models.Parameters
    target: Gradient
    first: Float[Tensor, " width"] | None
    told: Bool[Tensor, "batch targets"]

    @classmethod
    def of(cls, seen: Observation, attack: str, lengths: Sequence[int] | None = None) -> Vectors:
        """What is there to be matched.

        Args:
            seen: one gradient; of several messages the first counts.
            attack: whose name errors give.
            lengths: next tokens that count in each text; None: of one text, as observed; of several, all they have.

        Raises:
            ValueError: a model without one table of vectors, or whose table is also another layer's weight; lengths
                that do not add up to the number that the observation tells.
        """
        table, message = table_of(seen.model, seen.classes, attack), seen.rounds[0]
        own = models.parameters(seen.model, torch.float32) | {
            name: p.float() for name, p in (message.parameters or {}).items()
        }
        shared = [n for n, p in seen.model.named_parameters(remove_duplicate=False) if p is _held(seen.model, table)]
        if len(shared) > 1:
            raise ValueError(f"attack {attack!r} needs a table of vectors of its own, got one shared by {shared}")
        rows = own[table] if table in own else _held(seen.model, table).detach().float()
        params = {name: p for name, p in own.items() if name != table}
        target = tuple(message.payload[name].float() for name in params)
        begin = None if seen.vocabulary is None else seen.vocabulary.bos
        told = _told(seen, attack, lengths).to(rows.device)
        return cls(seen.model, table, rows, params, target, None if begin is None else rows[begin], told)

    def start(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Vectors (B, L, w), normal as the table's are, and numbers (B, L - 1, V) whose softmax are the labels."""
        count, places = self.told.shape
        vectors = torch.randn(count, places + 1, self.rows.shape[1], generator=generator).to(self.rows)
        labels = START * torch.randn(count, places, len(self.rows), generator=generator).to(self.rows)
        return self.rows.mean(0) + self.rows.std() * vectors, labels

    def gradient(self, vectors: Tensor, labels: Tensor) -> Gradient:
        """What the client would have sent for vectors (B, L, w) and soft labels (B, L - 1, V), with its graph."""
        if self.first is not None:
            vectors = torch.cat([self.first.expand(len(vectors), 1, -1), vectors[:, 1:]], 1)
        asked = {name: p.detach().requires_grad_() for name, p in self.params.items()}
        order = torch.arange(vectors.shape[0] * vectors.shape[1], device=vectors.device).view(vectors.shape[:2])
        outputs = functional_call(self.model, asked | {self.table: vectors.flatten(0, 1)}, (order,))
        surprise = -(labels * models.output_tensor(outputs)[:, :-1].log_softmax(-1)).sum(-1)
        loss = (surprise * self.told).sum() / self.told.sum()
        return torch.autograd.grad(loss, list(asked.values()), create_graph=True, materialize_grads=True)

    def misfit(self, tokens: Int64[Tensor, "batch length"]) -> float:
        """|gradient of these texts - observed gradient| / |observed gradient|."""
        found = self.gradient(self.rows[tokens], F.one_hot(tokens[:, 1:], len(self.rows)).to(self.rows))
        apart = sum(float((a.detach() - b).square().sum()) for a, b in zip(found, self.target, strict=True))
        return (apart / max(sum(float(b.square().sum()) for b in self.target), 1e-30)) ** 0.5

    def nearest(self, vectors: Tensor) -> Int64[Tensor, "batch length"]:
        """The token whose vector points most nearly where each one does."""
        return (F.normalize(vectors, dim=-1) @ F.normalize(self.rows, dim=-1).T).argmax(-1)

    def tokens(self, vectors: Tensor, labels: Tensor, fixed: int | None) -> Int64[Tensor, "batch length"]:
        """Texts: where vectors and labels say different things, whichever fits the gradient better as a whole.

        Args:
            fixed: the first token, if it is known.
        """
        near = self.nearest(vectors)
        if fixed is not None:
            near[:, 0] = fixed
        said = torch.cat([near[:, :1], labels.argmax(-1)], 1)
        near[:, -1] = said[:, -1]  # of the last token a causal model says nothing: it is only ever predicted
        return min((said, near), key=self.misfit)


def result(seen: Observation, found: Found, searched: Vectors, tally: Tally, **diagnostics: float) -> Reconstruction:
    """The texts that a search for ``searched`` has found, padded as those of the batch are."""
    vocabulary = seen.vocabulary
    tokens = searched.tokens(*found.variables, fixed=None if vocabulary is None else vocabulary.bos)
    inside = torch.cat([torch.ones_like(searched.told[:, :1]), searched.told], 1)
    misfit = searched.misfit(tokens)
    rows = [row[keep].tolist() for row, keep in zip(tokens.cpu(), inside.cpu(), strict=True)]
    padded, labels = (part.to(tokens.device) for part in data.texts.stacked(rows, vocabulary, tokens.shape[1]))
    return reconstruction(found, padded, labels, tally=tally, misfit=misfit, **diagnostics)


def _held(model: nn.Module, name: str) -> Tensor:
    return dict(model.named_parameters(remove_duplicate=False))[name]


def _told(seen: Observation, attack: str, lengths: Sequence[int] | None) -> Tensor:
    """(B, L - 1): which places have a loss."""
    count, length = seen.shape
    every = count * (length - 1)
    if lengths is None:
        lengths = [seen.targets or length - 1] if count == 1 else [length - 1] * count
        if count > 1 and (seen.targets or every) != every:
            raise ValueError(
                f"attack {attack!r} needs lengths= of {count} texts with {seen.targets} targets in all: it does not "
                "find out where a text ends; 'dager' does"
            )
    if isinstance(lengths, str) or len(lengths) != count:
        raise ValueError(f"lengths must have one number of targets for each of {count} texts, got {lengths!r}")
    sizes = [_validate.integer("lengths", n, at_least=1, at_most=length - 1) for n in lengths]
    if seen.targets is not None and sum(sizes) != seen.targets:
        raise ValueError(f"lengths must add up to the {seen.targets} targets of the batch, got {list(lengths)}")
    return torch.arange(length - 1) < torch.tensor(sizes)[:, None]
