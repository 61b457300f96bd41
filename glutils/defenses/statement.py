"""What a client's noise promises, to whom, and what it does not: a privacy statement instead of a bare epsilon."""

from __future__ import annotations

from dataclasses import dataclass

from .. import _validate
from ..protocols import Protocol
from .accounting import RELATIONS, SAMPLINGS, SENSITIVITY, epsilon, per_message
from .defended import Defended
from .dp import DPSGD, DPUpdate
from .dp_zo import DPScalars, pure_epsilon

NOT_COVERED = (
    "the choice of step size, clipping bound and noise, if it looked at private records",
    "what a record's neighbours say about it: a message about a group of g records is g times as far away",
    "labels, batch sizes and times that are told beside the messages",
)
"""What no such statement covers."""


@dataclass(frozen=True)
class PrivacyStatement:
    """Epsilon with everything that it stands on; ``print`` it.

    Attributes:
        epsilon, delta: of (epsilon, delta) differential privacy.
        mechanism: what is clipped, and what noise is added.
        unit: ``"record"`` or ``"client"``: whose presence is hidden.
        relation, sampling: names of ``RELATIONS`` and ``SAMPLINGS`` of ``glutils.defenses.accounting``.
        sensitivity: how far the clipped sum moves between neighbours, in clipping bounds.
        noise_multiplier: noise on the sum over the clipping bound.
        sample_rate: share of the units in a step.
        steps: noisy sums that are released over all rounds.
        trust: who must be trusted with messages that are not noisy enough by themselves.
        notes: what weakens the statement here.
    """

    epsilon: float
    delta: float
    mechanism: str
    unit: str
    relation: str
    sampling: str
    sensitivity: float
    noise_multiplier: float
    sample_rate: float
    steps: int
    trust: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        drawn = "all in every step" if self.sample_rate == 1 else f"{SAMPLINGS[self.sampling]} ({self.sample_rate:g})"
        lines = [
            f"({self.epsilon:.3g}, {self.delta:g}) differential privacy of each {self.unit}",
            f"mechanism: {self.mechanism}",
            f"neighbours: {RELATIONS[self.relation].replace('record', self.unit)}; the sum moves by "
            f"{self.sensitivity:g} clipping {'bound' if self.sensitivity == 1 else 'bounds'}",
            f"drawn: {drawn}",
            f"composed over {self.steps} releases, noise multiplier {self.noise_multiplier:g}",
            f"trusted: {self.trust}",
            *(f"note: {note}" for note in self.notes),
            *(f"not covered: {what}" for what in NOT_COVERED),
        ]
        return "\n".join(lines)


def privacy_statement(
    protected: Protocol,
    *,
    records: int,
    rounds: int,
    delta: float | None = None,
    batch: int | None = None,
    relation: str | None = None,
    sampling: str = "fixed",
    clients: int | None = None,
    sampled: int | None = None,
    summed: bool = False,
    colluding: int = 0,
    cohort_hidden: bool = False,
) -> PrivacyStatement:
    """What ``rounds`` messages of one client promise, under the relation that its mechanism is calibrated for.

    Args:
        protected: a protocol whose first defence is ``dpsgd``, ``dp_scalars`` or ``dp_update``.
        records: of the client, 1 or more; public.
        rounds: in which a client may take part, 1 or more. Scalars are one release each.
        delta: above 0, below 1. Default: a tenth of one over the number of units, if that is known. Laplace noise has
            none: its epsilon is pure.
        batch: records behind a message (Poisson: expected); default: all.
        relation: which data sets are neighbours, see :func:`~glutils.defenses.epsilon`. Default: ``"add_remove"`` where
            the sum is divided by a public number, else ``"replace_one"``, which keeps the number of records.
        sampling: how batches are drawn, ``"fixed"`` or ``"poisson"``.
        clients, sampled: of ``dp_update``: how many there are, and how many take part in a round. Default: all.
        summed: of ``dp_update``: whether only the sum of the clients in a round is seen (a secure sum, or a server that
            is trusted to add). Then their noise adds up, and sigma of each may be smaller (central privacy); else each
            message has to stand by itself (local privacy).
        colluding: of those in a sum, clients that work for whoever looks: they subtract their own noise.
        cohort_hidden: whether nobody who looks knows which clients took part in a round. Then drawing them amplifies.
            True of readers of the model, not of the server that drew them.

    Returns:
        The statement; its ``epsilon`` is that of :func:`~glutils.defenses.epsilon`.

    Raises:
        ValueError, TypeError: another protocol; noise of 0; a relation for which the mechanism is not calibrated: a
            mean over a number of records that the relation changes.

    Example:
        >>> import glutils as gl
        >>> defense = gl.defenses.get("dpsgd", clip=1.0, sigma=1.0, expected=1)
        >>> protected = gl.defenses.Defended(gl.protocols.FedSGD(), defense)
        >>> how = {"records": 10, "rounds": 60, "batch": 1, "sampling": "poisson", "delta": 1e-2}
        >>> found = gl.defenses.privacy_statement(protected, **how)
        >>> round(found.epsilon, 1), found.relation, found.unit
        (2.5, 'add_remove', 'record')

        A client as a whole, seen alone, in a sum of 100, and by a reader of the model alone:

        >>> alone = gl.defenses.Defended(gl.protocols.FedAvg(), gl.defenses.get("dp_update", clip=1.0, sigma=1.0))
        >>> how = {"records": 10, "rounds": 20, "clients": 1000, "sampled": 100}
        >>> ways = ({}, {"summed": True}, {"summed": True, "cohort_hidden": True})
        >>> [round(gl.defenses.privacy_statement(alone, **how, **way).epsilon, 1) for way in ways]
        [72.4, 3.3, 0.3]
    """
    _validate.instance("protected", protected, Defended)
    defense = protected.defenses[0]
    if not isinstance(defense, (DPSGD, DPScalars, DPUpdate)):
        raise ValueError(f"protected must begin with dpsgd, dp_scalars or dp_update, got {defense}")
    if not defense.sigma:
        raise ValueError("protected must add noise (sigma above 0), got sigma=0: nothing is promised")
    records = _validate.integer("records", records, at_least=1)
    steps = _validate.integer("rounds", rounds, at_least=1)
    _validate.choice("sampling", sampling, SAMPLINGS)
    if isinstance(defense, DPUpdate):
        return _of_clients(defense, steps, delta, relation, clients, sampled, summed, colluding, cohort_hidden)
    if clients is not None or sampled is not None or summed or colluding or cohort_hidden:
        raise ValueError(
            "clients, sampled, summed, colluding and cohort_hidden belong to dp_update, whose unit is a client"
        )
    batch = records if batch is None else _validate.integer("batch", batch, at_least=1, at_most=records)
    public = defense.expected is not None
    if relation is None:
        relation = "add_remove" if public and (sampling == "poisson" or batch == records) else "replace_one"
    if relation == "add_remove" and not public:
        raise ValueError(
            f"relation must keep the number of records where the mean is taken over it, got {relation!r}: one record "
            "more or less also moves the others' shares (by up to 2 clip / B), and the noise tells B; give expected="
        )
    if sampling == "poisson" and batch < records and not public:
        raise ValueError("protected must divide by a public number with Poisson batches: give expected=")
    what, numbers, law = "each record's gradient is clipped in length", 1, "gaussian"
    if isinstance(defense, DPScalars):
        what, numbers, law = "each record's slope is cut", protected.directions, defense.law
    rate, divisor = batch / records, "the number of records in the batch, taken as public"
    if public:
        divisor = f"{defense.expected:g}, a public number"
    if law == "laplace":
        if delta is not None:
            raise ValueError(f"delta must be None for Laplace noise, whose epsilon is pure, got {delta}")
        spent, delta = pure_epsilon(defense.sigma, rate, steps, scalars=numbers, relation=relation), 0.0
    else:
        delta = 0.1 / records if delta is None else delta
        how = {"relation": relation, "sampling": sampling if rate < 1 else "poisson"}
        spent = epsilon(per_message(defense.sigma, numbers), rate, steps, delta, **how)
    return PrivacyStatement(
        epsilon=spent, delta=delta,
        mechanism=f"{what}, at {float(defense.clip):g}; {law.title()} noise on the sum; divided by {divisor}",
        unit="record", relation=relation, sampling=sampling, sensitivity=SENSITIVITY[relation],
        noise_multiplier=float(defense.sigma), sample_rate=rate, steps=steps * numbers,
        trust="nobody but the client: noise is added before anything is sent", notes=_delta_note(delta, records),
    )  # fmt: skip


def _of_clients(
    defense, steps, delta, relation, clients, sampled, summed, colluding, cohort_hidden
) -> PrivacyStatement:
    """The statement about a whole client, whose update is clipped and made noisy by itself."""
    if relation not in (None, "replace_one"):
        raise ValueError(
            f"relation must be 'replace_one' for dp_update, got {relation!r}: the client itself adds the noise, and "
            "what is hidden is which update it would have sent"
        )
    if not summed and (colluding or cohort_hidden):
        raise ValueError(
            "colluding and cohort_hidden need summed=True: who sees single messages knows whose they are, and needs "
            "nobody's help"
        )
    if colluding and cohort_hidden:
        raise ValueError("cohort_hidden must be False with colluding clients, which know who else is in the sum")
    if clients is None and (summed or sampled is not None):
        raise ValueError("clients must be given with summed or sampled, got None")
    notes, rate, multiplier, trust = [], 1.0, float(defense.sigma), "nobody but the client: noise is added before"
    trust += " anything is sent"
    if clients is not None:
        clients = _validate.integer("clients", clients, at_least=1)
        sampled = _validate.integer("sampled", clients if sampled is None else sampled, at_least=1, at_most=clients)
        life = f"a client is expected to send {steps * sampled / clients:g} of {steps} messages, and may send all"
        if summed:
            honest = sampled - _validate.integer("colluding", colluding, at_least=0, at_most=sampled - 1)
            multiplier *= honest**0.5
            trust = "whoever adds up, or a secure sum"
            notes += [f"each client adds noise of {defense.sigma:g} bounds; those of {honest} honest clients add up"]
        if cohort_hidden:
            rate = sampled / clients
            notes += ["who takes part is secret, which does not hold against the server that drew them"]
        elif sampled < clients:
            notes += [
                f"the server sees who takes part, so drawing {sampled} of {clients} clients amplifies nothing towards "
                f"it; {life}"
            ]
    if delta is None and clients is None:
        raise ValueError("delta must be given where the number of clients is not")
    delta = 0.1 / clients if delta is None else delta
    how = {"relation": "replace_one", "sampling": "fixed"}
    return PrivacyStatement(
        epsilon=epsilon(multiplier, rate, steps, delta, **how), delta=delta,
        mechanism=f"the whole update is clipped in length, at {float(defense.clip):g}; Gaussian noise on it",
        unit="client", relation="replace_one", sampling="fixed", sensitivity=SENSITIVITY["replace_one"],
        noise_multiplier=multiplier, sample_rate=rate, steps=steps, trust=trust,
        notes=(*notes, *(_delta_note(delta, clients) if clients else ())),
    )  # fmt: skip


def _delta_note(delta: float, units: int) -> tuple[str, ...]:
    """A note where delta allows to give away a unit as a whole."""
    if delta < 1 / units:
        return ()
    return (f"delta {delta:g} is not below one over {units} units: it would allow to publish one of them at random",)
