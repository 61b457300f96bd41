"""What the tokens that are not decoded yet add to the scalars: Gaussian interference of known mean and covariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.covariance import ledoit_wolf

from .code import IGNORED, Code


@dataclass(frozen=True, eq=False)
class Remainder:
    """The mean and the covariance of one target's contribution, over public texts.

    Attributes:
        mean: (K,).
        covariance: (K, K), shrunk by Ledoit and Wolf's (2004) rule.
        precision: (K, K), its inverse.
        dimension: tr(C)^2 / tr(C^2), how many directions the covariance really spans.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    whitener: torch.Tensor
    dimension: float

    @classmethod
    def of(cls, code: Code, tokens: torch.Tensor, labels: torch.Tensor) -> Remainder:
        """That of public texts (M, L); labels as :meth:`Code.texts` takes them."""
        found, _ = code.texts(tokens, labels)
        return cls.fitted(found[:, labels[:, 1:] != IGNORED])

    @classmethod
    def fitted(cls, samples: torch.Tensor) -> Remainder:
        """That of contributions (K, samples)."""
        centred = samples.double() - samples.double().mean(1, keepdim=True)
        covariance, _ = ledoit_wolf(centred.T.cpu().numpy(), assume_centered=True)
        c = torch.from_numpy(covariance).to(samples.device)
        values, vectors = torch.linalg.eigh(c)
        values = values.clamp(min=float(values.max()) * 1e-6)
        whitener = (vectors * values.rsqrt()) @ vectors.T
        dimension = float(values.sum() ** 2 / values.square().sum())
        return cls(samples.mean(1), c.to(samples), whitener.to(samples), dimension)
