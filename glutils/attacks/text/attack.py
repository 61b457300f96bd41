"""ZeroGLA on texts: a client's messages from the scalars of zeroth-order fine-tuning, by beam search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from ... import _validate, models, solvers, zo
from ...observation import Observation
from ..base import Card, Reconstruction, register
from . import sampling
from .batches import SWEEPS, Single, members, separated, singles
from .certificate import Certificate, certify
from .code import Code
from .decode import PASSES, Effort, decoded, examples_of
from .layout import IGNORED, NOTHING, Frame, Sentences
from .lengths import decided, possible, sized
from .pairs import BUDGET, Pairs
from .reader import as_sent, reader_of
from .repair import Text

FITS = 2e-3
"""Misfit, in the attacker's own arithmetic, at which the search is over."""
UNFINISHED = 2.0
"""The loss of a text that is not finished begins here: it counts as worse than any that is."""


@register(
    "zerogla_text",
    Card(
        title="ZeroGLA on texts",
        kinds=("scalars",),
        several=("scalars",),
        simulates="ZerothOrder",
        variable="tokens",
        distance="likelihood of the scalars left over",
        prior="the attacked language model",
        solver="beam search, repair, second pass",
        labels="part of the text",
        source="zheng2025zerogla",
        records=("tokens",),
    ),
)
def zerogla_text(
    seen: Observation,
    *,
    seed: int = 0,
    width: int = 64,
    slack: float | int = 14.0,
    examples: int = 32,
    restarts: int = 2,
    targets: int | Sequence[int] | None = None,
    batches: Sequence[Sequence[int]] | None = None,
    lengths: Sequence[int] | None = None,
    budget: int = BUDGET,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """The texts of a client that fine-tunes a causal language model by scalars, from all its scalars.

    A next-token loss is a sum over positions, and what a position adds depends on tokens up to there. So the scalars
    are an additive, causal code of the text, which a beam search decodes from left to right: what is not decoded yet is
    Gaussian interference, of a mean and covariance that texts made up by the language model tell. What is nearly right
    is repaired, and decoded again with a remainder that resembles it. The method is this book's, and not peer-reviewed.

    Needs all texts in every step, or ``batches``, and how many next tokens count. A beginning and an end that every
    text has come from the vocabulary. With ``knows={"public"}`` the examples are public texts in place of made-up ones.

    Args:
        width: most hypotheses that are kept, 1 or more.
        slack: nats behind the best one at which a hypothesis is given up, above 0.
        examples: texts from which the remainder is learnt, 4 or more.
        restarts: each twice as wide as the one before; the first whose text explains the scalars ends the search.
        targets: next tokens that count in the whole batch, where the observation does not say; or, where nobody knows,
            the numbers that it may be, as in ``range(8, 40)``: each is tried, and the misfit decides. That takes a
            first look at each of them, and a search of the best few.
        batches: of a client with mini-batches, the indices of the texts behind each message, where somebody told them:
            then texts are decoded one after the other, and what is decoded is taken off the scalars of the rest.
        lengths: next tokens that count in each text; together with ``batches``.
        budget: bytes of weight vectors that may be kept; of a larger model they are rebuilt block by block.
        seconds: time budget.

    Returns:
        ``tokens`` (B, L), ``texts``; ``diagnostics``: ``misfit`` (of the scalars, in the client's own arithmetic),
        ``tolerance``, ``certified`` (1.0: the text fits within the client's round-off, and about no other text as
        likely as it could by chance; else 0.0), ``surprise`` (nats of the text under the language model), ``surplus``,
        ``targets`` of the text found.

    Raises:
        ValueError: a model that is not causal, mini-batches of which nobody told the members, a number of targets that
            is not known.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.from_texts(["My card was lost."])
        >>> model = gl.models.build("gpt", batch, weights="trained")
        >>> protocol = gl.protocols.ZerothOrder(directions=96, mu=1e-3, law="gaussian", seed=5)
        >>> seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
        >>> result = gl.attack("zerogla_text", seen, width=32, examples=16)
        >>> result.texts, bool(result.diagnostics["certified"])
        (('My card was lost.',), True)
    """
    effort = Effort(
        _validate.integer("width", width, at_least=1),
        _validate.number("slack", slack, above=0),
        _validate.integer("examples", examples, at_least=4),
    )
    budget = _validate.integer("budget", budget, at_least=0)
    if (batches is None) != (lengths is None):
        raise ValueError("batches and lengths must be given together")
    behind = None if batches is None else members(batches, len(seen.rounds), seen.shape[0])
    if lengths is not None:
        targets = _total(lengths, seen)
    one, several = (1, targets) if isinstance(targets, Sequence) else (targets, None)
    frame = frame_of(seen, one, batches is not None)
    among = None if several is None else possible(several, frame)
    dtype = torch.float64 if seen.protocol.arithmetic.dtype == "float64" else torch.float32
    with torch.no_grad():
        client = zo.DTYPES[seen.protocol.arithmetic.dtype]
        reader = reader_of(as_sent(seen.model, client, dtype), frame.vocabulary, seen.shape[1])
        if behind is not None and lengths is not None:
            own = singles(seen, reader, frame, behind, lengths, budget=budget, dtype=dtype)
            how = {"seed": seed, "restarts": restarts, "seconds": seconds, "progress": progress}
            return _batched(seen, frame, behind, own, effort, **how)
        code = Code(Pairs(seen, budget=budget, dtype=dtype), reader, frame)
        codes = [code] if among is None else [sized(code, n) for n in among]
        found = _searched(seen, codes, effort, seed=seed, restarts=restarts, seconds=seconds, progress=progress)
        flat = found.variables[0]
        return _result(seen, sized(code, len(flat) - 1) if among else code, flat, found)


def frame_of(seen: Observation, targets: int | None = None, told: bool = False) -> Frame:
    """What the adversary knows of the texts before it has read a scalar.

    Args:
        targets: of all texts together, where the observation does not say.
        told: whether somebody told which texts are behind each message.

    Raises:
        ValueError: mini-batches, or a number of targets that nobody told.
    """
    sentences, length = seen.shape
    if seen.local_batch is not None and seen.local_batch < sentences and not told:
        raise ValueError(
            f"attack 'zerogla_text' needs all texts of a client behind every scalar, got mini-batches of "
            f"{seen.local_batch} of {sentences}; give batches= if you know who is in each. That it is not known is no "
            "evidence that they protect"
        )
    known = seen.targets if targets is None else _validate.integer("targets", targets, at_least=1)
    if known is None and sentences == 1:
        known = length - 1
    if known is None:
        raise ValueError("targets must be given: nobody said how many next tokens of the batch count")
    pieces = seen.vocabulary
    begin, end = (None, None) if pieces is None else (pieces.bos, pieces.eos)
    never = () if pieces is None or pieces.pad is None else (pieces.pad,)
    if begin is None and sentences > 1:
        raise ValueError("seen must have a vocabulary with a first token (bos) for several texts, got none")
    return Frame(seen.classes, sentences, known, begin, end, length, never)


def _total(lengths: Sequence[int], seen: Observation) -> int:
    """All targets of texts of these lengths."""
    if isinstance(lengths, str) or not isinstance(lengths, Sequence) or len(lengths) != seen.shape[0]:
        raise ValueError(f"lengths must have one number of targets for each of {seen.shape[0]} texts, got {lengths!r}")
    return sum(_validate.integer("lengths", length, at_least=1, at_most=seen.shape[1] - 1) for length in lengths)


def _batched(seen: Observation, frame: Frame, behind: torch.Tensor, own: list[Single], effort: Effort, **how):
    """The texts of a client whose mini-batches are known."""
    plans, whole = [effort], models.parameters(seen.model, own[0].code.pairs.dtype)
    device = own[0].code.pairs.weights.device

    def flat_of(texts: list[Text | None]) -> torch.Tensor:
        parts = [
            torch.full((one.code.frame.targets,), NOTHING, device=device) if text is None else text.flat[1:]
            for one, text in zip(own, texts, strict=True)
        ]
        first = frame.begin if frame.begin is not None else next((int(t.flat[0]) for t in texts if t), NOTHING)
        return torch.cat([torch.tensor([first], device=device), *parts])

    def solve(trace: solvers.Trace, generator: torch.Generator) -> None:
        plan, steps = plans[-1], iter(range(10**9))
        plans.append(plan.wider())

        def report(texts: list[Text | None]) -> bool:
            misfits = [UNFINISHED if text is None else min(text.misfit, UNFINISHED) for text in texts]
            return bool(trace.report(next(steps), sum(misfits) / len(misfits), (flat_of(texts),)))

        separated(own, plan, whole, tolerance=FITS, generator=generator, report=report)

    found = solvers.search(
        solve, iterations=SWEEPS * len(own), label="zerogla_text", success=lambda loss: loss <= FITS, **how
    )
    return _result(seen, own[0].code, found.variables[0], found, behind, [one.code.frame.targets for one in own])


def _searched(
    seen: Observation, codes: list[Code], effort: Effort, *, seed: int, restarts: int, seconds, progress
) -> solvers.Found:
    """All restarts; the text of the lowest misfit, of all lengths that ``codes`` are for."""
    plans, code = [effort], codes[0]
    half = seen.protocol.arithmetic.dtype in zo.HALF
    noise = seen.protocol.noise(seen.payload, seen.shape[0])
    tolerance = max(FITS, 1.2 * noise / max(float(code.pairs.scalars.square().mean().sqrt()), 1e-30))

    def solve(trace: solvers.Trace, generator: torch.Generator) -> None:
        plan, steps = plans[-1], iter(range(10**9))
        plans.append(plan.wider())

        def report(code: Code, stage: str, flat: torch.Tensor, misfit: float) -> bool:
            missing = int((flat == NOTHING).sum())
            loss = UNFINISHED + missing / len(flat) if missing else min(misfit, UNFINISHED)
            over = bool(trace.report(next(steps), loss, (flat,)))
            return over or (half and not missing and _certificate(seen, code, flat)[0].certified)

        def examples(code: Code) -> torch.Tensor:
            if seen.public is not None:
                return sampling.public(seen.public.images, seen.public.labels, code.frame, plan.examples)
            return examples_of(code, models.parameters(seen.model, code.pairs.dtype), plan, generator)

        how = {"tolerance": tolerance, "generator": generator}
        if len(codes) == 1:
            decoded(code, examples(code), plan, report=partial(report, code), **how)
        else:
            decided(codes, examples, plan, report=lambda code: partial(report, code), **how)

    steps = sum(code.frame.targets for code in codes) + code.frame.targets * PASSES
    return solvers.search(
        solve, iterations=steps, restarts=restarts, seed=seed, seconds=seconds, progress=progress, label="zerogla_text",
        success=lambda loss: loss <= tolerance,
    )  # fmt: skip


def _certificate(
    seen: Observation, code: Code, flat: torch.Tensor, behind: torch.Tensor | None = None
) -> tuple[Certificate, float, Sentences]:
    """The certificate of a finished text, its surprise in nats, and the text sentence by sentence."""
    written = Sentences.of(flat[None], code.frame)
    first = next(iter(code.pairs.blocks()))[1]
    middle = {name: p.mean(0, keepdim=True) for name, p in first.items()}
    outputs = code.reader.whole(middle, written.tokens)[0, :, :-1].log_softmax(-1)
    told = written.labels[:, 1:] != IGNORED
    surprise = -float((outputs.gather(-1, written.labels[:, 1:].clamp(min=0)[..., None])[..., 0] * told).sum())
    return certify(seen, written.tokens, written.labels, surprise, behind), surprise, written


def _result(
    seen: Observation, code: Code, flat: torch.Tensor, found: solvers.Found, behind: torch.Tensor | None = None,
    lengths: Sequence[int] | None = None,
) -> Reconstruction:  # fmt: skip
    """The text as the batch has it, with its certificate."""
    if lengths is not None:
        code = replace(code, frame=replace(code.frame, sentences=len(lengths), targets=sum(lengths)))
    notes = () if found.stopped is None else (found.stopped,)
    pad = 0 if seen.vocabulary is None or seen.vocabulary.pad is None else seen.vocabulary.pad
    if bool((flat == NOTHING).any()):
        notes += ("the text is not finished: its misfit is not known",)
        certificate, surprise = Certificate(math.inf, 0.0, -math.inf), math.inf
        flat = torch.where(flat == NOTHING, torch.full_like(flat, pad), flat)
        parts = [len(flat) - 1] if lengths is None else list(lengths)
        written = Sentences.cut(flat, parts)
    else:
        certificate, surprise, written = _certificate(seen, code, flat, behind)
        if not certificate.certified:
            notes += (
                f"not certified: the scalars are explained to {certificate.misfit:.2g} of their size, at most "
                f"{certificate.tolerance:.2g} is round-off" + (
                    "" if certificate.misfit > certificate.tolerance
                    else "; but so few scalars other texts explain as well"
                ),
            )  # fmt: skip
    tokens, labels = _fitted(written, seen.shape, pad)
    numbers = {
        "misfit": certificate.misfit, "tolerance": certificate.tolerance, "surprise": surprise,
        "surplus": certificate.surplus, "certified": float(certificate.certified), "scalars": float(seen.scalars),
        "targets": float(code.frame.targets),
    }  # fmt: skip
    return Reconstruction(tokens, labels, found.loss, found.history, notes=notes, diagnostics=numbers)


def _fitted(written: Sentences, shape: tuple[int, ...], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels (B, L) as the private batch has them; longer only if a sentence is."""
    count, length = shape[0], max(shape[1], written.tokens.shape[1])
    tokens = torch.full((count, length), pad, device=written.tokens.device)
    labels = torch.full_like(tokens, IGNORED)
    rows, columns = min(count, len(written.tokens)), written.tokens.shape[1]
    labels[:rows, :columns] = written.labels[:rows]
    told = written.labels != IGNORED
    told[:, 0] = True
    tokens[:rows, :columns] = torch.where(told, written.tokens, torch.full_like(written.tokens, pad))[:rows]
    return tokens, labels
