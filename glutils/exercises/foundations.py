"""Exercises of chapters 1 to 3: threat model, zeroth-order learning, the objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from .. import zo
from .base import Case, exercise, integer, network, normal, uniform


@exercise(
    "Row k of the weights' gradient is the input times a number, and entry k of the biases' gradient is that number.",
    {
        "Some neurons are silent here: their bias gradient is zero, and 0/0 is not a number. Let the biases choose.":
            lambda weight, bias: (weight / bias[:, None])[0],
        "This is the input times the largest bias gradient. Divide by it.": lambda weight, bias: weight[
            bias.abs().argmax()
        ],
    },
)
def invert_layer(draw: torch.Generator) -> Iterator[Case]:
    """invert_layer(weight, bias): from the gradients of a first layer's weights (neurons, inputs) and biases (neurons,)
    for one image, that image, (inputs,). Some neurons may be silent: their gradients are zero."""
    for silent in (0, 1, 3):
        neurons, inputs = integer(draw, silent + 2, 9), integer(draw, 2, 12)
        image, slope = uniform(draw, inputs), normal(draw, neurons)
        slope[:silent] = 0
        about = f"{neurons} neurons ({silent} of them silent) and {inputs} inputs"
        yield Case(about, (torch.outer(slope, image), slope), image)


@exercise(
    "Two evaluations, at theta + mu z and at theta - mu z. How far apart are these two points, in units of z?",
    {
        "That is a forward difference. A central one looks to both sides.": lambda loss, theta, z, mu: (
            (loss(theta + mu * z) - loss(theta)) / mu
        ),
        "The two points are 2 mu apart, not mu.": lambda loss, theta, z, mu: (
            (loss(theta + mu * z) - loss(theta - mu * z)) / mu
        ),
        "This is the exact slope. A client that only evaluates its loss cannot know it; look at the difference "
        "that a finite step makes.":
            lambda loss, theta, z, mu: _exact_gradient(loss, theta) @ z,
    },
    rtol=1e-6,
)
def central_slope(draw: torch.Generator) -> Iterator[Case]:
    """central_slope(loss, theta, z, mu): the central difference of the function loss at theta, (d,), along the
    direction z, (d,), with smoothing step mu; a number."""
    for mu in (0.5, 0.1, 0.02):
        d = integer(draw, 2, 8)
        cubic, linear, theta, z = normal(draw, 4, d)

        def loss(t: torch.Tensor, cubic: torch.Tensor = cubic, linear: torch.Tensor = linear) -> torch.Tensor:
            return cubic @ t**3 + linear @ t

        right = (3 * cubic * theta**2 + linear) @ z + mu**2 * (cubic @ z**3)  # slope and truncation, exact for a cubic
        yield Case(f"{d} parameters and mu = {mu:g}", (loss, theta, z, mu), float(right))


def _exact_gradient(loss: Callable, theta: torch.Tensor) -> torch.Tensor:
    theta = theta.clone().requires_grad_()
    return torch.autograd.grad(loss(theta), theta)[0]


@exercise(
    "Each scalar times its direction, averaged over the directions. A random direction of length one keeps, on "
    "average, a share 1/d of the gradient.",
    {
        "On average this is the gradient divided by d: directions of length one keep a share 1/d. Multiply by d.":
            lambda scalars, directions: directions.T @ scalars / len(scalars),
        "This is a sum over directions. Divide by their number.": lambda scalars, directions: (
            directions.shape[1] * directions.T @ scalars
        ),
        "This solves for the shortest gradient with these scalars: a projection, whose mean is shorter than the "
        "gradient.":
            lambda scalars, directions: torch.linalg.pinv(directions) @ scalars,
    },
)
def estimate_gradient(draw: torch.Generator) -> Iterator[Case]:
    """estimate_gradient(scalars, directions): the unbiased estimate of the gradient, (d,), from K scalars, (K,), along
    directions of length one, (K, d)."""
    for _ in range(3):
        d, K = integer(draw, 3, 12), integer(draw, 2, 6)
        drawn = zo.Directions(integer(draw, 0, 999), K, d)
        scalars = normal(draw, K)
        about = f"{K} scalars and {d} parameters"
        yield Case(about, (scalars, drawn.rows(dtype=torch.float64)), zo.estimate(scalars, drawn))


@exercise(
    "The scalars of a guess are V times the gradient of the loss with respect to the parameters. Keep the graph "
    "(create_graph=True), and take the derivative of each with respect to the pixels.",
    {
        "The sign: residuals are the guess's scalars minus those that were sent.": lambda *given: (
            -_residuals_and_jacobian(*given)[0],
            _residuals_and_jacobian(*given)[1],
        ),
        "Both signs are turned. The residuals are the guess's scalars minus those that were sent; the Jacobian is "
        "their derivative.":
            lambda *given: tuple(-part for part in _residuals_and_jacobian(*given)),
        "The Jacobian has one row for each scalar and one column for each pixel. Yours is transposed.":
            lambda *given: (_residuals_and_jacobian(*given)[0], _residuals_and_jacobian(*given)[1].T),
    },
)
def residuals_and_jacobian(draw: torch.Generator) -> Iterator[Case]:
    """residuals_and_jacobian(model, images, labels, scalars, directions): how far the scalars of these images are
    from those that were sent, (K,), and the derivatives of the former with respect to the D pixels, (K, D). The
    directions are the rows of a (K, d) tensor, in the order of model.parameters()."""
    for count in (1, 1, 2):
        pixels, classes, K = integer(draw, 2, 3), integer(draw, 2, 4), integer(draw, 2, 5)
        model = network(draw, pixels**2, 3, classes)
        V = normal(draw, K, sum(p.numel() for p in model.parameters()))
        images, labels = uniform(draw, count, 1, pixels, pixels), torch.randint(classes, (count,), generator=draw)
        given = (model, images, labels, normal(draw, K), V)
        about = f"{count} image(s) of {pixels} x {pixels} pixels and {K} scalars"
        yield Case(about, given, _residuals_and_jacobian(*given))


def _residuals_and_jacobian(model, images, labels, scalars, directions) -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals, and their Jacobian by central differences over single pixels."""

    def slopes(x: torch.Tensor) -> torch.Tensor:
        gradient = torch.autograd.grad(F.cross_entropy(model(x), labels), list(model.parameters()))
        return directions @ torch.cat([part.flatten() for part in gradient])

    step = 1e-5
    ways = step * torch.eye(images.numel(), dtype=images.dtype).view(-1, *images.shape)
    columns = [(slopes(images + way) - slopes(images - way)) / (2 * step) for way in ways]
    return slopes(images) - scalars, torch.stack(columns, 1)


@exercise(
    "The step solves (J^T J + damping I) step = -J^T r. Let torch.linalg.solve do it.",
    {
        "The sign: a step along +J^T r makes the residuals larger.": lambda J, r, damping: -_damped_step(J, r, damping),
        "The damping is missing.": lambda J, r, damping: _damped_step(J, r, 0.0),
        "The damping belongs on the diagonal of J^T J only.": lambda J, r, damping: torch.linalg.solve(
            J.T @ J + damping, -J.T @ r
        ),
        "This is a step along the negative gradient, the one that crawls. The inverse of J^T J is missing.":
            lambda J, r, damping: -J.T @ r,
    },
)
def gauss_newton_step(draw: torch.Generator) -> Iterator[Case]:
    """gauss_newton_step(jacobian, residuals, damping): the damped step, (D,), from the Jacobian, (K, D), and the
    residuals, (K,), with R = I."""
    for damping in (0.1, 1.0, 10.0):
        K, D = integer(draw, 4, 9), integer(draw, 2, 7)
        J, r = normal(draw, K, D), normal(draw, K)
        yield Case(f"{K} equations, {D} unknowns and damping {damping:g}", (J, r, damping), _damped_step(J, r, damping))


def _damped_step(J: torch.Tensor, r: torch.Tensor, damping: float) -> torch.Tensor:
    """By least squares on the equations and the damping, stacked."""
    rows = torch.cat([J, math.sqrt(damping) * torch.eye(J.shape[1], dtype=J.dtype)])
    return torch.linalg.lstsq(rows, torch.cat([-r, r.new_zeros(J.shape[1])])[:, None], driver="gelsd").solution[:, 0]
