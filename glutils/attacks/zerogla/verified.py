"""Leaked, or imagined? A certificate by computation: images fitted to some scalars predict the others (this book's)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch

from ... import _validate
from ...observation import Observation
from ...protocols import ZerothOrder
from ...protocols.zo_variants import Along
from ..base import Reconstruction
from .consistency import FLOOR, NOISE, misfits
from .equations import ScalarEquations

LARGEST = 0.03
"""No misfit above this share of the scalars' spread counts as none, however coarse the client's arithmetic."""
WITHIN = 0.01
"""Root mean square error, of images in [0, 1], up to which an image counts as leaked: 40 dB."""


@dataclass(frozen=True)
class VerifiedLeak:
    """What held-out scalars and the equations say about a reconstruction.

    Attributes:
        misfit: root mean square of predicted minus held-out scalars, in units of the spread of those held out.
        tolerance: below which that is rounding: ten times what the client's own arithmetic adds, but 0.03 at most.
        held: number of scalars that were held out.
        error: root mean square error of the images that a misfit of this size goes with, by the equations' singular
            values at the images; infinite where there are fewer equations than unknowns.
        rank: directions, in the space of images, that the fitted scalars determine to ``within``.
        unknowns: numbers in the images.
        within: the error up to which images count as leaked.
    """

    misfit: float
    tolerance: float
    held: int
    error: float
    rank: int
    unknowns: int
    within: float

    @property
    def certified(self) -> bool:
        """Whether the held-out scalars were predicted, and nothing else would have predicted them."""
        return self.misfit <= self.tolerance and self.rank == self.unknowns and self.error <= self.within


def hold_out(seen: Observation, *, share: float | int = 0.2, seed: int = 0) -> tuple[Observation, Observation]:
    """Two observations in place of one: the scalars to fit, and the scalars to predict.

    Args:
        seen: an observation of scalars of the zeroth-order protocol, one message or many.
        share: of the scalars that is held out, above 0 and at most 0.5.
        seed: of which ones; not of the attack.

    Returns:
        What is left, for ``gl.attack``, and what was held out, for :func:`certify`. Directions are kept whole:
        one row of float32 for every scalar.

    Raises:
        ValueError: another kind of payload, a defended or another scalar protocol, or so few scalars that a part would
            have none.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", seed=0)
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> protocol = gl.protocols.ZerothOrder(directions=100, dtype="float64")
        >>> payload = protocol.transmit(model, batch.images, batch.labels)
        >>> seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
        >>> fit, held = gl.attacks.hold_out(seen)
        >>> fit.scalars, held.scalars
        (80, 20)
        >>> gl.attacks.certify(gl.attack("zerogla", fit, progress=False), fit, held).certified
        True
    """
    _validate.instance("seen", seen, Observation)
    _check(seen)
    share = _validate.number("share", share, above=0, at_most=0.5)
    total = seen.scalars
    count = round(share * total)
    if not 0 < count < total:
        raise ValueError(f"seen must hold enough scalars to hold out a share of {share}, got {total}")
    generator = torch.Generator().manual_seed(_validate.integer("seed", seed, at_least=0))
    out = torch.zeros(total, dtype=torch.bool)
    out[torch.randperm(total, generator=generator)[:count]] = True
    parts: tuple[list, list] = ([], [])
    for entry, mask in zip(seen.rounds, out.split([len(r.payload) for r in seen.rounds]), strict=True):
        rows = entry.protocol.draw(seen.model).rows()
        for part, keep in zip(parts, (~mask, mask), strict=True):
            if bool(keep.any()):
                options = {f.name: getattr(entry.protocol, f.name) for f in fields(ZerothOrder)}
                along = Along(**options | {"directions": int(keep.sum()), "law": "gaussian", "rows": rows[keep]})
                scalars = entry.payload.map(lambda s, keep=keep: s[keep.to(s.device)])
                part.append(replace(entry, protocol=along, payload=scalars))
    fit, held = (replace(seen, rounds=tuple(part)) for part in parts)
    return fit, held


def certify(
    result: Reconstruction, fit: Observation, held: Observation, *, within: float | int = WITHIN
) -> VerifiedLeak:
    """Do images that were fitted to some scalars predict the others, and could no other images have done so?

    An attack always returns images. A prior paints nice ones from nothing, and with fewer scalars than pixels a perfect
    fit means nothing. The scalars that the attack never saw decide: whoever predicts them to rounding has found what
    they are about. Pixels that no scalar depends on are predicted by any value, so the rank is looked at as well: the
    misfit, carried back through the equations, must not move the images by more than ``within``.

    This is ours, and not peer-reviewed. It says that *these* scalars are about *these* images: of a client that sends
    made-up scalars it certifies the made-up images.

    Args:
        result: of an attack on ``fit`` alone; an attack that has seen ``held`` certifies itself.
        fit, held: of :func:`hold_out`.
        within: largest root mean square error of an image that counts as leaked.

    Raises:
        ValueError: observations that do not hold scalars, or not of the same client.
    """
    _validate.instance("result", result, Reconstruction)
    for name, part in (("fit", fit), ("held", held)):
        _validate.instance(name, part, Observation)
        if part.kind != "scalars":
            raise ValueError(f"{name} must hold scalars, got a payload of kind {part.kind!r}")
    if fit.shape != held.shape or tuple(result.images.shape) != tuple(fit.shape):
        raise ValueError(
            f"fit, held and result must be of one batch, got {fit.shape}, {held.shape}, {result.images.shape}"
        )
    within = _validate.number("within", within, above=0)
    found, noise = misfits(held, result.images, result.labels)
    counts = torch.tensor([len(entry.payload) for entry in held.rounds]).to(found)
    misfit = float(((found.square() * counts).sum() / counts.sum()).sqrt())
    tolerance = min(LARGEST, NOISE * max(noise, FLOOR))
    unknowns, rank, error = math.prod(fit.shape), 0, math.inf
    if misfit <= tolerance:  # the rank at images that explain nothing is of no use
        labels = result.labels
        equations = ScalarEquations(fit, lambda u: (u.view(fit.shape), labels), unknowns)
        u = result.images.detach().to(equations.targets).flatten()
        values = torch.linalg.svdvals(equations.jacobian(u))
        moved = max(misfit, noise) / values.clamp_min(1e-300)
        rank = int((moved <= within).sum())
        if len(values) == unknowns:
            error = float(moved.square().mean().sqrt())
    return VerifiedLeak(misfit, tolerance, held.scalars, error, rank, unknowns, within)


def _check(seen: Observation) -> None:
    if seen.kind != "scalars":
        raise ValueError(f"seen must hold scalars, got a payload of kind {seen.kind!r}; 'spear' checks itself")
    for entry in seen.rounds:
        if type(entry.protocol) not in (ZerothOrder, Along):
            raise ValueError(f"seen must hold undefended messages of ZerothOrder, got {entry.protocol}")
    if seen.local_batch is not None:
        raise ValueError("seen must hold messages about all images of the client, got mini-batches")
