"""GIFD: gradient inversion over the hidden features of a generator (Fang, Chen, Wang, Wang, Xia, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch

from ... import _validate
from ...observation import Observation
from ...priors import tv
from ...priors.latent import Latent
from ...solvers import Tally, Trace, adam, search
from ..base import Card, Reconstruction, reconstruction, register
from ..matching.objective import cosine, matching
from .common import add_penalty, candidates, divergence, known_or_inferred_labels, resolve_latent

Step = Callable[[torch.Tensor], torch.Tensor]


def onto_l1_ball(x: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """The nearest point to each row of x (B, n) whose absolute values sum to at most ``radius`` (B,), 0 or more.

    Every entry is moved towards zero by one and the same amount, which the sorted entries tell (Duchi, Shalev-Shwartz,
    Singer and Chandra, ICML 2008, figure 1).
    """
    long, _ = x.abs().sort(dim=1, descending=True)
    over = long.cumsum(1) - radius[:, None]
    each = torch.arange(1, x.shape[1] + 1, device=x.device)
    last = (long * each > over).sum(1, keepdim=True).clamp_min(1) - 1
    taken = (over.gather(1, last) / (last + 1)).clamp_min(0)
    return x.sign() * (x.abs() - taken).clamp_min(0)


@register(
    "gifd",
    Card(
        title="GIFD",
        kinds=("gradient", "delta"),
        several=("gradient", "delta"),
        simulates="FedSGD or FedAvg",
        variable="generator's latent, then its hidden features",
        distance="cosine",
        prior="generator, l1 ball, TV, latent norm",
        solver="Adam",
        labels="given, or inferred (one image)",
        source="fang2023gifd",
    ),
)
def gifd(
    seen: Observation,
    *,
    seed: int = 0,
    prior: str | Latent | None = None,
    components: int | None = None,
    iterations: int = 400,
    latent_share: float | int = 0.25,
    restarts: int = 1,
    radius: float | int | None = 1.0,
    latent_lr: float | int = 0.1,
    feature_lr: float | int = 0.03,
    tv_weight: float | int = 1e-3,
    latent_weight: float | int = 1e-3,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """First the latent numbers of the batch, then what they cause in one hidden layer of the generator after another.

    min 1 - cos(grad l(f(G(z)), y), g) + tv_weight TV + latent_weight KL(z) over z, as in GIAS. Then the features h that
    z causes in the first hidden layer are the variables, within an l1 ball around where they begin; then those of the
    next one, from where h has come to; and so on towards the pixels. Every layer makes an image. The one with the
    lowest 1 - cos is reported: the attacker sees that number itself. The generator's weights are never changed.

    Args:
        prior: ``"glo"`` (learned from the public images) or ``"untrained"``, or a latent that is a chain of layers
            (:meth:`glutils.priors.latent.Latent.layers`). Default: ``"glo"``, or ``"untrained"`` where there are no
            public images.
        components: numbers in z, for one image, of a latent given by name; default 32.
        iterations: gradients that are evaluated, over all layers and starts and the comparison at the end, and one
            more, as in IG.
        latent_share: of the iterations for z, between 0 and 1; the hidden layers share the rest equally.
        restarts: starts of the search for z, which share its iterations; the lowest objective goes on.
        radius: of the ball: by how much a hidden number may change, on average over those of an image, in units of
            their mean size where the layer begins; above 0, or None for no ball.
        latent_lr, feature_lr: step sizes of Adam; each rises over a twentieth of a stage and falls along a cosine.

    Deviations: our small generators with three hidden layers instead of BigGAN and StyleGAN2, and hundreds of
    iterations instead of a thousand a layer; one radius in units of the features instead of a list of absolute ones
    that grows with the layer; GGL's penalty on z instead of a projection to a sphere, and no penalty on the image's
    norm; no undoing of a defence.

    Raises:
        ValueError: a latent without hidden layers (``"pca"`` and ``"generator"``, which GGL, GIAS and IGIMS take), or
            fewer iterations than the comparison of layers takes.

    Example:
        >>> import glutils as gl
        >>> batch, protocol = gl.data.sample("digits", seed=0, device="cpu"), gl.protocols.FedSGD()
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
        >>> result = gl.attack("gifd", seen, iterations=40, progress=False)
        >>> sorted(result.diagnostics)
        ['evaluations', 'latent', 'layer', 'layers']
    """
    iterations = _validate.integer("iterations", iterations, at_least=1)
    latent_share = _validate.number("latent_share", latent_share, at_least=0, at_most=1)
    restarts = _validate.integer("restarts", restarts, at_least=1)
    radius = None if radius is None else _validate.number("radius", radius, above=0)
    rates = [_validate.number(n, v, above=0) for n, v in (("latent_lr", latent_lr), ("feature_lr", feature_lr))]
    tv_weight = _validate.number("tv_weight", tv_weight, at_least=0)
    latent_weight = _validate.number("latent_weight", latent_weight, at_least=0)
    if prior in ("pca", "generator"):
        raise ValueError(
            f"prior={prior!r} has no chain of hidden layers for 'gifd' to search; 'glo' and 'untrained' have, and "
            "'ggl', 'gias' and 'igims' take it as it is"
        )
    if isinstance(prior, Latent):
        prior.layers()  # refused before anything else happens
    labels, notes = known_or_inferred_labels(seen, "gifd")
    whole, more = resolve_latent(seen, "gifd", prior, components, seed, progress)
    steps, tally = whole.layers(), Tally()
    shares = budget(iterations, latent_share, restarts, len(steps))
    match = {"distance": cosine, "priors": [(tv_weight, tv)] if tv_weight else (), "tally": tally}
    device, chosen = next(seen.model.parameters()).device, {}

    def rest(layer: int) -> Step:
        """From what enters step ``layer`` to the image."""
        return lambda x: reduce(lambda value, step: step(value), steps[layer:], x)

    def settle(trace: Trace, layer: int, start: torch.Tensor, count: int):
        """The variables of one layer after ``count`` steps from ``start``, and their objective; None if time is up."""
        made = rest(layer)
        near = matching(seen, lambda v: (made(v[0]), labels), **match)
        if layer == 0:
            near = add_penalty(near, lambda v: latent_weight * divergence(v[0]).mean())
        stage = trace.stage(lambda v: (made(v[0]),))
        how = {"iterations": count, "lr": rates[layer > 0], "schedule": "cosine", "warmup": count // 20}
        ended = adam(near, (start,), stage, project=ball(start) if layer and radius else None, **how)
        return None if ended or stage.best is None else (stage.loss, stage.best[0])

    def ball(start: torch.Tensor) -> Callable[[tuple[torch.Tensor, ...]], None]:
        middle = start.flatten(1).clone()
        limit = (radius or 0.0) * middle.abs().sum(1)

        def back(variables: tuple[torch.Tensor, ...]) -> None:
            h = variables[0]
            h.copy_((middle + onto_l1_ball(h.flatten(1) - middle, limit)).view_as(h))

        return back

    def solve(trace: Trace, generator: torch.Generator) -> None:
        starts = [torch.randn(seen.shape[0], whole.size, generator=generator).to(device) for _ in range(restarts)]
        found = []
        for start in starts:
            if (end := settle(trace, 0, start, shares[0])) is None:
                return
            found.append(end)
        at, images = min(found, key=lambda pair: pair[0])[1], []
        for layer, count in enumerate(shares):
            if layer:
                start = steps[layer - 1](at).detach()
                if (end := settle(trace, layer, start, count)) is None:
                    return
                at = end[1]
            images.append(rest(layer)(at).detach())
        far = candidates(seen, labels, distance="cosine", tally=tally)(torch.stack(images))
        best = int(far.argmin())
        chosen.update(layer=float(best), layers=float(len(steps)))
        trace.stage().report(0, far[best], (images[best],))

    found = search(
        solve, iterations=iterations, seed=seed, seconds=seconds, keep="last", progress=progress, label="gifd"
    )
    about = {"latent": float(whole.size), "evaluations": float(tally.evaluations)} | chosen
    return reconstruction(found, found.variables[0], labels, *notes, *more, tally=tally, **about)


def budget(iterations: int, latent_share: float, restarts: int, layers: int) -> list[int]:
    """Steps of Adam from one start in each layer, so that ``iterations`` + 1 gradients are evaluated at most.

    Every stage evaluates one more gradient than it has steps, and the comparison of layers one for each.
    """
    fixed = restarts + 2 * layers - 1
    if iterations + 1 < fixed:
        raise ValueError(
            f"iterations must be at least {fixed - 1} for {layers} layers and {restarts} start(s), which are compared "
            f"at the end, got {iterations}; 'gias' takes fewer"
        )
    free = iterations + 1 - fixed
    first = round(latent_share * free) // restarts
    left = free - first * restarts
    return [first] + [(left + k) // (layers - 1) for k in range(layers - 1)]
