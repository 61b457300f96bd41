"""SPEAR: exact batches behind a first layer with ReLU (Dimitrov, Baader, Müller, Vechev, NeurIPS 2024)."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from ... import _validate, models
from ...observation import Observation
from ..base import ANY, Card, Reconstruction, register
from .chains import modules_in_order
from .held import gradient_of
from .sparse_directions import Problem, Separation, problem, separate


@register(
    "spear",
    Card(
        title="SPEAR",
        kinds=("gradient", "delta"),
        simulates="which neurons fire",
        variable="directions with zeros",
        distance="share of neurons that agree",
        prior="none",
        solver="samples of neurons, descent, greedy",
        labels="inferred",
        source="dimitrov2024spear",
        records=ANY,
    ),
)
def spear(
    seen: Observation, *, seed: int = 0, samples: int = 100_000, seconds: float | int | None = None
) -> Reconstruction:
    """Every image of a batch, up to rounding, from the gradient of a fully connected layer of the pixels behind which
    there is a ReLU.

    The gradient of the layer is ``D.T X``, the images X mixed by D, what the loss says to each neuron about each image;
    D has a zero where a neuron is silent. Take the gradient's singular vectors apart from the rest: ``L R``, B columns
    and B rows. The images are ``inv(Q) R`` for one matrix Q of B directions, and ``L Q`` has the zeros of D.
    B - 1 neurons that one image leaves silent determine its column of Q; nobody knows which neurons those are, so sets
    of them are drawn, and directions are kept that silence more neurons than asked for. Scale and sign come from the
    bias. Of the clients of a secure sum the images are one batch.

    How many draws that takes doubles with every image. So directions also come from a descent, which is ours: it makes
    the sum of absolute values along a direction small, and keeps away from directions that are known. What is found can
    be checked: an image that was found says which neurons it silences, and the gradient has to be zero there. The
    search ends when both agree everywhere (``diagnostics["agreement"]`` is 1), after ``samples`` sets, or ``seconds``.

    Diagnostics: ``agreement``; ``found``, directions that silence more neurons than chance; ``samples``, as drawn.
    Labels are those with whose gradient each image's column of D agrees best; ``evaluations`` counts these gradients.

    Deviations: a set of B - 1 rows is solved with the last entry fixed, in a random basis, not decomposed; directions
    are fitted again to all their zeros, and the filter asks for two zeros more than were drawn, not for a share;
    directions are ranked by their zeros and by whether one plane parts the neurons at zero from the others, as one
    image's would; before the paper's greedy exchange, multiples of one direction are taken off another if that silences
    more neurons. After local steps the zeros of all of them are used, and the agreement is that with the model as sent.

    Args:
        samples: sets of neurons that are drawn at most, in each 2,000 of them with one descent.
        seconds: of search, at most.

    Raises:
        ValueError: a first layer that is not linear with a bias in front of a ReLU; a single image; fewer neurons or
            pixels than images; a gradient of another rank than there are images.
    """
    name, layer = _layer(seen)
    count, pixels = seen.shape[0], math.prod(seen.shape[1:])
    if count == 1:
        raise ValueError("attack 'spear' needs at least two images to tell apart, got 1; 'fc_inversion' solves one")
    if min(layer.out_features - 1, pixels) < count:
        raise ValueError(
            f"attack 'spear' needs more neurons in the first layer than there are images ({count}) and as many pixels, "
            f"got {layer.out_features} and {pixels}; 'ig' does not"
        )
    samples = _validate.integer("samples", samples, at_least=1)
    if seconds is not None:
        _validate.number("seconds", seconds, above=0)
    prefix = f"{name}." if name else ""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.linalg.qr(torch.randn(count, count, generator=generator, dtype=torch.float64))[0]
    gradient = [gradient_of(seen, "spear", prefix + part) for part in ("weight", "bias")]
    known = (layer.weight, cast("torch.Tensor", layer.bias))
    given = problem(*(t.detach().cpu().double() for t in (*gradient, *known)), count, mix)
    found = separate(given, samples, generator, seconds)
    device = gradient[0].device
    images = given.images(found.directions).view(seen.shape).to(device)
    notes: tuple[str, ...] = ()
    if not given.explained(found.agreement):
        notes = (
            f"{1 - found.agreement:.2%} of the zeros do not agree with the images: some are mixtures; more samples, or "
            "a wider layer, tell more apart",
        )
    extra = {"agreement": found.agreement, "found": float(found.found), "samples": float(found.drawn)}
    labels, evaluations = _labels(seen, images, prefix, given, found)
    return Reconstruction(
        images, labels, 1 - found.agreement, notes=notes, diagnostics=extra, evaluations=evaluations, pullbacks=0
    )


def _layer(seen: Observation) -> tuple[str, nn.Linear]:
    """The first layer, if it is fully connected, sees the pixels as they are, and has a ReLU behind it."""
    name, layer = next(iter(models.layers_with_parameters(seen.model, seen.shape)), ("", None))
    if not isinstance(layer, nn.Linear) or layer.in_features != math.prod(seen.shape[1:]):
        raise ValueError(
            f"attack 'spear' needs a fully connected layer of the pixels in front, got {_validate.brief(layer)}; for a "
            "fully connected layer behind convolutions there is 'cpa_fi', for others 'ig'"
        )
    if layer.bias is None:
        raise ValueError("attack 'spear' needs a first layer with a bias, which gives the scale; 'cpa' does not")
    order = [module for _, module in modules_in_order(seen.model) if not isinstance(module, (nn.Flatten, nn.Identity))]
    behind = order[1] if len(order) > 1 and order[0] is layer else None
    if not isinstance(behind, nn.ReLU):
        raise ValueError(
            "attack 'spear' needs a ReLU right behind the first layer, whose zeros it reads, got "
            f"{_validate.brief(behind)}; 'cpa' needs none"
        )
    return name, layer


def _labels(
    seen: Observation, images: torch.Tensor, prefix: str, given: Problem, found: Separation
) -> tuple[torch.Tensor, int]:
    """For each image the label whose gradient agrees best with its column of D; and how many gradients that took."""
    model = seen.model
    classes = models.logits(model, models.parameters(model), images[:1].float()).shape[1]
    columns = given.rows @ (found.directions * given.scale(found.directions))
    told = []
    for image, column in zip(images, columns.mT, strict=True):
        likeness = []
        for label in range(classes):
            alone = models.gradient(model, None, image[None].float(), torch.tensor([label], device=image.device))
            bias = alone[prefix + "bias"].detach().cpu().double()
            likeness.append(float(F.cosine_similarity(bias[given.fired] / given.lengths, column, dim=0)))
        told.append(max(range(classes), key=likeness.__getitem__))
    return torch.tensor(told, device=images.device), classes * len(images)
