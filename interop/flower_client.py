"""A real Flower client trains one step on one photograph; what it received and sent is kept as arrays in order."""

from pathlib import Path

import numpy as np
import torch
from flwr.client import NumPyClient
from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from networks import SIDE, small

import glutils as gl

MESSAGES = Path(__file__).resolve().parent / "messages"
LR = 0.01


class Client(NumPyClient):
    """As Flower's tutorial has it: weights in, one epoch of SGD, weights out."""

    def __init__(self, batch):
        self.batch, self.model = batch, small()

    def fit(self, parameters, config):
        names = self.model.state_dict().keys()
        state = {n: torch.from_numpy(a.copy()) for n, a in zip(names, parameters, strict=True)}
        self.model.load_state_dict(state)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=config["lr"])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(self.model(self.batch.images), self.batch.labels).backward()
        optimizer.step()
        return [value.numpy() for value in self.model.state_dict().values()], len(self.batch), {}


def main():
    """Run one round with one client, and write its messages."""
    batch = gl.data.sample("photos", size=SIDE, count=1, seed=0, device="cpu")
    before = [value.numpy() for value in small().state_dict().values()]
    client = Client(batch).to_client()
    answer = client.fit(FitIns(ndarrays_to_parameters(before), {"lr": LR}))
    after = parameters_to_ndarrays(answer.parameters)
    MESSAGES.mkdir(exist_ok=True)
    np.savez_compressed(MESSAGES / "flower_global.npz", *before)
    np.savez_compressed(MESSAGES / "flower_fit.npz", *after)
    moved = [new - old for new, old in zip(after, before, strict=True)]
    np.savez_compressed(MESSAGES / "flower_difference.npz", *moved)
    np.savez_compressed(MESSAGES / "flower_private.npz", images=batch.images.numpy(), labels=batch.labels.numpy())


if __name__ == "__main__":
    main()
