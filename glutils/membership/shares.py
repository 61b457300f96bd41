"""Mini-batches: whose records the messages hold on average, where each one is about a part that nobody else knows.

A message about b of a client's n records is, on average over what may be drawn, the mean of all n. The drawing is noise
whose covariance is known (``glutils.membership.decision.problem`` whitens it). What is left is a linear regression
with normal noise on the shares of the candidates, 1 / n or 0. With a normal belief of the same mean and variance it has
a closed form, and each candidate a log-likelihood ratio. Nobody is looked for by exchanges here: the noise is too large
for one explanation to stand out.
"""

from __future__ import annotations

import math

import numpy as np

from .search import Dictionary


class Shares:
    """The belief in the shares of a dictionary's candidates, ready for any message.

    Attributes:
        dictionary: of whitened columns.
        count: records of the client, n.
    """

    def __init__(self, dictionary: Dictionary, count: int):
        self.dictionary, self.count = dictionary, count
        self.chosen = np.flatnonzero(dictionary.kept)
        columns = dictionary.columns[:, self.chosen]
        part = min(0.5, count / len(self.chosen))
        self.mean, spread = part / count, part * (1 - part) / count**2
        if len(columns) < columns.shape[1]:
            inner = np.linalg.solve(spread * columns @ columns.T + np.eye(len(columns)), columns)
            self.variance = spread - spread**2 * np.einsum("mn,mn->n", columns, inner)
            self.reader = spread * inner.T
        else:
            inverse = np.linalg.inv(columns.T @ columns + np.eye(columns.shape[1]) / spread)
            self.variance, self.reader = np.diag(inverse), inverse @ columns.T
        self.expected = columns.sum(1) * self.mean

    def scores(self, message: np.ndarray) -> np.ndarray:
        """(N,): log-likelihood ratio, in nats, of a share 1 / n against none; -inf for candidates that are left out."""
        found = self.mean + self.reader @ (message - self.expected)
        scores = np.full(len(self.dictionary.kept), -math.inf)
        scores[self.chosen] = (found - 0.5 / self.count) / (self.count * self.variance)
        return scores
