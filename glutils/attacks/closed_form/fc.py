"""Inversion of a fully connected layer: division, no search (Phong et al. 2017; Aono et al. 2017)."""

from __future__ import annotations

import torch
from torch import nn

from ... import _validate, labels, models
from ...observation import Observation
from ..base import ANY, Card, Reconstruction, register
from .held import gradient_of


@register(
    "fc_inversion",
    Card(
        title="Fully connected inversion",
        kinds=("gradient", "delta"),
        simulates="nothing: one division",
        variable="-",
        distance="-",
        prior="none",
        solver="closed form",
        labels="inferred (one image)",
        source="phong2017",
        records=ANY,
    ),
)
def fc_inversion(seen: Observation, *, seed: int = 0) -> Reconstruction:
    """The input of a network whose first layer is linear with a bias: x = grad W_k / grad b_k.

    Exact for one image: both gradients are the same number times x and times 1, for every neuron k; the neuron with the
    largest bias gradient is used. For a batch each row is a weighted mean of the images that activate its neuron; the B
    rows with the largest bias gradients are returned and a note says so. ``seed`` is not used.

    Raises:
        ValueError: the first layer with parameters is not ``nn.Linear`` with a bias, or has fewer neurons than there
            are images.
    """
    if not (layers := models.layers_with_parameters(seen.model, seen.shape)):
        raise ValueError("model has no parameters")
    name, layer = layers[0]
    if not isinstance(layer, nn.Linear) or layer.bias is None:
        raise ValueError(
            "attack 'fc_inversion' needs a first layer that is linear with a bias, got "
            f"{_validate.brief(layer)}; 'ig' does not"
        )
    if layer.out_features < seen.shape[0]:
        raise ValueError(
            f"attack 'fc_inversion' needs as many neurons in the first layer as there are images ({seen.shape[0]}), "
            f"got {layer.out_features}"
        )
    prefix = f"{name}." if name else ""
    weight, bias = (gradient_of(seen, "fc_inversion", prefix + part).double() for part in ("weight", "bias"))
    rows = bias.abs().argsort(descending=True)[: seen.shape[0]]
    images = (weight[rows] / bias[rows, None]).nan_to_num(0.0, 0.0, 0.0).view(seen.shape)
    notes = () if len(rows) == 1 else ("a batch: each row is a weighted mean of the images that activate its neuron",)
    if seen.labels is not None:
        found = seen.labels
    elif seen.shape[0] == 1 and seen.kind == "gradient":
        found = labels.infer("idlg", seen).labels
    else:
        found = torch.zeros(seen.shape[0], dtype=torch.int64, device=images.device)
        notes += ("labels are not inferred: zeros",)
    return Reconstruction(images, found, loss=0.0, notes=notes, evaluations=0, pullbacks=0)
