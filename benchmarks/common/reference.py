"""The ZeroGLA objective as published code computes it."""

from __future__ import annotations

import torch

import glutils as gl


def reference(seen: gl.Observation, images: torch.Tensor):
    """Objective and gradient with every direction regenerated from its seed, as published code does it."""
    protocol, scalars = seen.protocol, seen.payload
    weights = list(seen.model.parameters())
    generator = torch.Generator(device=images.device)
    loss = torch.nn.functional.cross_entropy(seen.model(images), seen.labels)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, weights, create_graph=True)])
    total = 0
    for i in range(protocol.directions):
        generator.manual_seed(protocol.seed * (i + 17) + i)
        z = torch.randn(len(gradient), generator=generator, device=images.device)
        z = z / z.norm()
        total = total + (gradient @ z - scalars[i]) ** 2
    return torch.autograd.grad(total, images)
