"""A run with canaries in it: what an auditor who sees every message proves about the privacy that was bought."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import _validate, models
from ..data.batch import Batch
from ..defenses import DPSGD, Defended, DPScalars, EmpiricalEpsilon, empirical_epsilon, epsilon
from ..defenses.accounting import per_message
from ..observation.transcript import advance
from ..protocols import derive_seed

COINS_APART = 32_452_843  # between the seeds of coins, so that no noise is drawn from the same stream
RELATION = "add_remove"
"""Of canaries: each is there or not."""


@dataclass(frozen=True, eq=False)
class Canaries:
    """What :func:`canaries` found.

    Attributes:
        found: the lower bound on epsilon, from guesses.
        epsilon: the accountant's, for one record that is there or not, at the same delta.
        scores: (m,) float64, how much of each canary is in the messages: about 1 for members, about 0 for others.
        members: (m,) bool, which canaries were in the run.
        messages: noisy sums that were released.
    """

    found: EmpiricalEpsilon
    epsilon: float
    scores: Tensor
    members: Tensor
    messages: int

    def __str__(self) -> str:
        return f"{self.found}; the accountant says {self.epsilon:.3g}"


def canaries(
    model: nn.Module,
    protected: Defended,
    records: Batch | None,
    inserted: Batch,
    *,
    rounds: int,
    lr: float | int,
    delta: float,
    sample_rate: float | int = 1.0,
    guesses: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Canaries:
    """Train one client whose data hold about half of the ``inserted`` records, and guess which.

    Each canary is put in by the toss of a coin of its own. The auditor is the one that differential privacy is about:
    it knows all other records, the program, every message and every state, and neither coins, nor noise, nor which
    batches were drawn. It computes what each canary would have added to each message, clip and all, and fits the
    messages by least squares with all canaries at once, each as likely in as out.

    Args:
        model: the first global model; it is not changed.
        protected: ``dpsgd`` or ``dp_scalars`` with Gaussian noise, divided by a public number (``expected=``).
        records: of the client, beside the canaries; None: it has no others.
        inserted: the canaries, two or more. Those that differ much, and from the records, are told best.
        rounds, lr: of training, with this client alone.
        delta: of the guarantee, see :func:`~glutils.defenses.empirical_epsilon`, and ``guesses``, ``confidence`` too.
        sample_rate: with which each record takes part in a round, by itself (Poisson); 1: all in every round.
        seed: of coins and batches; the noise has the seed that ``protected`` names.

    Raises:
        ValueError, TypeError: a wrong argument, another defence, no noise, a mean over those who are there.

    Example:
        >>> import glutils as gl
        >>> inserted = gl.data.sample("digits", count=24, seed=1, split="public")
        >>> model = gl.models.build("mlp", inserted, hidden=(8,), activation="tanh", seed=0)
        >>> defense = gl.defenses.get("dpsgd", clip=1.0, sigma=0.3, expected=24)
        >>> protected = gl.defenses.Defended(gl.protocols.FedSGD(), defense)
        >>> audit = gl.audit.canaries(model, protected, None, inserted, rounds=4, lr=0.1, delta=1e-4)
        >>> 0 < audit.found.epsilon < audit.epsilon
        True
    """
    defense = _defense(protected)
    _validate.instance("inserted", inserted, Batch)
    if len(inserted) < 2:
        raise ValueError(f"inserted must hold at least 2 canaries, got {len(inserted)}")
    rounds, lr = _validate.integer("rounds", rounds, at_least=1), _validate.number("lr", lr, above=0)
    rate = _validate.number("sample_rate", sample_rate, above=0, at_most=1)
    numbers = protected.directions if protected.kind == "scalars" else 1
    promised = epsilon(per_message(defense.sigma, numbers), rate, rounds, delta, relation=RELATION)
    generator = torch.Generator().manual_seed(
        derive_seed(_validate.integer("seed", seed, at_least=0), 1, COINS_APART)
    )
    members = torch.rand(len(inserted), generator=generator) < 0.5
    present = [inserted[members.nonzero()[:, 0].tolist()]] + ([] if records is None else [records])
    images, labels = (torch.cat([getattr(part, name) for part in present]) for name in ("images", "labels"))
    protected.check(model, *((inserted if records is None else records)[[0]].images, inserted.labels[:1]))
    state, noise = models.parameters(model), defense.noise(None, 1)
    gram = torch.zeros(len(inserted), len(inserted), dtype=torch.float64)
    seen = torch.zeros(len(inserted), dtype=torch.float64)
    for turn in range(rounds):
        now = protected.for_round(turn)
        at = _at(model, state)
        directions = now.draw(at) if now.kind == "scalars" else None
        how = {} if directions is None else {"directions": directions}
        chosen = (torch.rand(len(images), generator=generator) < rate).nonzero()[:, 0]
        sent = now.transmit(at, images[chosen], labels[chosen], **how)
        theirs, rest = _shares(now, at, inserted, rate, how), sent.flat.double()
        if records is not None:
            rest = rest - _shares(now, at, records, rate, how).sum(0)
        gram += theirs @ theirs.T
        seen += theirs @ (rest - 0.5 * theirs.sum(0))
        state = advance(state, sent, now, directions, float(lr), True)
    # each canary is in with probability 1/2: a coin of variance 1/4, seen through noise of a known size
    scores = 0.5 + torch.linalg.solve(gram + 4 * noise**2 * torch.eye(len(gram), dtype=gram.dtype), seen)
    bound = empirical_epsilon(scores, members, delta=delta, guesses=guesses, confidence=confidence)
    return Canaries(bound, promised, scores, members, rounds * numbers)


def _shares(now: Defended, model: nn.Module, batch: Batch, rate: float, how: dict) -> Tensor:
    """(m, numbers) what each record is expected to add to a message, float64."""
    defense: DPSGD | DPScalars = now.defenses[0]
    each = defense.shares(now.protocol, model, batch.images, batch.labels, **how)
    return rate * each.double() / float(defense.expected or len(batch))


def _at(model: nn.Module, state: models.Parameters) -> nn.Module:
    """The model in this state."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name in state:
                parameter.copy_(state[name])
    return other


def _defense(protected: Defended) -> DPSGD | DPScalars:
    _validate.instance("protected", protected, Defended)
    defense = protected.defenses[0]
    if len(protected.defenses) > 1 or not isinstance(defense, (DPSGD, DPScalars)):
        raise ValueError(f"protected must be one of dpsgd, dp_scalars, and nothing else, got {protected.defense}")
    if not defense.sigma:
        raise ValueError("protected must add noise (sigma above 0), got sigma=0: no epsilon is promised")
    if isinstance(defense, DPScalars) and defense.law != "gaussian":
        raise ValueError(f"protected must add Gaussian noise, whose epsilon is compared here, got {defense.law!r}")
    if defense.expected is None:
        raise ValueError("protected must divide by a public number: give expected=, since canaries come and go")
    return defense
