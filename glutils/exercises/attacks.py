"""Exercises of chapters 7 to 12: matching gradients, features, priors, labels, prepared models."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from ..attacks.malicious import imprint
from ..protocols import FedSGD
from .base import Case, exercise, integer, network, normal, uniform
from .compare import difference


def _dlg_loss(model: nn.Module, images: torch.Tensor, logits: torch.Tensor, gradient: dict) -> torch.Tensor:
    found = FedSGD().simulate(model, images, logits.softmax(-1))
    return torch.stack([(found[name] - part).square().sum() for name, part in gradient.items()]).sum()


def _loss_by_hand(model, images, probabilities, gradient, graph=True) -> torch.Tensor:
    """The same with other probabilities, or without a graph."""
    loss = -(probabilities * model(images).log_softmax(-1)).sum(-1).mean()
    found = torch.autograd.grad(loss, list(model.parameters()), create_graph=graph)
    distances = [(a - b).square().sum() for a, b in zip(found, gradient.values(), strict=True)]
    return sum(distances, start=torch.zeros(()))


@exercise(
    "Compute the gradient of the loss of the dummy images with soft labels softmax(logits), keep its graph, and "
    "sum the squared differences over all tensors.",
    {
        "The value is right, but without create_graph=True it is a constant in the images: nothing could be "
        "optimised.":
            lambda model, images, logits, gradient: _loss_by_hand(
            model, images, logits.softmax(-1), gradient, graph=False
        ),
        "The soft labels are softmax(logits), not the logits.": lambda model, images, logits, gradient: _loss_by_hand(
            model, images, logits, gradient
        ),
        "Sum over all entries; a mean per tensor gives small tensors too much weight.": lambda model,
        images, logits, gradient: sum(
            (a - b).square().mean()
            for a, b in zip(
                FedSGD().simulate(model, images, logits.softmax(-1)).values(), gradient.values(), strict=True
            )
        ),
    },
)
def dlg_objective(draw: torch.Generator) -> Iterator[Case]:
    """dlg_objective(model, images, logits, gradient): DLG's loss for dummy images, (B, C, H, W), and label logits,
    (B, classes), against a gradient by parameter name; a number that can be differentiated in images and logits."""
    for count in (1, 2, 3):
        side, classes = integer(draw, 2, 4), integer(draw, 2, 5)
        model = network(draw, side**2, 4, classes)
        private, labels = uniform(draw, count, 1, side, side), torch.randint(classes, (count,), generator=draw)
        gradient = {name: part.detach() for name, part in FedSGD().transmit(model, private, labels).items()}
        images, logits = normal(draw, count, 1, side, side), normal(draw, count, classes)

        def judge(answer, again, given=(model, images, logits, gradient)) -> str | None:
            model, images, logits, gradient = given
            if wrong := difference(float(_dlg_loss(*given).detach()), answer, 1e-4):
                return wrong
            ways = []
            for function in (again, _dlg_loss):
                x, v = images.clone().requires_grad_(), logits.clone().requires_grad_()
                value = function(model, x, v, gradient)
                if not value.requires_grad:
                    return "The value is right, but it cannot be differentiated in the images."
                ways.append(torch.autograd.grad(value, (x, v), allow_unused=True))
            for name, mine, right in zip(("images", "logits"), *ways, strict=True):
                if mine is None or (mine - right).norm() > 1e-4 * right.norm():
                    return f"The value is right, but its derivative in the {name} is not: was a part detached?"
            return None

        about = f"{count} image(s) of {side} x {side} pixels and {classes} classes"
        yield Case(about, (model, images, logits, gradient), judge=judge)


@exercise(
    "Stretch all tensors of a gradient into one long vector each, and take one cosine.",
    {
        "That is the mean of one cosine for each tensor. A small bias then weighs as much as a whole layer.":
            lambda found, target: (
            1
            - sum(F.cosine_similarity(a.flatten(), b.flatten(), 0) for a, b in zip(found, target, strict=True))
            / len(found)
        ),
        "That is the cosine. The distance is one minus it.": lambda found, target: F.cosine_similarity(
            torch.cat([a.flatten() for a in found]), torch.cat([b.flatten() for b in target]), 0
        ),
        "The scalar product depends on the lengths. Divide by both.": lambda found, target: (
            1 - sum((a * b).sum() for a, b in zip(found, target, strict=True))
        ),
    },
)
def cosine_distance(draw: torch.Generator) -> Iterator[Case]:
    """cosine_distance(found, target): one minus the cosine of the angle between two gradients, each a list of
    tensors; a number."""
    for count in (2, 3, 4):
        shapes = [(integer(draw, 1, 5), integer(draw, 1, 5)) for _ in range(count)]
        found, target = ([normal(draw, *shape) for shape in shapes] for _ in range(2))
        dot, one, other = (
            sum(float((a * b).sum()) for a, b in zip(*pair, strict=True))
            for pair in ((found, target), (found, found), (target, target))
        )
        yield Case(f"{count} tensors", (found, target), 1 - dot / math.sqrt(one * other))


@exercise(
    "A row of an absent class holds what all images add to every row. Subtract it from the rows of the present "
    "classes, in weights and in biases, before you divide.",
    {
        "Every row also holds a share of all other images. Rows of absent classes hold nothing else: subtract "
        "one.":
            lambda weight, bias, labels: weight[labels] / bias[labels, None],
        "You subtract the offset from the weights only. The biases have one, too.": lambda weight, bias, labels: (
            (weight[labels] - _absent_mean(weight, labels)) / bias[labels, None]
        ),
        "The published share (B - 1)/B of the offset is almost right, but not here: all of it is there.": lambda weight,
        bias, labels: _separate_features(weight, bias, labels, 1 - 1 / len(labels)),
    },
)
def last_layer_features(draw: torch.Generator) -> Iterator[Case]:
    """last_layer_features(weight, bias, labels): from the gradients of the last layer's weights (classes, features)
    and biases (classes,), the features of every image, (B, features). All B labels are different, some class is
    absent, and the network still predicts 1/classes for everything."""
    for _ in range(3):
        count, width = integer(draw, 2, 5), integer(draw, 2, 6)
        classes = count + integer(draw, 1, 5)
        features, labels = uniform(draw, count, width), torch.randperm(classes, generator=draw)[:count]
        slopes = torch.full((count, classes), 1 / classes, dtype=torch.float64)
        slopes[torch.arange(count), labels] -= 1
        given = (slopes.T @ features / count, slopes.mean(0), labels)
        yield Case(f"{count} images, {classes} classes and {width} features", given, features)


def _absent_mean(tensor: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean of the rows of absent classes."""
    present = torch.zeros(len(tensor), dtype=torch.bool)
    present[labels] = True
    return tensor[~present].mean(0)


def _separate_features(weight, bias, labels, share: float) -> torch.Tensor:
    rows = weight[labels] - share * _absent_mean(weight, labels)
    return rows / (bias[labels] - share * _absent_mean(bias, labels))[:, None]


@exercise(
    "Solve for the numbers z by least squares: mean + directions^T z should come as close to the image as it can.",
    {
        "This is right only for directions at right angles and of length one. These are neither: solve a least- "
        "squares problem.":
            lambda mean, directions, image: mean + (image - mean) @ directions.T @ directions,
        "The recipe starts from the mean: take it off before you solve, and add it again.": lambda mean,
        directions, image: directions.T @ torch.linalg.lstsq(directions.T, image[:, None]).solution[:, 0],
        "The mean is missing in the answer.": lambda mean, directions, image: (
            directions.T @ torch.linalg.lstsq(directions.T, (image - mean)[:, None]).solution[:, 0]
        ),
    },
)
def nearest_image(draw: torch.Generator) -> Iterator[Case]:
    """nearest_image(mean, directions, image): of all images mean + sum_j z_j directions[j] the one nearest to image,
    (D,); the directions are the rows of an (m, D) tensor. Its PSNR is the ceiling of this recipe."""
    for _ in range(3):
        D = integer(draw, 4, 12)
        m = integer(draw, 1, D - 2)
        mean, image, directions = uniform(draw, D), uniform(draw, D), normal(draw, m, D)
        basis = torch.linalg.qr(directions.T).Q
        yield Case(f"{m} numbers for {D} pixels", (mean, directions, image), mean + basis @ (basis.T @ (image - mean)))


@exercise(
    "With inputs that are not negative, all entries of a row have one sign: that of p - 1 for the label's row, "
    "that of p for all others.",
    {
        "The label's row is the negative one. This is the row with the largest sum.": lambda weight: int(
            weight.sum(1).argmax()
        ),
        "You look at one input only. It may be zero for this image, and then no row has a sign there: use them "
        "all.":
            lambda weight: int(weight[:, 0].argmin()),
    },
)
def label_by_sign(draw: torch.Generator) -> Iterator[Case]:
    """label_by_sign(weight): the label of a single image, a whole number, from the gradient of the last layer's
    weights, (classes, features). The features are outputs of a ReLU: none is negative, some are zero."""
    for _ in range(5):
        classes, width = integer(draw, 3, 8), integer(draw, 3, 9)
        features = normal(draw, width).relu()
        features[0], features[1] = 0.0, 0.5
        slopes = normal(draw, classes).softmax(0)
        label = integer(draw, 1, classes - 1)
        slopes[label] -= 1
        about = f"{classes} classes and {width} features, the first of them zero"
        yield Case(about, (torch.outer(slopes, features),), label)


@exercise(
    "An image of class c adds 1 - epsilon + epsilon/C to entry c and epsilon/C to all others. So every entry has "
    "B epsilon/C too much, and the rest is scaled by 1 - epsilon.",
    {
        "The scale is undone, the offset is not: every class still has B epsilon/C too much.": lambda counts, epsilon: (
            counts / (1 - epsilon)
        ),
        "The offset is undone, the scale is not: divide by 1 - epsilon.": lambda counts, epsilon: (
            counts - counts.sum() * epsilon / len(counts)
        ),
        "Rounding does not undo what is more than half an image.": lambda counts, epsilon: counts.round(),
    },
)
def count_unsmoothed(draw: torch.Generator) -> Iterator[Case]:
    """count_unsmoothed(counts, epsilon): how many images of each class there are, (C,), from the counts, (C,), that a
    gradient gives for labels smoothed with epsilon."""
    for epsilon in (0.1, 0.3, 0.6):
        classes, images = integer(draw, 3, 9), integer(draw, 5, 30)
        true = torch.bincount(torch.randint(classes, (images,), generator=draw), minlength=classes).double()
        smoothed = (1 - epsilon) * true + epsilon * images / classes
        yield Case(f"{images} images, {classes} classes and epsilon = {epsilon:g}", (smoothed, epsilon), true)


@exercise(
    "A photo is alone if each of the other B - 1 photos falls into one of the other K - 1 bins. Then add up over "
    "all photos.",
    {
        "There are only B - 1 other photos.": lambda photos, bins: photos * (1 - 1 / bins) ** photos,
        "This is the number of bins with at least one photo. A shared bin is no copy.": lambda photos, bins: (
            bins * (1 - (1 - 1 / bins) ** photos)
        ),
        "This is the chance of one photo. Add up over all.": lambda photos, bins: (1 - 1 / bins) ** (photos - 1),
    },
)
def expected_copies(draw: torch.Generator) -> Iterator[Case]:
    """expected_copies(photos, bins): how many photos are alone in their bin on average, if each falls into any bin
    with the same chance; a number."""
    for _ in range(4):
        photos, bins = integer(draw, 2, 200), integer(draw, 2, 400)
        yield Case(f"{photos} photos and {bins} bins", (photos, bins), imprint.expected_alone_count(photos, bins))


@exercise(
    "Row l minus row l + 1 leaves the photos of bin l; the last row has no successor and stays. Then divide "
    "weights by biases, and leave empty bins at zero.",
    {
        "Each row holds its own bin and all brighter ones. Subtract the next row first.": lambda weight, bias: (
            _quotients(weight, bias)
        ),
        "The last bin is lost: its row is a difference already.": lambda weight, bias: _quotients(
            -weight.diff(dim=0), -bias.diff()
        ),
        "An empty bin gives 0/0. Leave zeros there.": lambda weight, bias: (
            _row_differences(weight) / _row_differences(bias)[:, None]
        ),
    },
)
def photos_from_rows(draw: torch.Generator) -> Iterator[Case]:
    """photos_from_rows(weight, bias): what each of K bins holds, (K, n), from the gradients of a prepared layer's
    weights, (K, n), and biases, (K,). Neuron l fires for all photos in bins l, l + 1, ..., K - 1. Empty bins give
    zeros."""
    for photos, bins in ((3, 5), (4, 9), (6, 8)):
        n = integer(draw, 2, 6)
        images, where = uniform(draw, photos, n), torch.randperm(bins, generator=draw)[:photos]
        where[0] = bins - 1 if not bool((where == bins - 1).any()) else where[0]
        slopes = normal(draw, photos)
        fires = (torch.arange(bins)[:, None] <= where).double() * slopes
        right = torch.zeros(bins, n, dtype=torch.float64)
        right[where] = images
        about = f"{photos} photos of {n} values in {bins} bins"
        yield Case(about, (fires @ images, fires.sum(1)), right)


def _row_differences(rows: torch.Tensor) -> torch.Tensor:
    return rows - torch.cat([rows[1:], torch.zeros_like(rows[:1])])


def _quotients(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    safe = torch.where(bias.abs() > 1e-12, bias, torch.ones_like(bias))[:, None]
    return torch.where(bias.abs()[:, None] > 1e-12, weight / safe, torch.zeros_like(weight))
