"""What attacks with a generative prior share: which latent, which labels, penalties, and many candidates at once."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ... import _validate, models
from ... import labels as rules
from ...observation import Observation
from ...priors import latent
from ...priors.latent import Latent
from ...solvers import Tally
from ...solvers.adam import Objective
from ..matching.objective import messages

PRIORS = ("pca", "generator", "glo", "untrained")
"""Those of :data:`glutils.priors.latent.NAMES` that these attacks take: principal components, a dense and a
convolutional generator (GLO) trained on the public images, and a convolutional one with random weights, which needs
none."""

DEFENSES = ("none", "clipping", "sparsification")
COMPONENTS = 32
AT_ONCE = 2**26  # numbers of candidates' gradients that may be in memory together


def resolve_latent(
    seen: Observation, attack: str, prior: str | Latent | None, components: int | None, seed: int, progress
) -> tuple[Latent, list[str]]:
    """The latent that is meant, and what a reader must know about it.

    By default a GLO of the public images; without those an untrained one, except for ``"ggl"``.
    """
    notes = []
    if prior is None:
        prior = "untrained" if seen.public is None and attack != "ggl" else "glo"
    if not isinstance(prior, Latent):
        latent.choice("prior", prior, PRIORS)
        if prior == "untrained":
            if attack == "ggl":
                raise ValueError(
                    "prior='untrained' makes nothing that looks like an image until its weights are changed, which "
                    "'ggl' does not do; 'gias' and 'igims' do"
                )
            notes.append("no public images: the generator is untrained")
    made = latent.resolve(
        prior, tuple(seen.shape[1:]), seen.public, components, COMPONENTS, seed=seed, progress=progress
    )
    return made, notes


def known_or_inferred_labels(seen: Observation, attack: str, rule: str | None = None) -> tuple[torch.Tensor, list[str]]:
    """The labels that were told, else those that ``rule`` infers (by default iDLG's, for one image), and a note."""
    if seen.labels is not None:
        return seen.labels, []
    if rule is None:
        if seen.shape[0] != 1:
            raise ValueError(
                f"attack {attack!r} needs the labels of a batch: observe(..., knows={{'labels'}}); 'igims' infers them"
            )
        rule = "idlg"
    return rules.infer(rule, seen).labels, [f"labels inferred by {rule}"]


def divergence(z: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence from N(0, 1) of a normal with the mean and spread of z's own coordinates.

    Of z (..., size): one number for each row. GGL's released penalty. It does not see which coordinate is large, and is
    of no use where z has one coordinate.
    """
    mean, variance = z.mean(-1), z.var(-1, unbiased=False)
    return 0.5 * (mean.square() + variance - 1 - (variance + 1e-10).log())


def add_penalty(objective: Objective, penalty: Callable[[tuple[torch.Tensor, ...]], torch.Tensor]) -> Objective:
    """The objective plus a penalty on the variables themselves, whose gradient is taken here."""

    def total(variables):
        value, slopes = objective(variables)
        extra = penalty(variables)
        more = torch.autograd.grad(extra, variables, allow_unused=True)
        return value + extra.detach(), tuple(s if m is None else s + m for s, m in zip(slopes, more, strict=True))

    return total


def candidates(
    seen: Observation,
    labels: torch.Tensor,
    *,
    distance: str = "squared",
    defense: str = "none",
    tally: Tally | None = None,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Distances (P,) of P guesses at the batch, (P, B, C, H, W), without derivatives: all gradients in one sweep.

    ``"squared"`` is relative to the payload's own sum of squares; ``"cosine"`` is 1 - cosine, computed from the
    difference of unit vectors, which stays exact near zero. ``defense`` does to every guess's gradient what the client
    is assumed to have done: ``"clipping"`` to the observed norm, ``"sparsification"`` to the observed zeros, as in GGL.
    ``tally`` counts every guess as one evaluation, with nothing pulled back.
    """
    _validate.choice("distance", distance, ("squared", "cosine"))
    _validate.choice("defense", defense, DEFENSES)
    rounds = []
    for entry in seen.rounds:
        params = models.parameters(seen.model) if entry.parameters is None else entry.parameters
        rounds.append((entry.protocol, params, entry.payload.flat))

    def value(images: torch.Tensor) -> torch.Tensor:
        total = images.new_zeros(len(images))
        for protocol, params, target in rounds:
            found = messages(seen, protocol, params, images, labels)
            norm, goal = found.norm(dim=1, keepdim=True).clamp_min(1e-30), target.norm().clamp_min(1e-30)
            if defense == "clipping":
                found = found * (goal / norm).clamp_max(1)
            elif defense == "sparsification":
                found = found * (target != 0)
            if distance == "squared":
                total = total + ((found - target) / goal).square().sum(1)
            else:
                norm = found.norm(dim=1, keepdim=True).clamp_min(1e-30)
                total = total + 0.5 * (found / norm - target / goal).square().sum(1)
        return total

    def distances(images: torch.Tensor) -> torch.Tensor:
        numbers = max(len(target) for _, _, target in rounds)
        if tally is not None:
            tally.add(len(images), pullbacks=0)
        with torch.no_grad():
            return torch.cat([value(part) for part in images.split(max(1, AT_ONCE // numbers))])

    return distances
