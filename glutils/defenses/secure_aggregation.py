"""Secure aggregation: the server learns the sum of the clients' numbers and nothing else (Bonawitz et al., CCS 2017).

Every two clients agree on a mask that one adds and the other subtracts; every client adds one more mask of its own.
The sum of what they send is then the sum of what they have, once the server has been told the masks of those who
stayed away (or the own masks of those who stayed), from shares that any ``threshold`` clients can put together.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .. import _validate

PRIME = 2**521 - 1
"""Of the field in which keys are shared (Shamir 1979); a Mersenne prime above every 256-bit key."""


@dataclass(frozen=True)
class FixedPoint:
    """Real numbers as multiples of ``step`` in the ring of integers modulo 2^bits.

    Args:
        step: resolution, above 0, in units of the numbers.
        bits: 8 to 64.
    """

    step: float = 2.0**-16
    bits: int = 32

    def __post_init__(self) -> None:
        _validate.number("step", self.step, above=0)
        _validate.integer("bits", self.bits, at_least=8, at_most=64)

    def encode(self, numbers: torch.Tensor, clients: int = 1) -> np.ndarray:
        """Ring elements (uint64) of numbers, rounded to the nearest step.

        Raises:
            ValueError: numbers so large that the sum of ``clients`` such vectors could leave the ring.
        """
        _validate.instance("numbers", numbers, torch.Tensor)
        _validate.finite("numbers", numbers)
        scaled = numbers.detach().double().cpu().reshape(-1) / self.step
        largest, room = float(scaled.abs().max()) + 0.5 if len(scaled) else 0.0, 2.0 ** (self.bits - 1)
        if largest * clients >= room:
            raise ValueError(
                f"bits must be at least {math.ceil(math.log2(largest * clients)) + 1} for {clients} clients and "
                f"numbers up to {float(numbers.abs().max()):g} in steps of {self.step:g}, or the sum would leave the "
                f"ring; got {self.bits}"
            )
        return scaled.round().to(torch.int64).numpy().astype(np.uint64) & self._mask

    def decode(self, elements: np.ndarray) -> torch.Tensor:
        """Numbers (float64) of ring elements; the upper half of the ring is negative."""
        shift = np.uint64(64 - self.bits)
        signed = ((elements & self._mask) << shift).astype(np.int64) >> np.int64(64 - self.bits)
        return torch.from_numpy(signed).double() * self.step

    @property
    def _mask(self) -> np.uint64:
        return np.uint64(2**self.bits - 1)


@dataclass(frozen=True, eq=False)
class SecureSum:
    """What :func:`secure_sum` gives.

    Attributes:
        total: sum over the clients that stayed, float64, in the shape of one vector.
        masked: what each of them sent, by client: ring elements (uint64), all that the server sees of a client.
        survivors: who stayed.
        bytes_sent: by a client that stayed, over all rounds of the exchange.
    """

    total: torch.Tensor
    masked: dict[int, np.ndarray]
    survivors: tuple[int, ...]
    bytes_sent: int


def secure_sum(
    vectors: Sequence[torch.Tensor],
    *,
    threshold: int | None = None,
    dropped: Collection[int] = (),
    silent: Collection[int] = (),
    coding: FixedPoint | None = None,
    received: Sequence[bytes] | None = None,
    seed: int | None = None,
) -> SecureSum:
    """The sum of the clients' vectors, as a server learns it that follows the protocol.

    Four rounds: public keys; shares of every client's keys; masked vectors; shares that open the sum. X25519 for the
    pairs' masks, Shamir's scheme for the shares, ChaCha20 to stretch a key into a mask.

    What it takes for granted, and a malicious server may break: keys that are authentic (signed, so that the server
    cannot put its own in their place), shares that travel encrypted, and one list of survivors that all clients have
    seen (the consistency round of the paper), so that no client's key and own mask are both opened.

    Args:
        vectors: one tensor of the same shape for each client, two or more.
        threshold: clients that are needed to open the sum, more than half of them; default: the least number above two
            thirds, which holds against a server with up to a third of the clients on its side (Bonawitz et al. 2017).
        dropped: clients that send their shares and then stay away: their vectors are not in the sum.
        silent: clients whose vectors are in the sum, but who do not answer when it is to be opened.
        coding: numbers to ring elements.
        received: for each client what it binds its masks to, a digest of the model that it received. Where two differ,
            their masks do not cancel, and the sum is noise (Pasquini, Francati, Ateniese 2022, section 6). None: masks
            are bound to nothing.
        seed: makes the keys repeatable, for tests and books; default: the system's randomness.

    Raises:
        ValueError: fewer clients than the threshold stay or answer, a ring too small for the sum, vectors of different
            shapes, a threshold that would let the server open a client by itself.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> vectors = [torch.full((3,), float(i)) for i in range(4)]
        >>> gl.defenses.secure_sum(vectors).total
        tensor([6., 6., 6.], dtype=torch.float64)
    """
    coding = FixedPoint() if coding is None else _validate.instance("coding", coding, FixedPoint)
    count, shape = len(vectors), _shapes(vectors)
    threshold = 2 * count // 3 + 1 if threshold is None else threshold
    threshold = _validate.integer("threshold", threshold, at_least=count // 2 + 1, at_most=count)
    dropped, silent = (_clients(n, who, count) for n, who in (("dropped", dropped), ("silent", silent)))
    stayed = [i for i in range(count) if i not in dropped]
    answering = [i for i in stayed if i not in silent]
    if len(answering) < threshold:
        raise ValueError(
            f"threshold is {threshold}, but only {len(answering)} of {count} clients answered: the sum stays closed"
        )
    clients = [_Client(i, _entropy(seed, i)) for i in range(count)]
    public = {c.number: c.public for c in clients}
    bound = _bound(received, count)
    shares = [c.shares(count, threshold) for c in clients]
    masked = {i: clients[i].mask(coding.encode(vectors[i], count), public, bound[i]) for i in stayed}
    total = sum(masked.values(), np.zeros(shape.numel(), dtype=np.uint64))
    for i in stayed:  # whoever is in the sum: its own mask is opened, never its key
        secret = combine({j: shares[i][1][j] for j in answering}, threshold)
        total = total - _stream(secret.to_bytes(66, "big"), shape.numel())
    for i in sorted(dropped):  # whoever is not: its key is opened, never its own mask
        secret = combine({j: shares[i][0][j] for j in answering}, threshold)
        others = {j: public[j] for j in stayed}
        total = total + _pairwise(i, secret.to_bytes(32, "big"), others, shape.numel(), bound)
    sent = bytes_of_a_client(count, shape.numel(), coding.bits)
    found = coding.decode(total).view(shape)
    return SecureSum(found, {i: m & coding._mask for i, m in masked.items()}, tuple(stayed), sent)


def bytes_of_a_client(clients: int, numbers: int, bits: int = 32) -> int:
    """What a client that stays sends in one exchange: its key, shares of two secrets for all, its masked vector of so
    many ``numbers``, and the shares that open the sum."""
    return 32 + 66 * 2 * clients + numbers * math.ceil(bits / 8) + 66 * clients


class _Client:
    """Keys of one client, and what it does with them."""

    def __init__(self, number: int, entropy: bytes):
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        self.number = number
        self.key = hashlib.sha256(entropy + b"key").digest()
        self.own = hashlib.sha256(entropy + b"own").digest()
        self.polynomials = entropy
        self.public = X25519PrivateKey.from_private_bytes(self.key).public_key().public_bytes_raw()

    def shares(self, count: int, threshold: int) -> tuple[dict[int, int], dict[int, int]]:
        """Shares of the key and of the own mask's seed, one for each client."""
        key, own = (int.from_bytes(secret, "big") for secret in (self.key, self.own))
        return (
            share(key, count, threshold, self.polynomials + b"shares of key"),
            share(own, count, threshold, self.polynomials + b"shares of own"),
        )

    def mask(self, encoded: np.ndarray, public: Mapping[int, bytes], received: bytes) -> np.ndarray:
        """Vector + own mask + masks agreed with the others, in integers modulo 2^64 (a multiple of the ring)."""
        others = {j: key for j, key in public.items() if j != self.number}
        own = _stream(int.from_bytes(self.own, "big").to_bytes(66, "big"), encoded.size)
        return encoded + own + _pairwise(self.number, self.key, others, encoded.size, dict.fromkeys(others, received))


def _bound(received: Sequence[bytes] | None, count: int) -> dict[int, bytes]:
    """What each client's masks are bound to."""
    if received is None:
        return dict.fromkeys(range(count), b"")
    if len(received) != count or not all(isinstance(entry, bytes) for entry in received):
        raise ValueError(f"received must hold bytes for each of {count} clients, got {len(received)} entries")
    return dict(enumerate(received))


def _pairwise(
    number: int, key: bytes, public: Mapping[int, bytes], size: int, bound: Mapping[int, bytes]
) -> np.ndarray:
    """Sum of the masks that this client has agreed on with the others, added or subtracted by the order of numbers.

    ``bound`` holds, for every other client, what the mask of the two is bound to besides their keys.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    private, total = X25519PrivateKey.from_private_bytes(key), np.zeros(size, dtype=np.uint64)
    for j, other in public.items():
        mask = _stream(private.exchange(X25519PublicKey.from_public_bytes(other)) + bound[j], size)
        total = total + mask if number < j else total - mask
    return total


def _stream(secret: bytes, size: int) -> np.ndarray:
    """``size`` uniform 64-bit integers from a secret, by SHA-256 and ChaCha20."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    cipher = Cipher(algorithms.ChaCha20(hashlib.sha256(secret).digest(), bytes(16)), mode=None).encryptor()
    return np.frombuffer(cipher.update(bytes(8 * size)), dtype="<u8").astype(np.uint64)


def share(secret: int, count: int, threshold: int, entropy: bytes) -> dict[int, int]:
    """Points of a random polynomial of degree threshold - 1 through (0, secret); client i gets the value at i + 1."""
    coefficients = [secret] + [
        int.from_bytes(hashlib.shake_256(entropy + b"%d" % k).digest(80), "big") % PRIME for k in range(1, threshold)
    ]
    points = {}
    for i in range(count):
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * (i + 1) + coefficient) % PRIME
        points[i] = value
    return points


def combine(points: Mapping[int, int], threshold: int) -> int:
    """The secret, from at least ``threshold`` shares; ``ValueError`` with fewer."""
    if len(points) < threshold:
        raise ValueError(f"threshold is {threshold} shares, got {len(points)}: the secret cannot be put together")
    used = dict(sorted(points.items())[:threshold])
    total = 0
    for i, value in used.items():
        factor = 1
        for j in used:
            if j != i:
                factor = factor * (j + 1) * pow(j - i, -1, PRIME) % PRIME
        total = (total + value * factor) % PRIME
    return total


def _entropy(seed: int | None, client: int) -> bytes:
    if seed is None:
        return secrets.token_bytes(32)
    return hashlib.sha256(b"%d of %d" % (client, _validate.integer("seed", seed, at_least=0))).digest()


def _shapes(vectors: Sequence[torch.Tensor]) -> torch.Size:
    if len(vectors) < 2:
        raise ValueError(f"vectors must come from at least 2 clients, got {len(vectors)}")
    for i, vector in enumerate(vectors):
        _validate.instance(f"vectors[{i}]", vector, torch.Tensor)
        if vector.shape != vectors[0].shape:
            raise ValueError(f"vectors[{i}] must have shape {tuple(vectors[0].shape)}, got {tuple(vector.shape)}")
    return vectors[0].shape


def _clients(name: str, who: Collection[int], count: int) -> frozenset[int]:
    return frozenset(_validate.integer(name, i, at_least=0, at_most=count - 1) for i in who)
