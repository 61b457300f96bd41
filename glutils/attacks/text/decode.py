"""The search as a whole: a first pass, a second one that knows what the first thinks of, repair, and wider again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ... import models
from . import sampling
from .beam import Beam, search
from .code import Code
from .remainder import Outlook, Typical
from .repair import Text, repaired

UNSURE = 0.05
"""Share of a typical covariance that the second pass keeps: what no variant holds."""
PASSES = 3
"""Second passes that follow one first pass at most."""
HOPEFUL = 1.0
"""Misfit above which a text is not near enough for a second pass or a repair: it explains less than no text would."""


@dataclass(frozen=True)
class Effort:
    """How hard one restart tries.

    Attributes:
        width: most hypotheses that are kept.
        slack: nats behind the best one at which a hypothesis is given up.
        examples: texts from which the remainder is learnt.
    """

    width: int = 64
    slack: float = 14.0
    examples: int = 32

    def wider(self) -> Effort:
        """Twice as many, and more patient."""
        return Effort(2 * self.width, 1.3 * self.slack, self.examples)


Report = Callable[[str, torch.Tensor, float], bool]
"""Called with a stage, the flat text at hand and its misfit; True ends the search."""


def decoded(
    code: Code, examples: torch.Tensor, effort: Effort, *, tolerance: float, generator: torch.Generator,
    report: Report, passes: int = PASSES,
) -> Text:  # fmt: skip
    """One restart: the text of the lowest misfit that its passes and repairs find.

    Args:
        examples: flat texts of any kind, from which the first pass learns what a remainder looks like.
        tolerance: misfit at which the search is over.
        passes: second passes at most; 0: a first look, and no repair.
    """
    n = code.frame.targets
    found, _ = code.texts(examples)
    typical = Typical.of(found[:, examples[:, 1:] >= 0], code.noise, n)
    outlook = Outlook.of(found, examples, n, typical, others=code.others)
    best: Text | None = None
    for turn in range(1 + passes):
        stage = "second pass" if turn else "first pass"
        width = max(32, effort.width // 2) if turn else effort.width
        seen_by = partial(_reported, report, stage, code)
        beam = search(code, outlook, width=width, slack=effort.slack, report=seen_by)
        if beam is not None and len(beam):
            misfit = (code.target[:, None] - beam.sums).norm(dim=0) / code.target.norm().clamp(min=1e-30)
            order = misfit.argsort() if code.others is None else torch.arange(len(misfit))
            new = Text(beam.flat[order[0]], float(misfit[order[0]]))
            stuck = best is not None and new.misfit >= best.misfit
            best = best if best is not None and stuck else new
        elif best is None:
            return Text(examples[0].clamp(min=0), float("inf"))
        else:
            break
        if turn and tolerance < best.misfit < HOPEFUL:
            best = repaired(code, best, tolerance=tolerance, report=lambda t: report("repair", t.flat, t.misfit))
        over = report(stage, best.flat, best.misfit)
        if best.misfit <= tolerance or over or best.misfit > HOPEFUL or (stuck and turn > 1) or turn == passes:
            break
        cool = 1 / (1 + turn)  # the nearer the text, the nearer its variants
        near = sampling.variants(
            code, best.flat, beam.flat[order[:16]], effort.examples, generator, free=sampling.FREE * cool
        )
        outlook = Outlook.of(code.texts(near)[0], near, n, typical, unsure=UNSURE * cool, others=code.others)
    assert best is not None
    return best


def _reported(report: Report, stage: str, code: Code, depth: int, beam: Beam) -> bool:
    """The best hypothesis so far as a flat text, with what it leaves, to whoever watches."""
    flat = torch.full((code.frame.targets + 1,), sampling.NOTHING, device=beam.first.device)
    flat[: beam.targets.shape[1] + 1] = beam.flat[0]
    left = (code.target - beam.sums[:, 0]).norm() / code.target.norm().clamp(min=1e-30)
    return report(stage, flat, float(left))


def examples_of(code: Code, params: models.Parameters, effort: Effort, generator: torch.Generator) -> torch.Tensor:
    """Flat texts that the attacker's language model makes up."""
    return sampling.drawn(code.reader, params, code.frame, effort.examples, generator)
