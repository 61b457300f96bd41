"""The spectrum of a message's Jacobian: how many independent numbers about the images it holds, and how well."""

from __future__ import annotations

import torch

from ...observation import Observation
from .derivatives import gradients_jacobian
from .equations import ScalarEquations
from .messages import linearisation_state


def singular_values(seen: Observation, images: torch.Tensor) -> torch.Tensor:
    """Singular values of the Jacobian of all messages at ``images``, largest first, shape (min(N, D),), float64.

    N counts the scalars, or the entries of the gradients; those values that are above round-off count the independent
    numbers among them. An analysis, not an attack: it is usually asked about the private images.

    Args:
        seen: scalars, or gradients of a :class:`~glutils.protocols.FedSGD` client, of known labels.
        images: (B, C, H, W), D pixel values.
    """
    plain = all(entry.protocol.exact_gradient for entry in seen.rounds) and seen.local_batch is None
    if seen.labels is None or not (seen.kind == "scalars" or plain):
        raise ValueError("singular_values needs an observation of scalars or gradients with knows={'labels'}")
    u = images.double().flatten()
    if plain:
        return torch.linalg.svdvals(_gradients_jacobian(seen, u))
    equations = ScalarEquations(seen, lambda u: (u.view(seen.shape), seen.labels), images.numel())
    rows = equations.jacobian(u)
    return torch.linalg.svdvals(rows * equations.scale)


def _gradients_jacobian(seen: Observation, u: torch.Tensor) -> torch.Tensor:
    """The derivative of every round's gradient in every pixel value, (D, N): a row holds what one pixel value moves."""
    states = [linearisation_state(seen.model, entry) for entry in seen.rounds]
    images = u.view(seen.shape)
    return gradients_jacobian(seen.model, states, images, seen.labels, seen.protocol.criterion)
