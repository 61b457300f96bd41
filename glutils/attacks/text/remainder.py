"""What the tokens that are not decoded yet add to the scalars: Gaussian interference of known mean and covariance.

The attacker does not know those tokens, but it knows what may follow: its own language model says so. From texts that
begin as the search's hypotheses do, and end as the language model likes, it learns at every depth the mean and the
covariance of all that is still to come.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

CONFIDENCE = 1.25
"""How many independent numbers a likelihood counts, in units of the covariance's effective dimension."""


@dataclass(frozen=True, eq=False)
class Typical:
    """Mean and whitener of one target's contribution, over texts of any kind.

    Attributes:
        mean: (K,).
        whitener: (K, K), the inverse root of the covariance, which is shrunk by Ledoit and Wolf's (2004) rule.
        noise: (K, K), covariance of the client's known noise behind the whitener; None without noise.
    """

    mean: torch.Tensor
    whitener: torch.Tensor
    noise: torch.Tensor | None = None

    @classmethod
    def of(cls, samples: torch.Tensor, noise: torch.Tensor | None = None, targets: int = 1) -> Typical:
        """That of contributions (K, samples).

        Args:
            noise: (K,), standard deviation of what a defence adds to each scalar: every one of the ``targets`` gets its
                share, so that the whitener is not sure of what the noise hides.
        """
        mean = samples.mean(1)
        covariance = shrunk(samples - mean[:, None])
        squares = None if noise is None or not bool((noise > 0).any()) else noise.double().square()
        if squares is not None:
            covariance.diagonal().add_(squares / targets)
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp(min=float(values.max()) * 1e-6)
        whitener = (vectors * values.rsqrt()) @ vectors.T
        behind = None if squares is None else (whitener * squares) @ whitener
        return cls(mean, whitener.to(samples), behind)


@dataclass(frozen=True, eq=False)
class Outlook:
    """Log-likelihood of a hypothesis by what it leaves to the tokens still to come; free of its scale.

    -(c / 2) log |H (r - m)|^2, with r what the hypothesis has not explained, m and H mean and whitener of the remainder
    at this depth, and c the independent numbers in it. At the last depth nothing is to come, and r itself counts.

    Attributes:
        means: (K, n) of all contributions behind each depth.
        whiteners: (K, K) for each depth but the last; for that too, where other texts are behind the scalars.
        counts: c of each.
    """

    means: torch.Tensor
    whiteners: list[torch.Tensor]
    counts: list[float]

    def __call__(self, left: torch.Tensor, a: torch.Tensor, depth: int) -> torch.Tensor:
        """Of n s minus what is decoded (K, N), contributions (K, N, V) and depth to log-likelihoods (N, V)."""
        if depth == len(self.whiteners):
            return -0.5 * len(left) * squares(left, a, None).clamp(min=1e-12).log()
        found = squares(left - self.means[:, depth, None], a, self.whiteners[depth])
        return -0.5 * self.counts[depth] * found.clamp(min=1e-12).log()

    @classmethod
    def of(
        cls, found: torch.Tensor, flat: torch.Tensor, targets: int, typical: Typical, *, unsure: float = 0.0,
        others: torch.Tensor | None = None,
    ) -> Outlook:  # fmt: skip
        """From contributions (K, M, T) of M flat texts (M, T + 1), target by target.

        A text that is shorter than the ``targets`` is filled up with typical contributions. In coordinates in which a
        typical target's covariance is the identity, Ledoit and Wolf's rule says how far M texts can be trusted.

        Args:
            unsure: share of a typical target's covariance to add for each target to come, for texts that are too much
                alike.
            others: (K, K) covariance of what other texts add.
        """
        k, count, length = found.shape
        filled = typical.mean[:, None, None].expand(k, count, targets).clone()
        filled[:, :, :length] = torch.where(flat[:, 1:] >= 0, found, filled[:, :, :length])
        behind = filled.sum(2, keepdim=True) - filled.cumsum(2)
        means = behind.mean(1)
        whiteners: list[torch.Tensor] = []
        last = targets - (others is None)
        counts = [float(k)] * last
        from_others = None if others is None else (typical.whitener @ others @ typical.whitener).double()
        for depth in range(last):
            spread = typical.whitener @ (behind[:, :, depth] - means[:, depth, None])
            c = shrunk(spread)
            if typical.noise is not None:
                c = c + typical.noise
            if from_others is not None:  # they may have no part in some scalars
                c = c + from_others
                c.diagonal().add_(1e-3 * c.diagonal().mean())
            c.diagonal().add_(unsure * (targets - 1 - depth) + 1e-9)
            lower = torch.linalg.cholesky(c)
            whiteners.append(torch.linalg.solve_triangular(lower, typical.whitener.double(), upper=False).to(found))
            counts[depth] = min(float(k), CONFIDENCE * float(c.trace() ** 2 / c.square().sum()))
        return cls(means, whiteners, counts)


def shrunk(centred: torch.Tensor) -> torch.Tensor:
    """Ledoit and Wolf's covariance (K, K) of centred samples (K, M), float64."""
    from sklearn.covariance import ledoit_wolf  # here, because it loads SciPy

    covariance, _ = ledoit_wolf(centred.double().T.cpu().numpy(), assume_centered=True)
    return torch.from_numpy(covariance).to(centred.device)


def squares(left: torch.Tensor, a: torch.Tensor, whitener: torch.Tensor | None) -> torch.Tensor:
    """|H (left_b - a_bv)|^2, (N, V)."""
    k, count, vocabulary = a.shape
    if whitener is None:
        return (left[:, :, None] - a).square().sum(0)
    found = a.new_empty(count, vocabulary)
    left = whitener @ left
    size = max(1, 2**22 // (k * vocabulary))
    for start in range(0, count, size):
        part = (whitener @ a[:, start : start + size].reshape(k, -1)).view(k, -1, vocabulary)
        found[start : start + size] = (left[:, start : start + size, None] - part).square_().sum(0)
    return found
