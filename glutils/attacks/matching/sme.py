"""SME: Surrogate Model Extension, a weight update attack (Zhu, Yao, Blaschko, ICML 2023)."""

from __future__ import annotations

import math

import torch

from ... import _validate, models
from ... import labels as label_rules
from ...observation import Observation, as_gradient, local_steps
from ...priors import tv
from ...protocols import FedAvg, FedSGD
from ...solvers import Tally, adam, search
from ...solvers.adam import Objective
from ..base import ANY, Card, Reconstruction, reconstruction, register
from .objective import cosine, start


@register(
    "sme",
    Card(
        title="SME",
        kinds=("delta",),
        simulates="one gradient at a surrogate",
        variable="pixels, place of the surrogate",
        distance="cosine",
        prior="TV, box",
        solver="signed Adam",
        labels="given or counted",
        source="zhu2023sme",
        records=ANY,
    ),
)
def sme(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 400,
    restarts: int = 1,
    lr: float | int = 0.1,
    tv_weight: float | int | None = None,
    mixing: float | int = 0.5,
    mixing_lr: float | int = 0.05,
    labels: str = "dlf",
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Pixels whose gradient *between* the client's first and last network points the way that the client went.

    ``min over x, m of 1 - cos(grad l(f_w(x), y), theta_0 - theta_U) + tv_weight TV(x)`` at the surrogate
    ``w = theta_0 - m (theta_0 - theta_U)``, 0 <= m <= 1 (section 4). The gradients of all U local steps were taken on
    the way from theta_0 to theta_U, so one taken inside is nearer to their mean than the one at theta_0, which is what
    AGA assumes: AGA is m = 0. An iteration costs one gradient, whatever U. Of one local step theta_0 is the place, and
    m stays 0.

    ``diagnostics["mixing"]`` is the m that was found, and ``diagnostics["cosine"]`` how well it fits.

    Args:
        lr, tv_weight: of signed Adam and of total variation, as in :func:`glutils.attacks.matching.ig.ig`.
        mixing: m at the beginning, from 0 to below 1; 0 stays 0.
        mixing_lr: step of Adam on the logit of m; falls with ``lr``. 0 leaves m where it began.
        labels: rule by which they are inferred if they were not told; one of ``glutils.labels.names()``.

    Deviations: m is the inside of a sigmoid, so that it stays between 0 and 1, where the original optimises the share
    of theta_0 itself; pixels and schedule are those of IG (sign, steps, box, 400 iterations in place of 1,000), for
    tables without box and TV. Momentum and weight decay are allowed for, see :func:`glutils.observation.as_gradient`.

    Raises:
        ValueError: a message that is not one parameter difference of a FedAvg client without defences, whose steps
            ``"ig"`` and ``"dlf"`` simulate together with the defence; labels that were neither told nor can be counted.
    """
    client = _client(seen)
    _validate.number("lr", lr, above=0)
    _validate.number("mixing_lr", mixing_lr, at_least=0)
    if _validate.number("mixing", mixing, at_least=0) >= 1:
        raise ValueError(f"mixing must be at least 0 and below 1, got {mixing}")
    tv_weight, box = seen.record.weight("tv_weight", tv_weight, 1e-2), seen.record.box(None)
    known, notes = seen.labels, ()
    if known is None:
        found_labels = label_rules.infer(_validate.choice("labels", labels, label_rules.names()), seen)
        known, notes = found_labels.labels, found_labels.notes
    first = 0.0 if local_steps(seen) == 1 else float(mixing)
    tally = Tally()
    objective = at_surrogate(seen, client, known, first, mixing_lr / lr, tv_weight, tally)

    def solve(trace, generator):
        images = start(seen, generator)
        begin = (images.clamp(0, 1) if box else images, images.new_zeros(()))
        adam(objective, begin, trace, iterations=iterations, lr=lr, schedule="steps", sign=True, box=box)

    found = search(
        solve, iterations=iterations, restarts=restarts, seed=seed, seconds=seconds, keep="last", progress=progress,
        label="sme",
    )  # fmt: skip
    place = float(surrogate(found.variables[1], first, mixing_lr / lr))
    smooth = tv_weight * float(tv(found.variables[0])) if tv_weight else 0.0
    extra = {"mixing": place, "cosine": 1 - (found.loss - smooth)}
    return reconstruction(found, found.variables[0], known, *notes, tally=tally, **extra)


def at_surrogate(
    seen: Observation, client: FedAvg, labels: torch.Tensor, first: float, rate: float, tv_weight: float, tally: Tally
) -> Objective:
    """1 - cosine of the gradient at the surrogate and the mean gradient behind the difference, plus TV.

    Variables: the records, and a number that moves the surrogate, see :func:`surrogate`.
    """
    message = seen.rounds[0]
    begin = {n: p.float() for n, p in (message.parameters or models.parameters(seen.model)).items()}
    went = {n: part.float() for n, part in message.payload.items()}
    target = [part.float() for part in as_gradient(seen).payload.numbers]
    one = FedSGD(client.loss)

    def objective(variables: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        tally.add()
        images, moved = variables
        place = surrogate(moved, first, rate)
        params = {n: p - place * went[n] if n in went else p for n, p in begin.items()}
        sent = one.simulate(seen.model, images, labels, params=params).numbers
        value, slopes = cosine([part.detach() for part in sent], target)
        outputs, cotangents = [*sent], [*slopes]
        if tv_weight:
            smooth = tv_weight * tv(images)
            value = value + smooth.detach()
            outputs.append(smooth)
            cotangents.append(torch.ones_like(smooth))
        grads = torch.autograd.grad(outputs, variables, cotangents, allow_unused=True)
        return value, tuple(torch.zeros_like(v) if g is None else g for g, v in zip(grads, variables, strict=True))

    return objective


def surrogate(moved: torch.Tensor, first: float, rate: float) -> torch.Tensor:
    """m in (0, 1), ``first`` where nothing has moved; the unknown counts in steps of Adam, ``rate`` logits each."""
    if first == 0:
        return torch.zeros_like(moved)
    return torch.sigmoid(rate * moved + math.log(first / (1 - first)))


def _client(seen: Observation) -> FedAvg:
    """The FedAvg client behind one undefended difference."""
    client = seen.protocol.undefended
    if client is not seen.protocol:
        raise ValueError(
            "attack 'sme' takes the difference for the way the client went, and cannot undo a defence; attacks 'ig' "
            f"and 'dlf' simulate it, got {seen.protocol}"
        )
    return _validate.instance("seen.protocol", client, FedAvg)
