"""iLRG: Instance-wise Batch Label Restoration via Gradients in Federated Learning (Ma et al., ICLR 2023)."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from .. import _validate
from ..observation import Observation
from .base import Card, LabelEstimate, count_estimate, register
from .head import need_bias, read_head

POINTS = ("start", "average")


@register(
    "ilrg",
    Card(
        title="iLRG",
        source="ma2023ilrg",
        needs="bias",
        assumes="images of a class are alike to the last layer, and different from other classes",
    ),
)
def ilrg(seen: Observation, *, points: str = "start") -> LabelEstimate:
    """Counts as the least-squares solution of C + 1 linear equations; needs no dummy inputs.

    Row c of the weight gradient divided by its bias gradient is a mean input of the last layer, in which images of
    class c weigh most. The layer's own prediction P_c for it stands for all images of that class. Then, with g the bias
    gradient, sum_j P_jc n_j - n_c = B g_c for every class, and sum_c n_c = B; solved by the pseudo-inverse, in float64
    (the reference splits decimal exponents against overflow instead). Of a delta it reads the mean gradient.

    A class whose bias gradient is 0 says nothing about its inputs: the prediction for inputs of 0 stands in.

    Args:
        points: at which state of a delta the last layer predicts: ``"start"``, as for a gradient, or the ``"average"``
            of predictions before the first and after the last step (not in the paper).
    """
    _validate.choice("points", points, POINTS)
    head = read_head(seen)
    bias, notes = need_bias(head, "ilrg", "geng"), head.notes
    silent = bias == 0
    if bool(silent.any()):
        notes += (f"classes {silent.nonzero().flatten().tolist()} have a bias gradient of 0",)
    inputs = torch.where(silent[:, None], 0.0, head.weight / torch.where(silent, 1.0, bias)[:, None])
    states = (head.start,) if points == "start" else (head.start, head.end)
    nothing = inputs.new_zeros(())
    # survey, eq. (12)
    predicted = sum((_predict(head.name, state, inputs) for state in states), start=nothing) / len(states)
    classes = torch.eye(len(bias), dtype=torch.float64, device=bias.device)
    system = torch.cat((predicted.T - classes, torch.ones_like(bias)[None]))  # survey, eq. (11): one row for each class
    known = head.size * torch.cat((bias, torch.ones_like(bias[:1])))
    return count_estimate(torch.linalg.pinv(system) @ known, head.size, notes)


def _predict(
    name: str, state: dict[str, torch.Tensor], inputs: Float64[Tensor, "classes features"]
) -> Float64[Tensor, "classes classes"]:
    weight, bias = (state[f"{name}.{part}"].double() for part in ("weight", "bias"))
    return (inputs @ weight.T + bias).softmax(1)
