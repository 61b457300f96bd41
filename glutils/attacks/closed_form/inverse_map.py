"""A linear map from messages to images, learned from what public images would have sent (for Learning to Invert)."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import _validate, models
from ...data.batch import Batch
from ...labels import infer
from ...observation import Observation
from ..matching.objective import messages

BINS, EXAMPLES = 4096, 1536
RIDGES = (1e-8, 1e-6, 1e-4, 1e-2, 1.0)
"""Penalties that are tried, in units of the mean square of an example."""
HELD_OUT = 8
"""One public image in so many is kept from the fit that chooses the penalty."""
CHUNK = 32


@dataclass(frozen=True, eq=False)
class Inverter:
    """What was learned for one network, one kind of message and the labels of one batch.

    Attributes:
        weight: (bins, B C H W), from features to pixels. mean: (bins,), of the features. image: (B C H W,), mean image.
        buckets, signs: (d,), where each number of a message goes and with which sign; empty where it is kept as it is.
        labels: (B,), sorted.
        shape: (B, C, H, W).
        made_for: what it was learned from and for, see :func:`subject`.
        examples: batches it was learned from. penalty: as chosen. held_out: PSNR (dB) of what was kept from the fit.
        seconds: of training.
    """

    weight: Tensor
    mean: Tensor
    image: Tensor
    buckets: Tensor
    signs: Tensor
    labels: Tensor
    shape: tuple[int, ...]
    made_for: tuple
    examples: int
    penalty: float
    held_out: float
    seconds: float

    def features(self, found: Tensor) -> Tensor:
        """Messages (P, d) as (P, bins): at length one, and hashed."""
        return _hashed(found, self.buckets, self.signs, len(self.mean))

    def images(self, found: Tensor) -> Tensor:
        """Batches (P, B, C, H, W) in [0, 1] from messages (P, d), in the order of :attr:`labels`."""
        made = (self.features(found) - self.mean) @ self.weight + self.image
        return made.clamp(0, 1).unflatten(1, self.shape)


def train_inverter(
    seen: Observation,
    public: Batch | None = None,
    labels: Tensor | None = None,
    *,
    bins: int = BINS,
    examples: int = EXAMPLES,
    seed: int = 0,
) -> Inverter:
    """Learn to invert the messages of the client in ``seen``, of which only network, protocol and labels are used.

    Public images stand in for the private ones, whatever their own labels are, under the labels of the private batch;
    their messages are simulated, defence included, and hashed to ``bins`` numbers. Ridge regression fits the pixels.
    The penalty is the one that predicts held-out public images best.

    Args:
        seen: an observation of the network and the protocol.
        public: images to learn from; default: those of ``seen``, and random pictures (:func:`pictures`) if it has none.
        labels: (B,) of the private batch, all different; default: those of ``seen``, else inferred.
        bins: features, 1 or more; a message of fewer numbers is not hashed.
        examples: batches of public images, 16 or more; for one image not more than there are, mirrored ones included.
        seed: of the hash and of the draws.

    Raises:
        TypeError, ValueError: public images of another shape, labels that repeat, or a bad number.
    """
    begin = time.perf_counter()
    bins = _validate.integer("bins", bins, at_least=1)
    examples = _validate.integer("examples", examples, at_least=16)
    seed = _validate.integer("seed", seed, at_least=0)
    public = seen.public if public is None else public
    if public is not None:
        _validate.instance("public", public, Batch)
        if public.shape != tuple(seen.shape[1:]):
            raise ValueError(f"public must hold images of shape {tuple(seen.shape[1:])}, got {public.shape}")
    labels = labels_of(seen)[0] if labels is None else labels
    labels = distinct(labels, seen.shape[0]).sort().values
    generator = torch.Generator().manual_seed(seed)
    if public is None:
        images = pictures(examples * len(labels), tuple(seen.shape[1:]), generator)
    else:
        images = public.images.cpu()
    held = max(1, len(images) // HELD_OUT)
    groups = [torch.cat([some, some.flip(3)]) for some in (images[:-held], images[-held:])]
    tests = max(1, examples // HELD_OUT)
    shares = (examples - tests, tests)
    parted = [_batches(group, len(labels), n, generator) for group, n in zip(groups, shares, strict=True)]
    batches = torch.cat(parted)
    device = labels.device
    parts, size = [], 0
    buckets = signs = torch.empty(0, dtype=torch.int64, device=device)
    for some in batches.split(CHUNK):
        with torch.no_grad():
            found = caused(seen, some.to(device), labels)
        if not parts:
            size = min(bins, found.shape[1])
            if found.shape[1] > bins:
                buckets = torch.randint(bins, found.shape[1:], generator=generator).to(device)
                signs = (2 * torch.randint(2, found.shape[1:], generator=generator) - 1).to(device)
        parts.append(_hashed(found, buckets, signs, size))
    features, pixels = torch.cat(parts).double(), batches.flatten(1).to(device).double()
    inner, fits = features @ features.mT, len(parted[0])
    scores = {}
    for ridge in RIDGES:
        shares = _ridge(inner[:fits, :fits], pixels[:fits], ridge)
        new = inner[fits:, :fits] - inner[:fits, :fits].mean(0)
        apart = ((new - new.mean(1, keepdim=True)) @ shares + pixels[:fits].mean(0)).clamp(0, 1) - pixels[fits:]
        scores[ridge] = float(-10 * apart.square().mean(1).clamp_min(1e-30).log10().mean())
    best = max(scores, key=scores.__getitem__)
    mean, shares = features.mean(0), _ridge(inner, pixels, best)
    weight, image = ((features - mean).mT @ shares).float(), pixels.mean(0).float()
    return Inverter(
        weight, mean.float(), image, buckets, signs, labels, tuple(seen.shape), subject(seen), len(features), best,
        scores[best], time.perf_counter() - begin,
    )  # fmt: skip


def caused(seen: Observation, images: Tensor, labels: Tensor) -> Tensor:
    """(P, d): what the client of ``seen`` would have sent for each of P batches (P, B, C, H, W)."""
    entry = seen.rounds[0]
    params = models.parameters(seen.model) if entry.parameters is None else entry.parameters
    return messages(seen, entry.protocol, params, images, labels)


def subject(seen: Observation) -> tuple[str, str]:
    """What a map is learned for: the network with its weights as sent, and the protocol."""
    entry = seen.rounds[0]
    params = models.parameters(seen.model) if entry.parameters is None else entry.parameters
    content = hashlib.sha256(repr(seen.model).encode())
    for part in (*params.values(), *seen.model.buffers()):
        content.update(part.detach().cpu().numpy().tobytes())
    return content.hexdigest()[:16], repr(entry.protocol)


def pictures(count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random pictures (count, C, H, W) in [0, 1], as smooth as photographs are: their spectrum falls with frequency.

    Channels go together most of the way; brightness and contrast are drawn anew for each picture.
    """
    channels, height, width = shape
    rows, columns = torch.fft.fftfreq(height) * height, torch.fft.rfftfreq(width) * width
    falls = 1 / (rows[:, None].square() + columns.square() + 1).sqrt()
    draw = torch.randn(count, channels + 1, height, width, generator=generator)
    smooth = torch.fft.irfft2(torch.fft.rfft2(draw) * falls, s=(height, width))
    mixed = smooth[:, :1] + 0.5 * smooth[:, 1:]
    mixed = mixed / mixed.flatten(1).std(1)[:, None, None, None].clamp_min(1e-12)
    contrast, brightness = torch.rand(2, count, 1, 1, 1, generator=generator)
    return (brightness + 0.4 * contrast * mixed).clamp(0, 1)


def _hashed(found: Tensor, buckets: Tensor, signs: Tensor, bins: int) -> Tensor:
    """(P, d) at length one, added up in buckets: (P, bins)."""
    found = found / found.norm(dim=1, keepdim=True).clamp_min(1e-30)
    if not len(buckets):
        return found
    return found.new_zeros(len(found), bins).index_add_(1, buckets, found * signs)


def _ridge(inner: Tensor, pixels: Tensor, ridge: float) -> Tensor:
    """By how much every example counts, (P, pixels), from the inner products of their features (P, P)."""
    centred = inner - inner.mean(0) - inner.mean(1, keepdim=True) + inner.mean()
    centred.diagonal().add_(ridge * centred.diagonal().mean().clamp_min(1e-30))
    return torch.linalg.solve(centred, pixels - pixels.mean(0))


def _batches(images: Tensor, count: int, examples: int, generator: torch.Generator) -> Tensor:
    """(P, B, C, H, W) of the images, every one as often as any other."""
    if count == 1:
        return images[torch.randperm(len(images), generator=generator)][:examples, None]
    rounds = math.ceil(examples * count / len(images))
    order = torch.cat([torch.randperm(len(images), generator=generator) for _ in range(rounds)])
    return images[order[: examples * count]].unflatten(0, (examples, count))


def labels_of(seen: Observation) -> tuple[Tensor, list[str]]:
    """As told, or inferred, on the network's device."""
    device = next(seen.model.parameters()).device
    if seen.labels is not None:
        return seen.labels.to(device), []
    rule = "idlg" if seen.shape[0] == 1 else "zero_shot"
    return infer(rule, seen).labels.to(device), [f"labels inferred by {rule}"]


def distinct(labels: Tensor, count: int) -> Tensor:
    """``labels`` if they are (B,) int64 and all different; ``TypeError`` or ``ValueError`` otherwise."""
    _validate.instance("labels", labels, Tensor)
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 of shape ({count},), got {labels.dtype} of {tuple(labels.shape)}")
    if len(labels.unique()) < count:
        raise ValueError(
            f"attack 'inverter' tells the images of a batch apart by their labels, which must differ, got "
            f"{labels.tolist()}; 'ig' needs no such thing"
        )
    return labels
