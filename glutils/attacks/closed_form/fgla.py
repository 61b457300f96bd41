"""FGLA: features read off the last layer's gradient, images from a trained decoder (Xue et al., arXiv 2206.04055)."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch

from ... import _validate, models
from ...labels import infer
from ...observation import Observation
from ..base import Card, Reconstruction, register
from . import decoder as decoders

DIVISORS = ("sent", "uniform")
SHARES = ("paper", "full")


def separate_features(
    W_grad: Any, b_grad: Any, labels: Any, offset: bool = True, *, share: str = "paper", divisor: str = "sent"
) -> torch.Tensor:
    """The features (B, m) of a batch's images, from the gradient of the last linear layer alone.

    Row y of the weight gradient is 1/B ((p_iy - 1) a_i + sum over the other images j of p_jy a_j), with features a,
    probabilities p, and image i of class y. If all p_j are near uniform, the sum looks the same in the rows of classes
    that are absent from the batch: a share of their mean is subtracted from the row, the same is done with the bias,
    and the quotient is a_i.

    Args:
        W_grad: (C, m) gradient of the weight. b_grad: (C,) gradient of the bias.
        labels: (B,) int64, all different.
        offset: subtract the mean of the absent classes. Without it the other images shine through, as long as the
            network is untrained. A trained one is sure of most images, and they hardly touch the rows of others: then
            the offset does more harm than good.
        share: of the absent classes' mean. ``"paper"``: (B - 1) / B. With uniform predictions that gives
            a_i + (a_i - mean of all a) / (C - 1): contrasts a little too strong. ``"full"``: 1, which is then exact.
        divisor: ``"sent"``: the bias gradient, as in the paper. ``"uniform"``: what it is where predictions are
            uniform, as in an untrained network; for gradients whose bias was lost (not in the paper).

    Returns:
        (B, m) float64. A quotient that is not finite is 0, as in the reference code.

    Raises:
        TypeError, ValueError: shapes that do not fit; a missing bias; repeated labels; no absent class for the offset.
    """
    _validate.instance("W_grad", W_grad, torch.Tensor)
    if b_grad is None:
        raise ValueError(
            "b_grad is missing: a last layer without a bias has nothing to divide by; attack 'ig' needs none"
        )
    _validate.instance("b_grad", b_grad, torch.Tensor)
    _validate.instance("labels", labels, torch.Tensor)
    _validate.instance("offset", offset, bool)
    _validate.choice("share", share, SHARES)
    _validate.choice("divisor", divisor, DIVISORS)
    if W_grad.ndim != 2 or b_grad.shape != W_grad.shape[:1]:
        raise ValueError(
            f"W_grad and b_grad must have shapes (C, m) and (C,), got {tuple(W_grad.shape)} and {tuple(b_grad.shape)}"
        )
    classes, count = len(W_grad), len(labels)
    if labels.dtype != torch.int64 or labels.ndim != 1 or not count:
        raise ValueError(f"labels must be int64 of shape (B,), got {labels.dtype} of shape {tuple(labels.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {labels.tolist()}")
    twice = (torch.bincount(labels, minlength=classes) > 1).nonzero().flatten().tolist()
    if twice:
        raise ValueError(
            f"labels must be distinct, but class {twice[0]} occurs more than once: images of one class share a row, "
            "which holds only their mean; attack 'ig' can tell them apart"
        )
    if offset and classes <= count:
        raise ValueError(
            f"labels must leave a class absent for the offset, got {count} of {classes}; offset=False needs none, nor "
            "does attack 'ig'"
        )
    W, b = W_grad.double(), b_grad.double()
    rows, divisors = W[labels], b[labels]
    if offset:
        absent = torch.ones(classes, dtype=torch.bool, device=W.device)
        absent[labels] = False
        taken = 1 if share == "full" else (count - 1) / count
        rows, divisors = rows - taken * W[absent].mean(0), divisors - taken * b[absent].mean()
    if divisor == "uniform":
        divisors = torch.full_like(divisors, (1 - (taken if offset else 0)) / classes - 1 / count)
    return (rows / divisors[:, None]).nan_to_num(0.0, 0.0, 0.0)


def feature_cosine(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(B,) cosines of found and true features (B, m), B at least 2, less the mean of the true ones.

    Features of different images resemble each other, so a cosine about zero says little: what tells this batch's images
    apart is the distance from their mean.
    """
    centre = truth.double().mean(0)
    return torch.cosine_similarity(found.double() - centre, truth.double() - centre, dim=1)


@register(
    "fgla",
    Card(
        title="FGLA",
        kinds=("gradient", "delta"),
        simulates="nothing: one division, one forward pass",
        variable="-",
        distance="-",
        prior="decoder trained on public images",
        solver="closed form",
        labels="given or zero-shot, all different",
        source="xue2022fgla",
    ),
)
def fgla(
    seen: Observation,
    *,
    seed: int = 0,
    decoder: Any = None,
    offset: bool = True,
    share: str = "paper",
    divisor: str = "sent",
    train_mode: bool = False,
) -> Reconstruction:
    """Images that a decoder makes of the features in the last layer's gradient (:func:`separate_features`); no search.

    Needs a batch of different labels, more classes than images, a last linear layer with a bias, and a decoder trained
    for this network on public images. Labels that were not told are inferred (label rule ``"zero_shot"``). A parameter
    difference of one local step is a gradient times a number, which cancels.

    Args:
        decoder: a :class:`glutils.attacks.closed_form.decoder.Decoder`, or the path of its weights or of its folder.
        offset, share, divisor: see :func:`separate_features`.
        train_mode: let the decoder's batch norm use the statistics of the attacked batch, as the reference code does
            by leaving it in train mode.
        seed: not used.

    Raises:
        ValueError, TypeError: no decoder, one of other shapes, several messages, and what :func:`separate_features`
            refuses.

    Deviations: the decoder runs in eval mode; shapes and training are those of
        :mod:`glutils.attacks.closed_form.decoder`.
    """
    if decoder is None:
        raise ValueError(
            "attack 'fgla' needs a trained decoder: decoder=gl.decoder.train(seen.model, public).decoder, with a "
            "Batch of public images, or the path of its weights"
        )
    _validate.instance("train_mode", train_mode, bool)
    if seen.local_batch not in (None, seen.shape[0]):
        raise ValueError(
            f"attack 'fgla' reads a message about the whole batch, got one about {seen.local_batch} of its "
            f"{seen.shape[0]} records; 'ig' takes it for one about all, and says so"
        )
    device = next(seen.model.parameters()).device
    decoder = _load_decoder(decoder, seen, device)
    name, layer = models.last_linear(seen.model, seen.shape)
    W_grad, b_grad = (seen.payload.get(f"{name}.{part}") for part in ("weight", "bias"))
    notes = []
    if seen.labels is not None:
        labels = seen.labels
    else:
        labels = infer("zero_shot", seen).labels.to(device)
        notes.append("labels inferred by the rule 'zero_shot', which takes all of them to be different")
    if seen.kind == "delta":
        if divisor == "uniform":
            raise ValueError("divisor='uniform' needs a gradient: the size of a parameter difference is not known")
        notes.append("read from a parameter difference: exact after one local step, an approximation after several")
    found = separate_features(W_grad, b_grad, labels, offset, share=share, divisor=divisor)
    empty = int((found == 0).all(1).sum())
    if empty:
        notes.append(f"{empty} of {len(found)} features are zero: their entries of the bias gradient, or rows, are")
    if decoder.backbone and decoder.backbone != decoders.backbone_digest(seen.model):
        notes.append("the decoder was trained for other weights than those of this network")
    before = decoder.training
    try:
        decoder.train(train_mode)
        with torch.no_grad(), models.stateless(decoder):
            images = decoder(found.float())
    finally:
        decoder.train(before)
    found = {"empty": float(empty)}
    return Reconstruction(images, labels, 0.0, notes=tuple(notes), diagnostics=found, evaluations=0, pullbacks=0)


def _load_decoder(decoder: Any, seen: Observation, device: torch.device) -> decoders.Decoder:
    """The decoder on ``device``, loaded if it is a path; ``ValueError`` if it does not fit the observed network."""
    if isinstance(decoder, (str, os.PathLike)):
        decoder = decoders.load(decoder)
    _validate.instance("decoder", decoder, decoders.Decoder)
    shape, image = decoders.feature_shape(seen.model, seen.shape[1:]), tuple(seen.shape[1:])
    if decoder.feature != shape or decoder.image != image:
        raise ValueError(
            f"decoder must turn features {shape} into images {image}, got one from {decoder.feature} to {decoder.image}"
        )
    if next(decoder.parameters()).device != device:
        decoder = copy.deepcopy(decoder).to(device)
    return decoder
