"""ZeroGLA on classification by text: a sentence, one label word behind it, and a loss on that word alone.

Only the last position has a loss, so the scalars are no additive code: every token enters through the last position.
But they are smooth in the vectors that stand for the tokens, and least squares finds those, as it finds pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.func import functional_call, grad_and_value, vmap

from ... import _validate, models, solvers
from ...observation import Observation
from ..base import Card, Reconstruction, register
from .certificate import certify
from .layout import IGNORED
from .pairs import Pairs
from .vectors import table_of

SPREAD = 0.3
"""Starting points differ from the mean of all vectors by this share of their spread."""
TOGETHER = 64
"""Scalars whose weight vectors go through the model at a time: there is so little to compute for each."""
ACCURATE = 1e-4
"""Root mean square of what is left, in units of the scalars, at which vectors are near enough to their tokens."""
FITS = 1e-3
"""Misfit of the vectors at which no further start is made."""


@register(
    "zerogla_label_word",
    Card(
        title="ZeroGLA on one label word",
        kinds=("scalars",),
        several=("scalars",),
        simulates="ZerothOrder",
        variable="vectors of tokens, then the tokens",
        distance="squared difference of scalars",
        prior="spread of the model's vectors",
        solver="Gauss-Newton",
        labels="each label word is tried",
        source="zheng2025zerogla",
        records=("tokens",),
    ),
)
def zerogla_label_word(
    seen: Observation,
    *,
    words: Sequence[int] | None = None,
    seed: int = 0,
    restarts: int = 4,
    iterations: int = 60,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """The sentence of a client that fine-tunes a language model to classify it, from the scalars of one label word.

    In the manner of MeZO and DeComFL, the client's text ends with a label word, and only this word has a loss. The
    attacker searches T vectors of width d in the place of the T tokens, T d numbers, by Gauss-Newton on the scalars'
    equations in float64, and takes the nearest token for each. So it wants about T d scalars, and gets no help from a
    language model as ``"zerogla_text"`` does. Where the table of vectors is trained too, the rows that a direction adds
    to the tokens are those of the nearest tokens at hand. Ours, and not peer-reviewed.

    Args:
        words: pieces that may be the label word; public, since they belong to the task. Required.
        restarts: starting points; each is tried with every word until one explains the scalars.
        iterations: Gauss-Newton steps of each.
        seconds: time budget.

    Returns:
        ``tokens`` (1, L); ``diagnostics``: ``misfit`` of the tokens in the client's own arithmetic, ``tolerance``,
        ``certified`` (the misfit is round-off), ``continuous`` (misfit of the vectors), ``unknowns``, ``scalars``.

    Raises:
        ValueError: several texts, a loss on more than one token, no ``words``, a model without one table of vectors.

    Example:
        >>> import glutils as gl
        >>> text, word = gl.data.from_texts(["My card was lost."]), 300
        >>> tokens = text.images[:, [0, 1, 2, -1]].index_fill(1, torch.tensor([3]), word)
        >>> labels = torch.full_like(tokens, -100).index_fill(1, torch.tensor([3]), word)
        >>> batch = gl.data.Batch(tokens, labels, text.classes, vocabulary=text.vocabulary)
        >>> model = gl.models.build("gpt", batch, depth=1, width=16, heads=2, seed=0)
        >>> protocol = gl.protocols.ZerothOrder(directions=64, mu=1e-3, law="gaussian", seed=5)
        >>> seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
        >>> result = gl.attack("zerogla_label_word", seen, words=[300, 301])
        >>> bool(gl.score(result, batch).exact)
        True
    """
    if seen.shape[0] != 1 or (seen.targets or 1) != 1:
        raise ValueError(
            f"attack 'zerogla_label_word' takes one text with a loss on its last token alone, got {seen.shape[0]} with "
            f"{seen.targets} targets; where every token has a loss, 'zerogla_text' decodes"
        )
    if words is None or isinstance(words, str) or not len(words):
        raise ValueError(f"words must hold the pieces that may be the label word, got {words!r}")
    chosen = [_validate.integer("words", word, at_least=0, at_most=seen.classes - 1) for word in words]
    table = table_of(seen.model, seen.classes, "zerogla_label_word")
    with torch.no_grad():
        pairs = Pairs(seen, dtype=torch.float64)
        pairs.block = min(pairs.count, max(pairs.block, TOGETHER))
    begin = None if seen.vocabulary is None else seen.vocabulary.bos
    starts = iter([(start, word) for start in range(restarts) for word in chosen])

    def solve(trace: solvers.Trace, generator: torch.Generator) -> None:
        start, word = next(starts)
        equations = Equations(pairs, table, word, begin, seen.shape[1] - 1)
        u = equations.start(generator, 0.0 if start == 0 else SPREAD)
        solvers.gauss_newton(
            equations, u, trace.stage(equations.state), iterations=iterations, prior=equations.prior,
            centre=equations.centre, calibrate=False, accuracy=ACCURATE,
        )  # fmt: skip

    count = restarts * len(chosen)
    found = solvers.search(
        solve, iterations=iterations, restarts=count, seed=seed, seconds=seconds, progress=progress,
        label="zerogla_label_word", success=lambda loss: loss < FITS**2,
    )  # fmt: skip
    return _result(seen, found, Equations(pairs, table, chosen[0], begin, seen.shape[1] - 1))


class Equations:
    """K equations in the vectors of T tokens: a :class:`~glutils.solvers.LeastSquares` problem with dense rows.

    A table of T vectors in place of the model's own, and tokens 0, 1, 2, ... that read it, make the model a function of
    vectors.
    """

    def __init__(self, pairs: Pairs, table: str, word: int, begin: int | None, length: int):
        self.pairs, self.table, self.word, self.begin = pairs, table, word, begin
        self.vectors = dict(pairs.model.named_parameters())[table].detach().double()
        self.known = 0 if begin is None else 1
        self.length, self.width = length, self.vectors.shape[1]
        self.count, self.unknowns = pairs.count, (length - self.known) * self.width
        self.scale = float(pairs.scalars.square().mean().sqrt()) or 1.0
        centred = self.vectors - self.vectors.mean(0)
        spread = centred.T @ centred / len(centred)
        spread.diagonal().add_(1e-3 * float(spread.diagonal().mean()))
        self._one = torch.linalg.inv(spread)
        self.centre = self.vectors.mean(0).repeat(length - self.known)
        self._at: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def start(self, generator: torch.Generator, spread: float) -> torch.Tensor:
        """A starting point (D,), in the middle of all vectors."""
        away = torch.randn(self.unknowns, generator=generator, dtype=torch.float64).to(self.vectors.device)
        return self.centre + (0.05 + spread) * float(self.vectors.std()) * away

    def prior(self, u: torch.Tensor) -> torch.Tensor:
        """(D, D), the inverse covariance of the model's vectors, for each token by itself."""
        return torch.block_diag(*[self._one] * (self.length - self.known))

    def tokens(self, u: torch.Tensor) -> torch.Tensor:
        """(L,) the nearest tokens, with the first one where it is known, and the label word."""
        near = torch.cdist(u.view(-1, self.width), self.vectors).argmin(1)
        first = near.new_tensor([] if self.begin is None else [self.begin], dtype=torch.int64)
        return torch.cat([first, near, near.new_tensor([self.word])])

    def state(self, variables: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Tokens (1, L), for the history."""
        return (self.tokens(variables[0])[None],)

    def evaluate(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """r(u) (K,), in units of the scalars' size, and J.T r (D,)."""
        r, rows = self._rows(u)
        return r, rows.T @ r

    def jtj_vector(self, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """J v and J.T J v."""
        rows = self._rows(u)[1]
        return rows @ v, rows.T @ (rows @ v)

    def vjp(self, u: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """J.T r."""
        return self._rows(u)[1].T @ r

    def gram(self, u: torch.Tensor) -> torch.Tensor:
        """J.T J."""
        rows = self._rows(u)[1]
        return rows.T @ rows

    def calibrate(self, u: torch.Tensor) -> solvers.Calibration:
        """Nothing is learnt of the noise."""
        return solvers.Calibration(0.0, 0.0, self)

    def _rows(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """r (K,) and J (K, D), kept for the last point."""
        if self._at is not None and torch.equal(self._at[0], u):
            return self._at[1:]
        trained, near = self.table in models.parameters(self.pairs.model), self.tokens(u)[:-1]
        whole = dict(self.pairs.model.named_parameters()) | dict(self.pairs.model.named_buffers())
        fixed = {name: p.detach().double() if p.is_floating_point() else p for name, p in whole.items()}
        first = self.vectors[near[: self.known]].flatten()
        order = torch.arange(self.length, device=u.device)[None]

        def loss(point: torch.Tensor, weights: models.Parameters) -> torch.Tensor:
            rows = torch.cat([first, point]).view(self.length, self.width)
            if trained:  # the client's table differs from the model's where its tokens stand
                rows = rows + weights[self.table][near] - self.vectors[near]
            outputs = functional_call(self.pairs.model, fixed | weights | {self.table: rows}, (order,))
            return -outputs[0, -1].log_softmax(-1)[self.word]

        both, parts, slopes = vmap(grad_and_value(loss), in_dims=(None, 0)), [], []
        for where, weights in self.pairs.blocks():
            gradients, losses = both(u, weights)
            factor = self.pairs.weights[where].double() / self.pairs.spans[where].double()
            parts.append((gradients.chunk(2)[0] - gradients.chunk(2)[1]) * factor[:, None])
            slopes.append((losses.chunk(2)[0] - losses.chunk(2)[1]) * factor)
        r = (torch.cat(slopes) - self.pairs.scalars.to(u)) / self.scale
        self._at = (u.clone(), r.detach(), torch.cat(parts).detach() / self.scale)
        return self._at[1:]


def _result(seen: Observation, found: solvers.Found, equations: Equations) -> Reconstruction:
    """The sentence, and whether it is certain."""
    tokens = found.variables[0]
    labels = torch.full_like(tokens, IGNORED)
    labels[:, -1] = tokens[:, -1]
    certificate = certify(seen, tokens, labels, 0.0)
    notes = () if found.stopped is None else (found.stopped,)
    fits = certificate.misfit <= certificate.tolerance
    if not fits:
        notes += (f"not certified: the scalars are explained to {certificate.misfit:.2g} of their size",)
    if equations.count < equations.unknowns:
        notes += (f"{equations.count} scalars for {equations.unknowns} numbers: the prior decides the rest",)
    numbers = {"misfit": certificate.misfit, "tolerance": certificate.tolerance, "certified": float(fits)}
    numbers |= {"continuous": math.sqrt(max(found.loss, 0.0)), "unknowns": float(equations.unknowns)}
    return Reconstruction(
        tokens, labels, found.loss, replace(found.history, frames=()), notes=notes,
        diagnostics=numbers | {"scalars": float(equations.count)},
    )  # fmt: skip
