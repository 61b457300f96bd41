"""What an attack makes of few scalars of one image, behind a small tanh network: the client of chapter 4."""

from __future__ import annotations

import torch

import glutils as gl

HIDDEN, MU = 64, 1e-4
PRIORS = {"total variation": "tv", "Gaussian": "gaussian"}


def attacked(
    source: str, batch: gl.data.Batch, public: gl.data.Batch, *, ratio: float, told: str, seed: int
) -> gl.Reconstruction:
    """ZeroGLA with the prior ``source``: so many float64 scalars a pixel value, spoiled if not honest."""
    model = gl.models.build("mlp", batch, hidden=(HIDDEN,), activation="tanh", seed=seed)
    directions = max(1, round(ratio * batch.images.numel()))
    client = gl.protocols.ZerothOrder(directions=directions, mu=MU, dtype="float64", seed=seed)
    with torch.no_grad():
        scalars = client.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, client, scalars, batch, knows={"labels", "public"}, public=public)
    if told != "honest":
        seen = gl.tamper(seen, told, seed=seed)
    return gl.attack("zerogla", seen, prior=PRIORS[source], seed=seed, restarts=1, progress=False)
