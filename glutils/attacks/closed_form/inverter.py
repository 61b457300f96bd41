"""Learning to Invert: images by a map that was learned from public ones (Wu, Chen, Guo, Weinberger, UAI 2023)."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import torch
from torch import Tensor

from ... import _validate
from ...observation import Observation
from ..base import Card, Reconstruction, register
from .denoiser import Denoiser
from .inverse_map import BINS, EXAMPLES, Inverter, caused, distinct, labels_of, subject, train_inverter

KEPT = 16
"""Maps that are remembered for calls without ``trained``."""
_KNOWN: OrderedDict[tuple, Inverter] = OrderedDict()


@register(
    "inverter",
    Card(
        title="Learning to Invert",
        kinds=("gradient", "delta"),
        simulates="FedSGD, FedAvg or a defence, on public images",
        variable="-",
        distance="-",
        prior="map trained on public images",
        solver="closed form: one linear map",
        labels="given or zero-shot, all different",
        source="wu2023learning",
    ),
)
def inverter(
    seen: Observation,
    *,
    seed: int = 0,
    trained: Inverter | None = None,
    bins: int = BINS,
    examples: int = EXAMPLES,
    denoiser: Denoiser | None = None,
) -> Reconstruction:
    """Images by one linear map of the message, learned beforehand from what public images would have caused.

    The attacker holds the network and knows the protocol. So it can compute what any public image would have sent, as
    often as it likes, and learn the way back by regression. That takes seconds to minutes, once for a network and a set
    of labels; each message then takes milliseconds. A defence is learned with the rest: what the client sends is
    simulated with it.

    Without ``trained`` the map is learned here, from the public images of ``seen``, and remembered for later calls with
    the same network, protocol, labels and images. Without public images it is learned from random pictures. Labels that
    were not told are inferred: of one image by iDLG's rule, of several by ``"zero_shot"``. ``loss`` is 1 - cosine of
    the message that the images found would cause and the one that was seen, which is large for a message that belongs
    to no image.

    Diagnostics: ``held_out``, PSNR (dB) on public images that were kept from the fit; ``examples``; ``training``,
    seconds, 0 where the map was there.

    Args:
        trained: what ``gl.attacks.train_inverter(seen, public)`` returned.
        bins, examples: see :func:`glutils.attacks.closed_form.inverse_map.train_inverter`.
        denoiser: what ``gl.attacks.train_denoiser(seen)`` returned; cleans what the map found, as GUIDE does.
        seed: of the hash and of the draws.

    Deviations: one linear map for each set of labels, by ridge regression, in place of a perceptron of three layers for
    all labels, for hundreds of public images in place of tens of thousands: under a fixed label, and weights that
    changed little, a gradient is nearly linear in the image. Messages are brought to length one first; the hash has
    signs; images of a batch are told apart by their labels, which have to differ, and not by a matching loss.

    Raises:
        ValueError, TypeError: several messages; repeated labels; ``trained`` for another network, protocol, shape or
            other labels.

    Example:
        >>> import glutils as gl
        >>> batch, protocol = gl.data.sample("digits", seed=0, device="cpu"), gl.protocols.FedSGD()
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> sent, public = protocol.transmit(model, batch.images, batch.labels), gl.data.public(batch)
        >>> seen = gl.observe(model, protocol, sent, batch, knows={"public"}, public=public)
        >>> result = gl.attack("inverter", seen)
        >>> bool(gl.metrics.psnr(result.images, batch.images) > 25)
        True
    """
    if seen.local_batch not in (None, seen.shape[0]):
        raise ValueError(
            f"attack 'inverter' reads a message about the whole batch, got one about {seen.local_batch} of its "
            f"{seen.shape[0]} records; 'ig' takes it for one about all, and says so"
        )
    labels, notes = labels_of(seen)
    order = distinct(labels, seen.shape[0]).argsort()
    spent = 0.0
    if trained is None:
        public = None if seen.public is None else hashlib.sha256(seen.public.images.cpu().numpy().tobytes()).hexdigest()
        if public is None:
            notes.append("no public images: the map was learned from random pictures")
        key = (subject(seen), public, tuple(labels[order].tolist()), bins, examples, seed)
        if key not in _KNOWN:
            _KNOWN[key] = train_inverter(seen, None, labels, bins=bins, examples=examples, seed=seed)
            spent = _KNOWN[key].seconds
        _KNOWN.move_to_end(key)
        while len(_KNOWN) > KEPT:
            _KNOWN.popitem(last=False)
        trained = _KNOWN[key]
    _validate.instance("trained", trained, Inverter)
    _check(trained, seen, labels[order])
    if denoiser is not None and _validate.instance("denoiser", denoiser, Denoiser).made_for != subject(seen):
        raise ValueError(
            "denoiser must be for this network and protocol, got one for others; gl.attacks.train_denoiser(seen)"
        )
    sent = seen.payload.flat.to(labels.device).float()
    found = trained.images(sent[None])[0]
    if denoiser is not None:
        found = denoiser(found)
    with torch.no_grad():
        again = caused(seen, found[None], labels[order])[0]
    loss = 1 - float(torch.cosine_similarity(again.double(), sent.double(), dim=0))
    images = torch.empty_like(found)
    images[order] = found
    about = {"held_out": trained.held_out, "examples": float(trained.examples), "training": spent}
    return Reconstruction(images, labels, loss, notes=tuple(notes), diagnostics=about, evaluations=1, pullbacks=0)


def _check(trained: Inverter, seen: Observation, labels: Tensor) -> None:
    """``ValueError`` if the map was learned for something else."""
    if trained.shape != tuple(seen.shape):
        raise ValueError(f"trained must be for images of shape {tuple(seen.shape)}, got {trained.shape}")
    if trained.made_for != subject(seen):
        raise ValueError(
            "trained must be for this network and protocol, got one for others; gl.attacks.train_inverter(seen)"
        )
    if trained.labels.tolist() != labels.tolist():
        raise ValueError(f"trained must be for labels {labels.tolist()}, got one for {trained.labels.tolist()}")
