"""How many scalars a text is worth: its surprise in bits, what a scalar can carry, and where the decoder begins."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from .. import _validate, models
from ..data.batch import Batch
from ..protocols import Protocol, ZerothOrder
from .predict import _roundoff

SAMPLE = 32
"""Directions along which the size of a scalar is measured."""
DECODED = 3.2
"""Scalars a nat of surprise from which nine messages of ten came back whole: measured on one message of a small model
and a client in float32, see the record ``text_cpu``."""


@dataclass(frozen=True, eq=False)
class TextCount:
    """What :func:`count_texts` found.

    Attributes:
        surprise: (B,) float64, bits of each text under the language model.
        secrets: (B,) float64, the part of it that lies on pieces of its secrets (runs of four digits or more).
        targets: next tokens that count, over all texts.
        scalars: how many are planned, over all rounds.
        spread: root mean square of a scalar about these texts, without what a defence adds.
        noise: standard deviation of what hides it: the client's round-off, and known noise.
        bits_per_scalar: ``log2(1 + (spread / noise)^2) / 2``, more than which no scalar tells.
    """

    surprise: Float64[Tensor, " batch"]
    secrets: Float64[Tensor, " batch"]
    targets: int
    scalars: int
    spread: float
    noise: float
    bits_per_scalar: float

    @property
    def least(self) -> int:
        """The least number of scalars that could hold the texts: fewer cannot, whoever decodes."""
        bits = float(self.surprise.sum())
        return math.ceil(bits / self.bits_per_scalar) if self.bits_per_scalar else 2**62

    @property
    def decoded(self) -> int:
        """About how many the attack ``"zerogla_text"`` wants: 3.2 for each nat of surprise, where noise is small."""
        return math.ceil(DECODED * float(self.surprise.sum()) * math.log(2))

    def __str__(self) -> str:
        bits, secret = float(self.surprise.sum()), float(self.secrets.sum())
        return "\n".join([
            f"{self.targets} pieces, {bits:.0f} bits under the language model, {secret:.0f} of them in secrets",
            f"a scalar holds at most {self.bits_per_scalar:.1f} bits: size {self.spread:.2g}, noise {self.noise:.2g}",
            f"{self.scalars} scalars are planned; fewer than {self.least} could not hold the text, and the decoder "
            f"wants about {self.decoded} where noise is small",
        ])  # fmt: skip


def count_texts(model: nn.Module, protocol: Protocol, batch: Batch, *, rounds: int = 1) -> TextCount:
    """How many scalars texts are worth, before any is sent: bits of the texts over bits of a scalar. No attack is run.

    A text of probability p is -log2 p bits of surprise, and a language model says what p is. A scalar s + e with noise
    e of deviation tau tells at most I <= log2(1 + E s^2 / tau^2) / 2 bits (Shannon's channel of Gaussian noise), so K
    scalars tell at most K times that. On average over texts of the model, nobody decodes from fewer scalars than
    surprise over bits a scalar. It is a bound and no promise: a text of little surprise may be guessed, and round-off
    is taken for independent Gaussian noise, which it is not.

    Args:
        model: a causal language model, in the state in which the client begins.
        protocol: of scalars: :class:`~glutils.protocols.ZerothOrder`, or one that is defended by noise.
        batch: the private texts, which the client has.
        rounds: messages planned, 1 or more.

    Raises:
        TypeError, ValueError: another kind of protocol or of records; a defence that is no noise.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.from_texts(["The code of my phone is 4821."])
        >>> model = gl.models.build("gpt", batch, weights="trained")
        >>> protocol = gl.protocols.ZerothOrder(directions=1, mu=1e-3, law="mezo")
        >>> found = gl.audit.count_texts(model, protocol, batch, rounds=192)
        >>> found.targets, 1 < found.least < found.decoded < found.scalars
        (12, True)
    """
    _validate.instance("protocol", protocol, Protocol)
    _validate.instance("batch", batch, Batch)
    rounds = _validate.integer("rounds", rounds, at_least=1)
    if protocol.kind != "scalars" or not protocol.undefended.answers_slopes or not protocol.keeps_linearity:
        raise ValueError(f"protocol must send scalars along public directions, with noise at most, got {protocol}")
    if batch.kind != "tokens":
        raise ValueError(f"batch must hold texts, got {batch.kind}, which gl.audit.predict is about")
    protocol.check(model, batch.images, batch.labels)
    plain = protocol.undefended
    assert isinstance(plain, ZerothOrder), "nothing else answers slopes"
    sample = replace(plain, directions=SAMPLE)
    directions = sample.draw(model)
    with torch.no_grad():
        logs = models.logits(model, models.parameters(model), batch.images)[:, :-1].double().log_softmax(-1)
        told, targets = batch.labels[:, 1:] != _validate.IGNORED, batch.labels[:, 1:].clamp(min=0)
        bits = -logs.gather(-1, targets[..., None])[..., 0] * told / math.log(2)
        scalars = sample.transmit(model, batch.images, batch.labels, directions=directions).scalars
        rough = _roundoff(model, sample, batch, scalars, directions)
    spread = float(scalars.double().square().mean().sqrt())
    noise = math.hypot(rough, protocol.noise(plain.payload(scalars, model), len(batch)))
    return TextCount(
        surprise=bits.sum(1).cpu(), secrets=(bits.cpu() * _secret(batch)).sum(1), targets=int(told.sum()),
        scalars=plain.directions * rounds, spread=spread, noise=noise,
        bits_per_scalar=0.5 * math.log2(1 + (spread / noise) ** 2) if noise else math.inf,
    )  # fmt: skip


def _secret(batch: Batch) -> Tensor:
    """(B, L - 1) 1.0 for targets that hold a character of a secret, else 0.0."""
    from ..metrics.texts import SECRET  # here, because it loads SciPy

    found = torch.zeros(len(batch), batch.images.shape[1] - 1, dtype=torch.float64)
    for row, tokens in enumerate(batch.images.cpu()):
        if batch.vocabulary is None:
            break
        text = batch.vocabulary.decode(tokens)
        ends = [len(batch.vocabulary.decode(tokens[: i + 1])) for i in range(len(tokens))]
        for match in SECRET.finditer(text):
            for i in range(1, len(tokens)):
                found[row, i - 1] = max(float(found[row, i - 1]), float(
                    ends[i - 1] < match.end() and ends[i] > match.start() and ends[i] > ends[i - 1]
                ))  # fmt: skip
    return found
