"""How well scalars determine a client's records, without an attack: Bayesian least squares, in expectation.

Near the records x a client's K scalars are s = Z G dx + noise, with G = dg/dx the derivative of its gradient (d x D)
and random directions Z (K x d). Nobody has to draw Z: for Gaussian directions the mean over them is known. Ours, not
peer-reviewed; the parts are textbook (Wishart matrices, Gaussian inference).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from .. import _validate, models, zo
from ..data.batch import Batch
from ..models.switches import has_switches
from ..protocols import Protocol
from .gram import gradient_gram

LARGEST = 2**31
"""Bytes of the derivative G at most, in float64."""
TRIED = 256
"""Directions, at most, along which a message is tried for its noise: enough for a root mean square to 5 %."""
WHITE = 12**-0.5
"""Standard deviation of a pixel of which nothing is known but that it lies between 0 and 1."""
NAMING = 1.5
"""Scalars that name a record among candidates, over B log2(N / B): measured on digits, see chapter 20."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What :func:`predict` found.

    Attributes:
        psnr: (B,) float64, the expected PSNR of each record by the best linear estimate under the prior, in dB, with
            pixels clamped to their range as scores do. A mean over directions: one message may be decibels off.
        bound: (B,) float64, the PSNR that no attacker exceeds on average over records of the prior, in dB; ``inf``
            without noise, where it says nothing. One message may lie a decibel or two above an average.
        bits: what the scalars tell about the records, in bits, of an attacker with this prior.
        scalars: how many there are, over all rounds. unknowns: numbers that the records hold.
        rank: independent numbers that the client's gradient holds about them, at the present state.
        noise: standard deviation of a scalar's noise: round-off, and what a defence adds.
        notes: where the prediction is known to flatter, or to say nothing.
    """

    psnr: torch.Tensor
    bound: torch.Tensor
    bits: float
    scalars: int
    unknowns: int
    rank: int
    noise: float
    notes: tuple[str, ...]
    _system: Any

    def scalars_at(self, psnr: float | int) -> torch.Tensor:
        """The least number of scalars with which each record is expected to reach ``psnr`` dB, (B,) int64.

        -1 where no number reaches it, because the gradient does not hold it.
        """
        wanted = _validate.number("psnr", psnr)
        return torch.stack([self._system.least(record, wanted) for record in range(self._system.batch)])

    def scalars_to_name(self, candidates: int) -> int:
        """About how many scalars tell which of so many ``candidates`` the records are: 1.5 B log2(N / B), a rule of
        thumb (:func:`glutils.identify` measures)."""
        count = _validate.integer("candidates", candidates, at_least=self._system.batch + 1)
        batch = self._system.batch
        return math.ceil(NAMING * batch * math.log2(count / batch))

    def __str__(self) -> str:
        found = ", ".join(f"{value:.1f}" for value in self.psnr.tolist())
        best = float(self.bound.max())
        limit = "no bound without noise" if math.isinf(best) else f"no attacker above {best:.1f} dB on average"
        lines = [
            f"{self.scalars} scalars for {self.unknowns} numbers: expected PSNR {found} dB; {limit}",
            f"{self.bits:.0f} bits; the gradient holds {self.rank} independent numbers; noise {self.noise:.2g}",
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def predict(
    model: nn.Module, protocol: Protocol, batch: Batch, *, rounds: int = 1, public: Batch | None = None
) -> Prediction:
    """What ``rounds`` messages about ``batch`` would give away to whoever knows the labels. No attack is run.

    The error of the best linear estimate under a Gaussian prior with covariance S, in the mean over directions: with
    A = c G' G (c the directions' mean square), the posterior covariance is about (S^-1 + rho A)^-1 where rho solves
    rho = K / (noise^2 + tr A (S^-1 + rho A)^-1). Without a prior, and with K > D scalars, that is the mean of an
    inverse Wishart matrix, noise^2 A^-1 / (K - D). ``bits`` is the mutual information in the same approximation; the
    bound is Shannon's, E mse >= det(S)^(1/D) exp(-2 I / D). Where a pixel is black or white, half of its errors are
    clamped away, in both.

    Args:
        model: in the state and mode in which the client runs it.
        protocol: of scalars: :class:`~glutils.protocols.ZerothOrder`, or one that is defended by noise alone.
        batch: the private records, which the client has.
        rounds: messages planned, 1 or more. All are counted at the present state: a model that moves tells more where
            the gradient at one state holds too little.
        public: records of the same kind, of which the prior's mean and covariance are taken. None: every number by
            itself, pixels anywhere between 0 and 1, columns of a table of deviation 1.

    Raises:
        TypeError, ValueError: another kind of protocol; a defence that is no noise; records whose derivative would not
            fit into 2 GiB.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=1, seed=0)
        >>> model = gl.models.build("mlp", batch, activation="tanh", seed=0)
        >>> few, many = (gl.protocols.ZerothOrder(directions=k, mu=1e-3, law="gaussian") for k in (32, 128))
        >>> bool(gl.audit.predict(model, many, batch).psnr > 30 + gl.audit.predict(model, few, batch).psnr)
        True
    """
    rounds = _validate.integer("rounds", rounds, at_least=1)
    told = one_message(model, protocol, batch)
    notes = ["labels are taken to be known, and all rounds are counted at the present state"]
    count, prior = protocol.directions * rounds, prior_of(batch, public)
    return expected(told.gram, told.noise, count, batch, prior, notes + told.notes)


@dataclass(frozen=True)
class Told:
    """What the scalars of one message tell about its records: mean square of a row's derivative, and noise.

    Attributes:
        gram: (D, D) float64, the second moment of a scalar's derivative in the records' numbers.
        noise: standard deviation of a scalar's noise. notes: what makes the count optimistic.
    """

    gram: torch.Tensor
    noise: float
    notes: list[str]


def one_message(model: nn.Module, protocol: Protocol, batch: Batch) -> Told:
    """What a message of ``protocol`` at this state of the model would tell of ``batch``; refuses as :func:`predict`."""
    _validate.instance("protocol", protocol, Protocol)
    _validate.instance("batch", batch, Batch)
    if protocol.kind != "scalars" or not protocol.undefended.answers_slopes:
        raise ValueError(f"protocol must send plain scalars along public directions, got {protocol}")
    for defense in protocol.defenses:
        if defense.image_bound is not None or defense.mean_bound is not None or not defense.keeps_linearity:
            raise ValueError(f"protocol must be defended by noise alone, got {defense}")
    if not batch.images.is_floating_point():
        raise ValueError(f"batch must hold records that can change by a little, got {batch.kind}")
    protocol.check(model, batch.images, batch.labels)
    size = sum(p.numel() for p in models.parameters(model).values())
    unknowns = batch.images.numel()
    if 8 * size * unknowns > LARGEST:
        raise ValueError(
            f"batch must be small enough for a derivative of 2 GiB: {unknowns} numbers times {size} parameters are "
            f"{8 * size * unknowns / 2**30:.1f} GiB; take fewer records"
        )
    tried = replace(protocol.undefended, directions=min(protocol.directions, TRIED))
    directions = tried.draw(model)
    payload = tried.transmit(model, batch.images, batch.labels, directions=directions)
    sample = directions.rows(0, min(8, directions.count), torch.float64)
    gram = gradient_gram(model, protocol, batch) * float(sample.square().mean())
    added = protocol.noise(payload, len(batch))
    noise = math.hypot(_roundoff(model, tried, batch, payload.scalars, directions), added)
    kinks = "the network has kinks, which an attack may stick at: the prediction is for one that does not"
    return Told(gram, noise, [kinks] if has_switches(model, batch.images) else [])


def expected(
    gram: torch.Tensor, noise: float, count: int, batch: Batch, prior: torch.Tensor, notes: list[str]
) -> Prediction:
    """What ``count`` scalars of this second moment and noise tell, under a prior with this square root."""
    system, unknowns = _System(gram, prior, noise, _at_the_edge(batch)), batch.images.numel()
    rank = int((system.strengths > system.strengths.max() * unknowns * torch.finfo(torch.float64).eps).sum())
    if rank < unknowns:
        notes = [*notes, f"the gradient holds {rank} independent numbers for {unknowns}: the prior decides the rest"]
    if count < unknowns:
        notes = [*notes, "fewer scalars than numbers: the prior decides the rest, and a better one finds more"]
    if torch.equal(prior, torch.diag(prior.diagonal())):
        notes = [*notes, "without public records the prior knows nothing of what records look like"]
    bits = system.bits(count)
    return Prediction(
        psnr=_decibels(system.errors(count)), bound=_decibels(system.floor(bits)).expand(len(batch)).clone(),
        bits=bits, scalars=count, unknowns=unknowns, rank=rank, noise=noise, notes=tuple(notes), _system=system,
    )  # fmt: skip


class _System:
    """The linear Gaussian system in the basis in which its prior is white and its equations are independent."""

    def __init__(self, gram: torch.Tensor, prior: torch.Tensor, noise: float, edge: torch.Tensor):
        self.noise, self.batch, self.prior = noise, len(edge), prior  # prior: a square root of its covariance
        self.kept = 1 - edge.double().flatten() / 2  # of an error, by clamping
        self.strengths, basis = torch.linalg.eigh(prior.T @ gram @ prior)
        self.strengths = self.strengths.clamp_min(0)
        self.directions = prior @ basis

    def weight(self, count: float) -> float:
        """rho: how much of the whole gradient's information so many scalars carry."""
        if not count or not float(self.strengths.max()) > 0:
            return 0.0
        variance = max(self.noise**2, 1e-24 * float(self.strengths.sum()))
        low, high = 0.0, count / variance
        for _ in range(200):  # the right side falls as rho grows
            rho = (low + high) / 2 if low == 0 or high / low < 4 else math.sqrt(low * high)
            taken = float((self.strengths / (1 + rho * self.strengths)).sum())
            low, high = (rho, high) if rho < count / (variance + taken) else (low, rho)
            if high - low <= 1e-12 * high:
                break
        return high

    def errors(self, count: float) -> torch.Tensor:
        """Expected squared error of each record, (B,), averaged over its numbers."""
        shrunk = 1 / (1 + self.weight(count) * self.strengths)
        return (self.kept * (self.directions.square() @ shrunk)).view(self.batch, -1).mean(1)

    def bits(self, count: float) -> float:
        """Mutual information of so many scalars with the records."""
        rho, variance = self.weight(count), self.noise**2
        if not variance:
            return math.inf if rho else 0.0
        taken = float((self.strengths / (1 + rho * self.strengths)).sum()) / variance
        nats = 0.5 * float(torch.log1p(rho * self.strengths).sum())
        nats += 0.5 * count * (math.log1p(taken) - taken / (1 + taken))
        return nats / math.log(2)

    def floor(self, bits: float) -> torch.Tensor:
        """Shannon's bound on the mean squared error of every attacker, ()."""
        unknowns = len(self.prior)
        spread = 2 * float(torch.linalg.slogdet(self.prior)[1]) / unknowns
        return self.kept.mean() * math.exp(spread - 2 * bits * math.log(2) / unknowns)

    def least(self, record: int, psnr: float) -> torch.Tensor:
        """The least number of scalars with which a record is expected at ``psnr`` dB; -1: never."""
        wanted, high = 10 ** (-psnr / 10), 1
        while float(self.errors(high)[record]) > wanted:
            high *= 2
            if high > 2**40:
                return torch.tensor(-1)
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if float(self.errors(middle)[record]) <= wanted else (middle, high)
        return torch.tensor(high)


def _at_the_edge(batch: Batch) -> torch.Tensor:
    """Of every number whether it lies at the end of its range: half of all errors there are clamped away."""
    if batch.kind != "images":
        return torch.zeros(batch.images.shape, dtype=torch.bool)
    return (batch.images <= 0) | (batch.images >= 1)


def _roundoff(model, protocol, batch, scalars, directions) -> float:
    """Root mean square of what the client's arithmetic adds to its differences, or the expected one in float64."""
    arithmetic = protocol.arithmetic
    if arithmetic.dtype == "float64" or arithmetic.scheme == "exact":
        params = models.parameters(model, torch.float64)
        images = batch.images.double() if batch.images.is_floating_point() else batch.images
        loss = float(models.loss(model, params, images, batch.labels, criterion=protocol.criterion))
        return zo.roundoff(loss, arithmetic.mu, zo.DTYPES[arithmetic.dtype], "central")
    how = {"mu": arithmetic.mu, "scheme": arithmetic.scheme, "dtype": torch.float64, "criterion": protocol.criterion}
    fine = zo.slopes(model, batch.images, batch.labels, directions, **how)
    return float((scalars.double() - fine).square().mean().sqrt())


def prior_of(batch: Batch, public: Batch | None) -> torch.Tensor:
    """A square root of the prior covariance of all records, (D, D): the records are independent of each other."""
    each = batch.images[0].numel()
    if public is None:
        one = torch.eye(each, dtype=torch.float64) * (WHITE if batch.kind == "images" else 1.0)
    else:
        _validate.instance("public", public, Batch)
        if public.shape != batch.shape or len(public) < 2:
            held = f"{len(public)} of shape {public.shape}"
            raise ValueError(f"public must hold at least two records of shape {batch.shape}, got {held}")
        from sklearn.covariance import ledoit_wolf

        covariance, _ = ledoit_wolf(public.images.flatten(1).double().cpu().numpy())
        values, vectors = torch.linalg.eigh(torch.from_numpy(covariance))
        one = vectors * values.clamp_min(1e-9).sqrt()
    return torch.block_diag(*[one] * len(batch)).to(batch.images.device)


def _decibels(errors: torch.Tensor) -> torch.Tensor:
    return -10 * torch.log10(errors)
