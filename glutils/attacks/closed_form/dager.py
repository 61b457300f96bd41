"""Texts from one gradient, by asking which inputs lie in its span (DAGER, Petrov et al. 2024)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ... import _validate, data, models
from ...observation import Observation
from ..base import Card, Reconstruction, register
from .held import gradient_of

NEAR = 1e-2
"""Share of an input's length that may stick out of the span, beside what the gradient's round-off explains."""
MOST = 4096
"""Beginnings of texts that are followed at a time."""
CHUNK = 2**22
"""Numbers of inputs that are looked at in one pass."""


@register(
    "dager",
    Card(
        title="DAGER",
        kinds=("gradient",),
        simulates="the first layers, on beginnings of texts",
        variable="which pieces follow",
        distance="from the span of a layer's gradient",
        prior="none",
        solver="every piece, then left to right",
        labels="the next pieces, read from the last layer",
        source="petrov2024dager",
        records=("tokens",),
    ),
)
def dager(seen: Observation, *, near: float = NEAR, most: int = MOST, seed: int = 0) -> Reconstruction:
    """Texts of a causal model from the gradient of one batch, exactly, if the model is wider than there are positions.

    A linear layer's gradient is a sum over positions of (slope) x (input). So its rows span the inputs of all positions
    that have a slope, and nothing else, as long as these are fewer than the layer's inputs.

    1. The first linear layer's input is that of a piece at a place: every piece is tried at every place.
    2. A layer behind attention has an input that depends on the text up to there: of the pieces that passed, those are
       kept that continue a beginning so that this input lies in the span too. From left to right, nothing is guessed.
    3. The last piece of a text is only ever predicted. It, how many texts share a beginning, and where a text ends are
       read from the last layer: with all its inputs known, its gradient gives p - y at every position. This step is
       this book's.

    What differs from the paper: both checks are taken in float64 with one threshold, which makes room for the round-off
    in directions of which the gradient holds little; and the layer behind attention is found by trying the model, so
    that any causal model of linear layers will do. A position at which the model is certain has no slope, and is lost.

    Args:
        near: share of an input's length that may stick out of the span and still counts as inside, between 0 and 1,
            beside what the gradient's round-off explains.
        most: beginnings that are followed at a time; more than that is refused, since the check tells nothing then.
        seed: not used.

    Raises:
        ValueError: a model without such layers; a batch with as many positions as the model is wide, or more.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("messages", count=2, seed=0, device="cpu")
        >>> model, protocol = gl.models.build("gpt", batch, weights="trained"), gl.protocols.FedSGD()
        >>> seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
        >>> gl.score(gl.attack("dager", seen), batch).exact
        tensor([True, True])
    """
    near, most = _validate.number("near", near, above=0, at_most=1), _validate.integer("most", most, at_least=1)
    reader = _Reader.of(seen)
    first, behind = (Span.of(seen.payload[f"{name}.weight"], near) for name in (reader.first, reader.behind))
    for span, name in ((first, reader.first), (behind, reader.behind)):
        if span.full:
            raise ValueError(
                f"attack 'dager' needs a layer with more inputs than the batch has positions, but the gradient of "
                f"{name!r} spans all of its {span.width} inputs; 'tag' and 'lamp' search, and need no room"
            )
    pieces = _pieces(reader, first, seen)
    tree = _grown(reader, behind, pieces, most)
    found, notes = _ended(reader, tree, seen)
    size = seen.shape[0]
    if len(found) != size:
        notes += (f"{len(found)} texts were found, of {size}",)
    filled = [*found, *[found[-1] if found else [0, 0]] * size][:size]
    tokens, labels = (part.to(reader.device) for part in data.texts.stacked(filled, seen.vocabulary))
    about = {"rank": float(len(first.basis)), "beginnings": float(len(tree)), "found": float(len(found))}
    missing = float(abs(len(found) - size))
    return Reconstruction(tokens, labels, missing, notes=notes, diagnostics=about, evaluations=0, pullbacks=0)


@dataclass(frozen=True)
class Span:
    """What the rows of a layer's gradient span.

    Attributes:
        basis: (r, m), orthonormal.
        blur: (r,) by how much each of them may be turned by the round-off of the gradient.
        near: share of an input's length that may stick out anyway.
    """

    basis: Tensor
    blur: Tensor
    near: float

    @classmethod
    def of(cls, gradient: Tensor, near: float) -> Span:
        """That of a gradient (out, m). Singular values below machine epsilon times the largest are round-off."""
        _, sizes, rows = torch.linalg.svd(gradient.double(), full_matrices=False)
        blur = torch.finfo(gradient.dtype).eps * sizes[0] / sizes
        return cls(rows[blur < 1], blur[blur < 1], near)

    @property
    def width(self) -> int:
        """How many inputs the layer has."""
        return self.basis.shape[1]

    @property
    def full(self) -> bool:
        """Whether every input lies in it."""
        return len(self.basis) >= self.width

    def holds(self, inputs: Tensor) -> Tensor:
        """Which of the inputs (..., m) lie in it, bool (...)."""
        inputs = inputs.double()
        along = inputs @ self.basis.T
        room = self.near * inputs.norm(dim=-1) + (along * self.blur).norm(dim=-1)
        return (inputs - along @ self.basis).norm(dim=-1) < room


class _Enough(Exception):
    """The layers that were asked for have run."""


@dataclass(frozen=True, eq=False)
class _Reader:
    """The inputs of a model's layers for any texts.

    Attributes:
        model: as observed.
        first, behind, last: names of the first linear layer, of one behind attention, and of the head.
        pieces: how many there are.
    """

    model: nn.Module
    first: str
    behind: str
    last: str
    pieces: int

    @classmethod
    def of(cls, seen: Observation) -> _Reader:
        """That of an observation; ``ValueError`` if the model has no such layers."""
        model = seen.model
        last, _ = models.last_linear(model, seen.shape)
        ran = models.layers_with_parameters(model, seen.shape)
        layers = [name for name, layer in ran if isinstance(layer, nn.Linear) and f"{name}.weight" in seen.payload]
        layers = [name for name in layers if name != last]
        two = torch.zeros(2, seen.shape[1], dtype=torch.int64)
        two[1, 0] = 1  # what only the first piece can make differ at the second place sees the text so far
        held = cls(model, "", "", last, seen.classes).inputs(two, layers)
        blind = [name for name in layers if bool((held[name][0, 1] == held[name][1, 1]).all())]
        sees = [name for name in layers if name not in blind]
        if not blind or not sees or layers[0] != blind[0]:
            raise ValueError(
                "attack 'dager' needs a causal model with linear layers that are trained before and behind attention; "
                "'tag' and 'lamp' take others"
            )
        shapes = {name: seen.payload[f"{name}.weight"].shape for name in layers}
        like = [name for name in sees if shapes[name] == shapes[blind[0]]]  # of the next block, as the paper has it
        return cls(model, blind[0], (like or sees)[0], last, seen.classes)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def inputs(self, tokens: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """What layers are fed with for texts (N, l): (N, l, m) each, in float64; with the head, also the outputs."""
        modules, held = dict(self.model.named_modules()), {}
        params = models.parameters(self.model, torch.float64)

        def note(name: str, fed: Tensor) -> None:
            held[name] = fed
            if len(held) == len(names) and self.last not in held:
                raise _Enough

        with models.before_layers({name: modules[name] for name in names}, note), contextlib.suppress(_Enough):
            held["outputs"] = models.logits(self.model, params, tokens.to(self.device))
        return held


def _pieces(reader: _Reader, span: Span, seen: Observation) -> list[Tensor]:
    """The pieces that may stand at every place of a text, by the first layer."""
    size, found = max(1, CHUNK // (seen.shape[1] * span.width)), []
    for numbers in torch.arange(reader.pieces).split(size):
        inputs = reader.inputs(numbers[:, None].expand(-1, seen.shape[1]), [reader.first])[reader.first]
        found.append(span.holds(inputs).cpu())
    inside = torch.cat(found)
    return [inside[:, place].nonzero()[:, 0] for place in range(seen.shape[1])]


def _grown(reader: _Reader, span: Span, pieces: list[Tensor], most: int) -> list[tuple[int, ...]]:
    """All beginnings of texts whose every position lies in the span behind attention, shorter ones first."""
    found: list[tuple[int, ...]] = []
    edge: list[tuple[int, ...]] = [()]
    for allowed in pieces:
        tried = [(*before, int(piece)) for before in edge for piece in allowed]
        if len(tried) > most:
            raise ValueError(
                f"attack 'dager' finds {len(tried)} beginnings of texts, more than most={most}: the gradient's span "
                "says too little, with noise in it or with almost as many positions as the model is wide; 'tag' and "
                "'lamp' need no span"
            )
        if not tried:
            break
        inputs = reader.inputs(torch.tensor(tried), [reader.behind])[reader.behind][:, -1]
        edge = [text for text, inside in zip(tried, span.holds(inputs).tolist(), strict=True) if inside]
        found += edge
    return found


def _ended(reader: _Reader, tree: list[tuple[int, ...]], seen: Observation) -> tuple[list[list[int]], tuple[str, ...]]:
    """The texts, as often as they occur: what follows every beginning, by the last layer's gradient.

    That is sum over beginnings of (c p - y) h / n, where c texts share the beginning, h is the layer's input, p the
    model's probabilities, and y counts what comes next. With all h known it is a system of linear equations. What is
    found to follow is a beginning too, be its slopes ever so small; so it is solved again until nothing is new.
    """
    if not tree:
        return [], ("no beginning of a text lies in the gradient's span",)
    gradient = gradient_of(seen, "dager", f"{reader.last}.weight", "'tag' and 'lamp' use what there is").double().cpu()
    h, p = _last_inputs(reader, tree)
    for _ in range(seen.shape[1]):
        slopes = torch.linalg.lstsq(h.T, gradient.T, driver="gelsd").solution * (seen.targets or 1)
        found, new = _counted(dict(zip(tree, zip(slopes, p, strict=True), strict=True)), seen)
        if not new:
            break
        tree = [*tree, *new]
        h, p = (torch.cat(pair) for pair in zip((h, p), _last_inputs(reader, new), strict=True))
    return found, ("more beginnings than the last layer has inputs: how texts end is a guess",) * (len(h) > h.shape[1])


def _counted(
    slopes: Mapping[tuple[int, ...], tuple[Tensor, Tensor]], seen: Observation
) -> tuple[list[list[int]], list[tuple[int, ...]]]:
    """Texts that have ended, as often as they do; and beginnings that are not among those of the ``slopes`` yet.

    Args:
        slopes: of beginnings: n times the head's slopes (V,), which are c p - y, and p.
        seen: tells where texts end.
    """
    end = None if seen.vocabulary is None else seen.vocabulary.eos
    shares = {text: s for text, s in slopes.items() if len(text) == 1}
    # c of a first piece: all pieces that do not follow show c p; from there on it is what the one before says
    edge = {text: round(float((slope / chance).median())) for text, (slope, chance) in shares.items()}
    ended: list[list[int]] = []
    new: list[tuple[int, ...]] = []
    while edge:
        longer: dict[tuple[int, ...], int] = {}
        for text, count in edge.items():
            if text not in slopes:
                new.append(text)
                continue
            slope, chance = slopes[text]
            follows = (count * chance - slope).round().long().clamp_min(0)
            for piece in follows.nonzero()[:, 0].tolist():
                longer[*text, piece] = int(follows[piece])
            ended += [list(text)] * max(0, count - int(follows.sum()))
        done = {text for text in longer if text[-1] == end or len(text) == seen.shape[1]}
        ended += [list(text) for text in done for _ in range(longer[text])]
        edge = {text: count for text, count in longer.items() if text not in done}
    return ended, new


def _last_inputs(reader: _Reader, tree: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """What the head is fed with at the end of each beginning, (N, m), and the model's probabilities, (N, V)."""
    held: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
    for length in {len(text) for text in tree}:
        alike = [text for text in tree if len(text) == length]
        now = reader.inputs(torch.tensor(alike), [reader.last])
        ends, chances = now[reader.last][:, -1].cpu(), now["outputs"][:, -1].softmax(-1).cpu()
        held |= dict(zip(alike, zip(ends, chances, strict=True), strict=True))
    return torch.stack([held[text][0] for text in tree]), torch.stack([held[text][1] for text in tree])
