"""A real Opacus loop computes a gradient for each of two photographs; they are kept by the names that Opacus gives."""

from pathlib import Path

import numpy as np
import torch
from networks import SIDE, small
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, TensorDataset

import glutils as gl

MESSAGES = Path(__file__).resolve().parent / "messages"
CLIP, NOISE = 1e6, 0.0
"""So large and so small that the messages are those of two records, and nothing is cut or added."""


def main():
    """One step of two records, and what the optimiser held on the way."""
    batch = gl.data.sample("photos", size=SIDE, count=2, seed=1, device="cpu")
    model = small()
    before = [value.numpy().copy() for value in model.state_dict().values()]
    loader = DataLoader(TensorDataset(batch.images, batch.labels), batch_size=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model, optimizer, loader = PrivacyEngine().make_private(
        module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=NOISE, max_grad_norm=CLIP,
        poisson_sampling=False,
    )  # fmt: skip
    images, labels = next(iter(loader))
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    each = {name: p.grad_sample.detach().numpy().copy() for name, p in model.named_parameters()}
    optimizer.clip_and_accumulate()
    summed = {name: p.summed_grad.detach().numpy().copy() for name, p in model.named_parameters()}
    MESSAGES.mkdir(exist_ok=True)
    np.savez_compressed(MESSAGES / "opacus_global.npz", *before)
    np.savez_compressed(MESSAGES / "opacus_each.npz", **each)
    np.savez_compressed(MESSAGES / "opacus_summed.npz", **summed)
    np.savez_compressed(MESSAGES / "opacus_private.npz", images=images.numpy(), labels=labels.numpy())


if __name__ == "__main__":
    main()
