"""Rounds whose clients cut every image's slope before they take the mean: what an adaptive attacker simulates.

The mean of cut slopes is still a function of the images, with a derivative almost everywhere: s_k = mean over images of
clip(z_k . grad l(f(x_i), y_i), C). An image whose slope along z_k is cut contributes the constant C to that equation,
with the sign of the slope at the current guess, and nothing to its Jacobian. In the same way a scalar that was cut, and
then hidden in noise, is compared with the cut scalar of the guess: nobody can see any more which scalars were cut.
"""

from __future__ import annotations

import torch
from torch.func import vjp

from ... import models, zo
from .rounds import StackedRounds, directional_derivative


class ClippedRounds(StackedRounds):
    """R messages of K means of cut slopes; else as :class:`~glutils.attacks.zerogla.rounds.StackedRounds`.

    Truncation of finite differences is left out (it is the smaller, the smaller mu), round-off is that of float64.
    """

    def __init__(self, model, decode, entries, first=0):
        super().__init__(model, decode, entries, first)
        protocol = entries[0].protocol
        self.shared = protocol.public_count
        self.each, self.mean = (float("inf") if b is None else b for b in (protocol.image_bound, protocol.mean_bound))

    def _of_one(self, params, directions, images, labels, weights) -> torch.Tensor:
        """The K scalars of one message."""

        def losses(p: models.Parameters) -> torch.Tensor:
            return models.own_losses(self.model, p, images, labels, criterion=self.protocol.criterion)

        def slope(z: torch.Tensor) -> torch.Tensor:
            return directional_derivative(losses, params, models.unflatten(z, params))

        cut = models.vectorised(self.model, slope)(directions).clamp(-self.each, self.each)
        found = cut.mean(1) if weights is None else cut @ weights
        if self.shared is not None:  # a sum over images, divided by a public number
            found = found * (images.shape[0] / self.shared)
        return found.clamp(-self.mean, self.mean)

    def _scalars(self, u: torch.Tensor) -> torch.Tensor:
        images, labels, weights = self._decoded(u)
        in_dims = (0, 0, None, None, None if weights is None else 0)
        together = models.vectorised(self.model, self._of_one, in_dims)
        return together(self.params, self.directions, images, labels, weights).flatten()

    def evaluate(self, u, target):
        found, pull = vjp(self._scalars, u)
        r = found - target
        return r, pull(r)[0], r

    def jvp(self, u, v):
        return directional_derivative(self._scalars, u, v)

    def combine(self, r):
        return r  # which slopes are cut depends on u

    def pull(self, u, back):
        return vjp(self._scalars, u)[1](back)[0]

    def _rows_of_one(self, u, params, directions, number):
        found, pull = vjp(lambda v: self._of_one(params, directions, *self._decoded_for_one(v, number)), u)
        return models.vectorised(self.model, pull)(torch.eye(len(found), dtype=u.dtype, device=u.device))[0]

    def differences(self, u, most=None):
        exact = self._scalars(u).detach()
        unit = zo.roundoff(1.0, self.protocol.mu, torch.float64, self.protocol.scheme)
        return exact, exact, torch.full_like(exact, unit)
