"""ROG: Reconstruction from Obfuscated Gradients (Yue, Jin, Wong, Baron, Dai, USENIX Security 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ... import _validate
from ...data.batch import Batch
from ...observation import Observation
from ...priors import latent
from ...solvers import Tally, adam, search
from ..base import Card, Reconstruction, reconstruction, register
from ..matching.objective import cosine, matching
from .common import add_penalty, known_or_inferred_labels

COMPONENTS = 48
"""Numbers an image, where nothing else is said and the public images allow as many."""
RIDGE = 0.1
"""Of the postprocessing's regression, relative to the kernel's diagonal."""
SPREAD = 0.3
"""Standard deviation of z where a search begins; 1 is that of the public images."""


@register(
    "rog",
    Card(
        title="ROG",
        kinds=("gradient", "delta"),
        several=("gradient", "delta"),
        simulates="FedSGD or FedAvg, and the defence",
        variable="few numbers of an encoder",
        distance="cosine",
        prior="encoder, latent norm; postprocessing",
        solver="Adam",
        labels="given, or inferred (one image)",
        source="yue2023rog",
    ),
)
def rog(
    seen: Observation,
    *,
    seed: int = 0,
    components: int | None = None,
    iterations: int = 200,
    restarts: int = 1,
    lr: float | int = 0.1,
    latent_weight: float | int = 0.02,
    postprocess: bool = True,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Few numbers an image, whose decoded image explains a coarse or sparse message; then what they leave out is added.

    ``min over z of 1 - cos(D(grad l(f(decode(z)), y)), message) + latent_weight mean z^2`` (section 4, figure 1). D is
    the client's defence, as far as it can be simulated: rounding, signs, and the numbers that were sent. A message of
    few bits leaves many images possible; an encoder, learned from public images, has few unknowns for few equations. In
    the end a regression, learned from the same public images, adds to the decoded image what its numbers leave out.

    What is gained where the message says little is lost where it says much: no image comes back better than the encoder
    can say it. From four bits a number on, ``"ig"`` finds more.

    Args:
        components: numbers an image; default 48, or what the public images allow.
        lr: of Adam; divided by ten at 3/8, 5/8 and 7/8 of the iterations. The last iterate is reported.
        latent_weight: of the mean square of z, which is 1 for public images.
        postprocess: False reports the decoded image.

    Deviations: the encoder is principal components of the public images where the paper takes bicubic scaling or an
    autoencoder, and the postprocessing is kernel ridge regression where it trains a network. The defence is simulated,
    with the same smooth stand-ins as for any attack; the penalty on z and its weight, chosen on other digits, are ours.

    Raises:
        ValueError: no public images, labels of a batch that were not told, an option outside its range.
    """
    if seen.public is None:
        raise ValueError(
            "attack 'rog' learns its encoder from public images: observe(..., knows={'public'}, public=...); without "
            "them, 'ig' simulates the same defence"
        )
    _validate.number("lr", lr, above=0)
    _validate.number("latent_weight", latent_weight, at_least=0)
    _validate.instance("postprocess", postprocess, bool)
    labels, notes = known_or_inferred_labels(seen, "rog")
    if components is None:
        components = min(COMPONENTS, len(seen.public) - 1, seen.public.images[0].numel())
    encoder = latent.PCA.fit(seen.public, components)
    tally, like = Tally(), next(seen.model.parameters()).detach().float()
    objective = matching(seen, lambda v: (encoder.decode(v[0]), labels), distance=cosine, tally=tally)
    goal = add_penalty(objective, lambda v: latent_weight * v[0].square().mean())

    def solve(trace, generator):
        first = SPREAD * torch.randn(seen.shape[0], encoder.size, generator=generator).to(like)
        adam(goal, (first,), trace, iterations=iterations, lr=lr, schedule="steps")

    found = search(
        solve,
        iterations=iterations,
        restarts=restarts,
        seed=seed,
        seconds=seconds,
        keep="last",
        progress=progress,
        label="rog",
        view=lambda variables: encoder.decode(variables[0]),
    )
    z = found.variables[0].detach()
    images = encoder.decode(z)
    if postprocess:
        images = images + Remainder.fit(encoder, seen.public).of(z)
    return reconstruction(found, images, labels, *notes, tally=tally, components=float(encoder.size))


@dataclass(frozen=True, eq=False)
class Remainder:
    """What an encoder's numbers leave out of an image, guessed from those numbers: kernel ridge regression.

    Attributes:
        codes: of the public images, (N, size).
        weights: (N, D), D = C H W.
        width: of the Gaussian kernel.
        shape: of one image.
    """

    codes: torch.Tensor
    weights: torch.Tensor
    width: float
    shape: tuple[int, ...]

    @classmethod
    def fit(cls, encoder: latent.PCA, public: Batch) -> Remainder:
        """Of the public images, at most 1,000 of them; the width is the median distance of their codes."""
        images = public.images[:1000].detach().double()
        codes = encoder.encode(images)
        left = (images - encoder.decode(codes)).flatten(1)
        apart = torch.cdist(codes, codes)
        width = float(apart[apart > 0].median()) if bool((apart > 0).any()) else 1.0
        kernel = torch.exp(-0.5 * (apart / width).square())
        weights = torch.linalg.solve(kernel + RIDGE * torch.eye(len(kernel)).to(kernel), left)
        return cls(codes, weights, width, tuple(images.shape[1:]))

    def of(self, z: torch.Tensor) -> torch.Tensor:
        """The guess for codes z (B, size): (B, C, H, W), in z's precision."""
        kernel = torch.exp(-0.5 * (torch.cdist(z.to(self.codes), self.codes) / self.width).square())
        return (kernel @ self.weights).unflatten(1, self.shape).to(z)
