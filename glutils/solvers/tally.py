"""What an attack has computed so far, counted by whatever computes it: an objective, or a system of equations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Tally:
    """Counts of the two things that a search pays for.

    One *evaluation* is the computation of what the client sent, all its messages, for one guess of the attacker, on the
    way back to the attacker's unknowns: for gradient matching one call of the objective, which is one forward and one
    backward pass of the network for its gradient and one backward pass through both. A message of several local steps
    is one evaluation, and so is each candidate of a population, although a search without derivatives leaves out the
    way back. One *pullback* is that way back for one vector. A first-order objective takes one an evaluation;
    Gauss-Newton takes one for every scalar wherever it computes the Jacobian, all from one evaluation.

    The client's own finite differences, which Gauss-Newton runs to learn the client's round-off, are losses, not
    gradients, and are not counted.
    """

    evaluations: int = 0
    pullbacks: int = 0

    def add(self, evaluations: int = 1, pullbacks: int = 1) -> None:
        """Count what has just been computed."""
        self.evaluations += evaluations
        self.pullbacks += pullbacks
