"""The same observation, read otherwise: spoiled for a control, without knowing a defence, as if it were a gradient."""

from __future__ import annotations

from dataclasses import replace

import torch

from .. import _validate, models, zo
from ..protocols import Along, FedSGD, HiddenDirections, Payload
from .observe import Observation


def tamper(seen: Observation, how: str, *, seed: int = 0) -> Observation:
    """The observation of an attacker who was misled: a negative control, on which an attack must fail.

    Args:
        how: ``"wrong_seed"``: scalars as sent, directions from another public seed; ``"permuted"``: the entries of
            every payload tensor in random order; ``"wrong_gradient"``: a payload of the same norm in a random
            direction; ``"zero"``: a payload of zeros, so that only the priors speak. Messages of one number each, which
            have no order and only two directions, are spoiled together, as the entries of one.
        seed: of the permutation or the random direction.

    Raises:
        ValueError: an unknown ``how``, ``"wrong_seed"`` for a protocol without directions, or a single number that is
            to be permuted or turned: it would stay what it was, and a control that is the truth controls nothing.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> protocol = gl.protocols.ZerothOrder(directions=20, mu=1e-4, dtype="float64", seed=0)
        >>> payload = protocol.transmit(model, batch.images, batch.labels)
        >>> seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
        >>> wrong = gl.tamper(seen, "wrong_seed")
        >>> wrong.payload.scalars.equal(seen.payload.scalars), wrong.protocol == seen.protocol
        (True, False)
    """
    _validate.choice("how", how, ("wrong_seed", "permuted", "wrong_gradient", "zero"))
    if how == "wrong_seed":
        if seen.kind != "scalars":
            raise ValueError(f"how='wrong_seed' needs a protocol with directions, got {seen.protocol}")
        rounds = (replace(r, protocol=r.protocol.for_round(1_000_003 + seed)) for r in seen.rounds)
        return replace(seen, rounds=tuple(rounds))
    generator = torch.Generator().manual_seed(seed)

    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        if how == "permuted":
            order = standing = torch.arange(tensor.numel())
            while tensor.numel() > 1 and order.equal(standing):  # of few numbers, chance often gives the old order
                order = torch.randperm(tensor.numel(), generator=generator)
            order = order.to(tensor.device)
            return tensor.flatten()[order].view(tensor.shape)
        if how == "zero":
            return torch.zeros_like(tensor)
        noise = torch.randn(tensor.shape, generator=generator).to(tensor)
        return noise * (tensor.norm() / noise.norm())

    if how != "zero" and all(r.payload.numel() == 1 for r in seen.rounds):
        if len(seen.rounds) == 1:
            raise ValueError(f"how={how!r} would leave a message of one number what it is; see 'wrong_seed'")
        mixed = spoil(torch.cat([r.payload.flat for r in seen.rounds]))
        pairs = zip(seen.rounds, mixed.split(1), strict=True)
        return replace(seen, rounds=tuple(replace(r, payload=r.payload.with_flat(one)) for r, one in pairs))
    return replace(seen, rounds=tuple(replace(r, payload=r.payload.map(spoil)) for r in seen.rounds))


def naive(seen: Observation) -> Observation:
    """The observation of an attacker who does not know of any defence: it simulates the protocol within.

    For comparison with the one who knows. An observation of an undefended protocol stays as it is.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> protocol = gl.protocols.ZerothOrder(directions=20, mu=1e-4, dtype="float64", seed=0)
        >>> noise = gl.defenses.get("gaussian_noise", sigma=0.1, relative=True)
        >>> protocol = gl.defenses.Defended(protocol, noise, private=1)
        >>> payload = protocol.transmit(model, batch.images, batch.labels)
        >>> seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
        >>> type(gl.observation.naive(seen).protocol).__name__
        'ZerothOrder'
    """
    _validate.instance("seen", seen, Observation)
    return replace(seen, rounds=tuple(replace(r, protocol=r.protocol.undefended) for r in seen.rounds))


def as_gradient(seen: Observation, *, unbiased: bool = True, scaled: bool = True) -> Observation:
    """The observation in which scalars, or a parameter difference, stand for a gradient, as if of FedSGD.

    What attacks on gradients (``"dlg"``, ``"idlg"``, ``"ig"``, ``"stg"``) can be fed after one message of another kind.

    - Scalars: the mean of the directions, each times its scalar, see :func:`glutils.zo.estimate`. Its cosine with the
      gradient is about sqrt(K / d), with K scalars and d parameters.
    - A difference: (theta_0 - theta_U) / (lr U), the mean of the gradients at the U = epochs x ceil(B / batch_size)
      states that local training went through: the average gradient approximation of IGIMS (Fang et al. 2024). Exact
      for U = 1, and the worse the further local training drifts. Momentum and weight decay are allowed for, see
      :meth:`glutils.protocols.FedAvg.average_gradient`.

    Args:
        seen: one message; of a transcript, observe one round. Messages of several rounds are about different models,
            and their estimates must not be averaged.
        unbiased: of scalars: multiply by d for unit directions. The reference code of ZeroGLA does not (False), and its
            baselines look for a gradient that is sqrt(1 / (K d)) as long as the true one.
        scaled: of a difference: divide by lr U. The code of a survey (Zhu, Huang, Xie 2024) does not (False): it takes
            the bare difference for a gradient, which is then lr U times as long as the mean gradient. Attacks that look
            at directions only do not mind.

    Raises:
        ValueError: a payload that is neither scalars nor a difference, more than one message, ``unbiased=False`` for a
            difference, ``scaled=False`` for scalars.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> protocol = gl.protocols.ZerothOrder(directions=20, mu=1e-4, dtype="float64", seed=0)
        >>> payload = protocol.transmit(model, batch.images, batch.labels)
        >>> seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
        >>> estimate = gl.observation.as_gradient(seen)
        >>> estimate.kind, estimate.payload["1.weight"].shape
        ('gradient', torch.Size([64, 64]))
    """
    _validate.instance("seen", seen, Observation)
    for name, value in (("unbiased", unbiased), ("scaled", scaled)):
        _validate.instance(name, value, bool)
    if seen.kind not in ("scalars", "delta"):
        raise ValueError(f"seen must hold scalars or a parameter difference, got a payload of kind {seen.kind!r}")
    if len(seen.rounds) != 1:
        raise ValueError(f"seen must hold one message, got {len(seen.rounds)}; observe(..., rounds=[t]) picks one")
    if seen.kind == "delta" and not unbiased:
        raise ValueError("unbiased=False is for scalars, got a parameter difference")
    if seen.kind == "scalars" and not scaled:
        raise ValueError("scaled=False is for a parameter difference, got scalars")
    message, named = seen.rounds[0], models.parameters(seen.model)
    if seen.kind == "delta":
        start, numbers = message.parameters or named, message.payload.tensors
        if scaled:
            numbers = message.protocol.undefended.average_gradient(start, numbers, local_steps(seen))
    else:
        found = zo.estimate(message.payload.scalars, message.protocol.draw(seen.model), unbiased=unbiased)
        numbers = {name: part.to(named[name].dtype) for name, part in models.unflatten(found, named).items()}
    payload, loss = Payload("gradient", numbers, message.payload.mode), message.protocol.criterion
    protocol = FedSGD(None if loss is models.losses.DEFAULT else loss)
    return replace(seen, rounds=(replace(message, protocol=protocol, payload=payload),))


def local_steps(seen: Observation) -> int:
    """Steps of local training behind one parameter difference: epochs x ceil(images / batch_size).

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> protocol = gl.protocols.FedAvg(epochs=3, batch_size=1, lr=0.1)
        >>> payload = protocol.transmit(model, batch.images, batch.labels)
        >>> seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
        >>> gl.observation.local_steps(seen)
        6
    """
    images = seen.shape[0] if seen.local_batch is None else seen.local_batch
    return seen.protocol.local_steps(images)


def as_slopes(seen: Observation) -> Observation:
    """The messages of clients with hidden directions, read as one scalar each along a known direction.

    A message is v = (d / K) sum of s_i z_i with s_i = z_i . g and nearly orthogonal unit vectors z_i, so v . g = (d /
    K) sum of s_i^2 is nearly ``|v|^2 K / d``: the slope along ``v / |v|`` is ``|v| K / d``. For one direction that is
    exact (``v / |v|`` is the direction itself, up to its sign, which cancels); for K of them off by about sqrt(K / d).
    K is part of the protocol.

    Raises:
        ValueError: messages of another protocol, or of the Gaussian law.
    """
    _validate.instance("seen", seen, Observation)
    rounds = []
    for message in seen.rounds:
        protocol = message.protocol
        if not isinstance(protocol, HiddenDirections) or protocol.law != "unit":
            raise ValueError(f"seen must hold messages of HiddenDirections with law='unit', got {protocol}")
        v = message.payload.flat.double()
        length = v.norm()
        if not length > 0:
            raise ValueError(f"round {message.number}: the message is zero and has no direction")
        how = {"scheme": "exact", "law": "gaussian", "dtype": "float64", "loss": protocol.loss}
        along = Along(directions=1, rows=(v / length)[None], **how)
        slope = Payload("scalars", (length * protocol.directions / len(v))[None], message.payload.mode)
        rounds.append(replace(message, protocol=along, payload=slope))
    return replace(seen, rounds=tuple(rounds))
