"""GGL: Generative Gradient Leakage (Li, Zhang, Liu, Liu, CVPR 2022)."""

from __future__ import annotations

import torch

from ... import _validate
from ...observation import Observation
from ...priors.latent import Latent
from ...solvers import Tally, search
from ...solvers import turbo as trust
from ...solvers.cmaes import cmaes, population_size
from ..base import Card, Reconstruction, reconstruction, register
from .common import candidates, divergence, known_or_inferred_labels, resolve_latent

SOLVERS = ("cma", "turbo")


@register(
    "ggl",
    Card(
        title="GGL",
        kinds=("gradient",),
        several=("gradient",),
        simulates="FedSGD, assumed defence",
        variable="generator's latent",
        distance="squared or cosine",
        prior="generator, latent norm",
        solver="CMA-ES",
        labels="inferred (one image)",
        source="li2022ggl",
    ),
)
def ggl(
    seen: Observation,
    *,
    seed: int = 0,
    prior: str | Latent | None = None,
    components: int | None = None,
    iterations: int = 2000,
    restarts: int = 1,
    distance: str = "squared",
    latent_weight: float | int = 1e-3,
    tanh: bool = False,
    defense: str = "none",
    solver: str = "cma",
    spread: float | int = 1.0,
    population: int | None = None,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """The latent numbers whose image has the observed gradient: min_z D(T(grad l(f(G(z)), y)), g) + weight KL(z).

    No derivative is taken: CMA-ES draws candidates for z, looks at their distances, and moves. Nothing outside the
    generator's range can be found, and whatever is found looks like a public image, whether it was leaked or not.

    Args:
        prior: a latent, or ``"pca"``, ``"generator"`` or ``"glo"``, learned here from the public images; default
            ``"glo"``.
        components: numbers in z of a latent given by name; default 32, or what the public images allow.
        iterations: gradients that are evaluated, in generations of ``population``; the reference uses 25,000.
        distance: ``"squared"``, relative to the observed gradient's own sum of squares, or ``"cosine"``.
        latent_weight: of the penalty, see :func:`glutils.attacks.generative.common.divergence`.
        tanh: search u and use z = tanh(u), as the released code does by default; the penalty is then off, as there.
        defense: what the client is assumed to have done to its gradient: ``"none"``, ``"clipping"`` (the bound is the
            observed norm) or ``"sparsification"`` (the mask is the observed zeros).
        solver: ``"cma"``, or ``"turbo"``, the paper's other one: a model of the loss within a box that moves
            (:mod:`glutils.solvers.turbo`; needs the extra ``turbo``).
        spread: standard deviation of the first generation, around z = 0; of ``"turbo"`` a quarter of the box's side.
        population: candidates evaluated together: default 4 + 3 ln n, and 10 for ``"turbo"``.

    The label is the one that was told, else it is read off the last layer by iDLG's rule.

    Deviations: squared distance relative to the payload instead of a mean over tensors, so that one weight of the
    penalty fits all networks; 2,000 evaluations instead of 25,000; a start at z = 0 instead of U[0, 1]; generations of
    4 + 3 ln n instead of 50.

    Raises:
        ValueError: more than one image (the released code takes B labels and reconstructs one latent).
        ImportError: ``solver="turbo"`` where BoTorch is not installed.
    """
    if seen.shape[0] != 1:
        raise ValueError(
            f"attack 'ggl' searches one latent for one image, got a batch of {seen.shape[0]}; 'gias' and 'igims' take "
            "batches"
        )
    if _validate.choice("solver", solver, SOLVERS) == "turbo":
        trust.pieces()
    latent_weight = _validate.number("latent_weight", latent_weight, at_least=0)
    _validate.number("spread", spread, above=0)
    label, notes = known_or_inferred_labels(seen, "ggl")
    tally = Tally()
    far = candidates(seen, label, distance=distance, defense=defense, tally=tally)  # refuses bad names before training
    whole, more = resolve_latent(seen, "ggl", prior, components, seed, progress)
    size = {"cma": population_size(whole.size), "turbo": 10}[solver]
    size = size if population is None else _validate.integer("population", population, at_least=2)
    _validate.integer("iterations", iterations, at_least=3 * size if solver == "turbo" else size + 1)
    if tanh and latent_weight:
        more.append("the latent penalty is left out under tanh, as in the reference code")
    bounded = torch.tanh if tanh else lambda z: z

    def loss(codes: torch.Tensor) -> torch.Tensor:
        value = far(whole.decode(bounded(codes))[:, None])
        return value if tanh else value + latent_weight * divergence(codes)

    def solve(trace, generator):
        start = torch.zeros(whole.size, device=label.device)
        how = {"evaluations": iterations, "generator": generator}
        if solver == "turbo":
            trust.turbo(loss, start, trace, width=2 * spread, batch=size, **how)
        else:
            cmaes(loss, start, trace, spread=spread, population=size, **how)

    found = search(
        solve,
        iterations=iterations // size,
        restarts=restarts,
        seed=seed,
        seconds=seconds,
        progress=progress,
        label="ggl",
        view=lambda variables: whole.decode(bounded(variables[0][None])),
    )
    z = bounded(found.variables[0][None])
    extra = {"latent": float(whole.size), "evaluations": float(tally.evaluations)}
    extra |= {"divergence": float(divergence(z)[0])}
    return reconstruction(found, whole.decode(z), label, *notes, *more, tally=tally, **extra)
