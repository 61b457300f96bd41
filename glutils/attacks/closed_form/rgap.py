"""R-GAP: Recursive Gradient Attack on Privacy (Zhu and Blaschko, ICLR 2021): one linear system a layer, no search."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ... import _validate, models
from ...observation import Observation
from ...protocols import FedSGD
from ..base import Card, Reconstruction, register
from ..matching.objective import size, squared
from .chains import Layer, convolve, layer_chain
from .held import gradient_of

NEAR = 1e-12
"""How close to the end of its range the output of tanh, sigmoid or softplus may be."""
LARGEST = 8192
"""Most unknowns of a convolution: its matrix has as many columns, and more rows."""


@register(
    "rgap",
    Card(
        title="R-GAP",
        kinds=("gradient",),
        simulates="nothing: linear systems",
        variable="-",
        distance="least squares",
        prior="smallest image",
        solver="closed form, layer by layer",
        labels="inferred (one image)",
        source="zhu2021rgap",
    ),
)
def rgap(seen: Observation, *, seed: int = 0, rcond: float | int = 1e-8) -> Reconstruction:
    """The image from the inputs of all layers, last to first, each the solution of linear equations (section 3).

    The last layer's gradient gives the slope of the loss in the logits, and with it the label. Behind that, a layer's
    input x obeys two kinds of linear equations: W x + b = z, where z is its output before the activation, and
    x correlated with k = the gradient of W, where k is the slope of the loss in z. Inverting the activation carries x
    to the z of the layer before, and the chain rule carries k. One image only. ``seed`` is not used.

    Whether it can work is known before any data: :func:`~glutils.attacks.closed_form.chains.rank_analysis` counts
    equations against unknowns. If there are too few, a note says that failure is predicted, and the smallest input
    that fits is returned: if the first layer is what lacks equations, another image with the same gradient. ``loss``
    is the squared distance of the image's gradient, relative to the payload.

    Args:
        rcond: directions that a layer's equations show by less than this, relative to the best seen one, are left out.

    Deviations: softmax with any number of classes (the paper solves the binary case; here its scalar equation has a
    closed form for three classes and more); gradient and weight equations are scaled to rows of the same size; where a
    linear layer has a bias, k is read off its gradient.

    Raises:
        ValueError: a batch, or a network that is not a chain of convolutions and linear layers with invertible
            activations.
    """
    rcond = _validate.number("rcond", rcond, above=0)
    if seen.shape[0] != 1:
        raise ValueError(
            f"attack 'rgap' solves for one image, got a batch of {seen.shape[0]}: the images' gradients are added up, "
            "and the equations are no longer linear; 'dlg' takes batches"
        )
    chain = layer_chain(seen.model, tuple(seen.shape[1:]))
    for layer in chain:
        if isinstance(layer.module, nn.Conv2d) and layer.unknowns > LARGEST:
            raise ValueError(
                f"layer {layer.name!r} has {layer.unknowns} unknowns, and 'rgap' solves for at most {LARGEST}; "
                "'ig' and 'dlg' take larger images"
            )
        for part in ("weight",) if layer.module.bias is None else ("weight", "bias"):
            gradient_of(seen, "rgap", f"{layer.name}.{part}")
    payload = {name: t.detach().cpu().double() for name, t in seen.payload.items()}
    weights = {name: t.detach().cpu().double() for name, t in models.parameters(seen.model).items()}
    starts, notes = _last_layer_candidates(chain[-1], weights, payload)
    found = []
    for k, x in starts:
        image, ranks, clipped = _invert_chain(chain, weights, payload, k, x, rcond)
        label = k.argmin()[None].to(seen.payload[f"{chain[-1].name}.weight"].device)
        image = image.view(seen.shape).to(label.device)
        given = FedSGD().simulate(seen.model, image, label)
        apart = float(squared([g.detach() for g in given.values()], [t.double() for t in seen.payload.values()])[0])
        found.append((apart / max(size(seen), 1e-300), image, label, ranks, clipped))
    loss, image, label, ranks, clipped = min(found, key=lambda entry: entry[0])
    if clipped:
        notes.append(f"{clipped} values beyond the range of an activation were moved into it")
    spent = {"evaluations": len(starts), "pullbacks": 0}  # a closed form, and a look at what each candidate would send
    diagnostics = {}
    for layer in chain:
        rank = ranks[layer.name]
        diagnostics |= {f"unknowns {layer.name}": float(layer.unknowns), f"rank {layer.name}": float(rank)}
        if layer.equations < layer.unknowns:
            notes.append(
                f"layer {layer.name!r}: at most {layer.equations} equations for {layer.unknowns} unknowns: "
                "predicted to fail"
            )
        elif rank < layer.unknowns:
            notes.append(f"layer {layer.name!r}: the equations determine {rank} of {layer.unknowns} unknowns")
    diagnostics["missing"] = float(sum(layer.unknowns - ranks[layer.name] for layer in chain))
    return Reconstruction(image, label, loss=loss, notes=tuple(notes), diagnostics=diagnostics, **spent)


def _last_layer_candidates(layer: Layer, weights, payload) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[str]]:
    """Candidates for (slope k of the loss in the logits, input x of the last layer), and notes."""
    grad = payload[f"{layer.name}.weight"]
    if not bool(grad.any()):
        return [(torch.zeros(len(grad)).double(), torch.zeros(grad.shape[1]).double())], ["the gradient is zero"]
    if layer.module.bias is not None:
        k = payload[f"{layer.name}.bias"]
        return [(k, grad.T @ k / (k @ k).clamp_min(1e-300))], []
    u, s, v = torch.linalg.svd(grad, full_matrices=False)
    k, a = u[:, 0], s[0] * v[0]
    weight = weights[f"{layer.name}.weight"]
    signs = (1,) if len(k) > 2 and (k < 0).sum() == 1 else (-1,) if len(k) > 2 else (1, -1)
    found = [(c * sign * k, sign * a / c) for sign in signs for c in _slope_scales(sign * k, weight @ (sign * a))]
    if found:
        return found, []
    return [(signs[0] * k, signs[0] * a)], ["no label explains the last layer's gradient; its scale is a guess"]


def _slope_scales(k: torch.Tensor, w: torch.Tensor) -> list[float]:
    """Every c > 0 such that softmax(w / c) = c k + one-hot: how much of the last gradient is slope, how much input.

    For classes i, j other than the label, log(k_i / k_j) = (w_i - w_j) / c, which is linear in 1 / c.
    """
    label = int(k.argmin())
    rest = [c for c in range(len(k)) if c != label]
    if not bool((k[rest] > 0).all()):
        return []
    if len(rest) == 1:
        from scipy.optimize import brentq  # here, because only two classes need a root

        slope, apart = float(k[rest[0]]), float(w[rest[0]] - w[label])
        excess = lambda c: 1 / (1 + np.exp(min(-apart / c, 700.0))) - c * slope  # noqa: E731
        grid = np.geomspace(1e-6, 1 / slope, 2000)
        values = [excess(c) for c in grid]
        pairs = zip(grid[:-1], grid[1:], values[:-1], values[1:], strict=True)
        return [float(brentq(excess, low, high, xtol=1e-300, rtol=1e-15)) for low, high, a, b in pairs if a * b < 0]
    y, x = (v - v.mean() for v in (k[rest].log(), w[rest]))
    inverse = float(x @ y / (x @ x).clamp_min(1e-300))
    return [1 / inverse] if inverse > 0 else []


def _invert_chain(chain, weights, payload, k, x, rcond):
    """The image, flat, from the last layer's k and x; each layer's rank of equations; the number of clipped values."""
    ranks, clipped = {chain[-1].name: len(x)}, 0
    for layer, after in zip(chain[-2::-1], chain[:0:-1], strict=True):
        z, slope, moved = _invert_activation(layer.activation, x)
        back = _backpropagate(after, weights[f"{after.name}.weight"], k) * slope
        clipped += moved
        weight, grad = weights[f"{layer.name}.weight"], payload[f"{layer.name}.weight"]
        bias = weights.get(f"{layer.name}.bias")
        if isinstance(layer.module, nn.Linear):
            k = back if bias is None else payload[f"{layer.name}.bias"]
            x = grad.T @ k / (k @ k).clamp_min(1e-300)
            ranks[layer.name] = layer.unknowns if bool(k.any()) else 0
        else:
            k, places = back, len(z) // layer.module.out_channels
            z = z if bias is None else z - bias.repeat_interleave(places)
            x, ranks[layer.name] = _solve_convolution(layer, weight, grad, z, k, rcond)
    return x, ranks, clipped


def _solve_convolution(layer: Layer, weight, grad, z, k, rcond) -> tuple[torch.Tensor, int]:
    """The smallest input x of a convolution with W x = z and (x correlated with k) = gradient, and the rank."""
    conv, (channels, height, width) = layer.module, layer.shape
    forward = convolve(conv, torch.eye(layer.unknowns).double().view(-1, *layer.shape), weight).flatten(1).T
    pixels = torch.eye(height * width).double().view(-1, 1, height, width)
    patches = F.unfold(pixels, conv.kernel_size, conv.dilation, conv.padding, conv.stride)  # pixel, offset, place
    pattern = torch.einsum("nql,ol->oqn", patches, k.view(conv.out_channels, -1)).flatten(0, 1)
    backward = torch.kron(torch.eye(channels).double(), pattern)  # every input channel has the same pattern
    wanted = grad.flatten(2).transpose(0, 1).flatten()
    blocks = [(rows, right, rows.square().sum(1).mean().sqrt().clamp_min(1e-300)) for rows, right in
              ((forward, z), (backward, wanted))]  # fmt: skip
    system, right = (torch.cat([block[i] / block[2] for block in blocks]) for i in (0, 1))
    solved = torch.linalg.lstsq(system, right[:, None], rcond=rcond, driver="gelsd")
    return solved.solution[:, 0], int(solved.rank)


def _invert_activation(activation: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Input of an activation, its slope there, and how many outputs were beyond its range and moved into it."""
    if isinstance(activation, nn.LeakyReLU):
        slope = torch.where(x > 0, 1.0, activation.negative_slope).to(x)
        return x / slope, slope, 0
    low, high = {nn.Tanh: (-1.0, 1.0), nn.Sigmoid: (0.0, 1.0), nn.Softplus: (0.0, float("inf"))}[type(activation)]
    inside = x.clamp(low + NEAR, high - NEAR)
    moved = int((inside != x).sum())
    if isinstance(activation, nn.Tanh):
        return inside.atanh(), 1 - inside**2, moved
    if isinstance(activation, nn.Sigmoid):
        return inside.logit(), inside * (1 - inside), moved
    scaled = activation.beta * inside
    return scaled.expm1().log() / activation.beta, -(-scaled).expm1(), moved


def _backpropagate(layer: Layer, weight: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The slope of the loss in a layer's input, from that in its output."""
    if isinstance(layer.module, nn.Linear):
        return weight.T @ k
    conv, shape = layer.module, (1, *layer.shape)
    out = convolve(conv, torch.zeros(shape).double(), weight).shape
    return torch.nn.grad.conv2d_input(shape, weight, k.view(out), conv.stride, conv.padding, conv.dilation).flatten()
