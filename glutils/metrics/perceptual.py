"""LPIPS with weights that are already on this disk. Nothing here downloads, and nothing here guesses.

The ``lpips`` package ships its own small linear heads; the backbone beneath them is torchvision's ImageNet network. Its
file is looked for where ``torch.hub`` keeps it, ``$TORCH_HOME/hub/checkpoints``. A random backbone also yields numbers,
but they mean nothing, so without the file there are no numbers.
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .. import _torchvision, _validate

BACKBONES = {"alex": "alexnet-owt-*.pth", "vgg": "vgg16-*.pth", "squeeze": "squeezenet1_1-*.pth"}
SMALLEST = 64  # pixels; smaller images leave nothing for the deeper layers to see


def find(net: str, weights: str | os.PathLike[str] | None = None) -> Path | None:
    """The backbone's file: ``weights`` itself, or the one in torch's hub cache; ``None`` if there is none there."""
    _validate.choice("net", net, BACKBONES)
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise ValueError(f"weights must be a file of torchvision's weights for {net!r}, got {str(weights)!r}")
        return path
    found = sorted((Path(torch.hub.get_dir()) / "checkpoints").glob(BACKBONES[net]))
    return found[-1] if found else None


def why_missing(net: str) -> str:
    """The one sentence for a reader whose machine lacks the backbone."""
    return (
        f"LPIPS is nan: torchvision's weights for {net!r} are not on this machine; "
        f"put {BACKBONES[net]} into $TORCH_HOME/hub/checkpoints."
    )


@lru_cache(maxsize=2)
def load(net: str, path: Path, changed: float) -> torch.nn.Module:
    """The LPIPS network with the backbone read from ``path``; ``changed`` is the file's time, so an edit reloads it."""
    _torchvision.prepare()  # lpips imports torchvision
    import lpips

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # building draws weights that are replaced below
        warnings.simplefilter("ignore")  # lpips uses torchvision's old argument `pretrained`
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    wanted = network.net.state_dict()
    source = {name: "features." + name.split(".", 1)[1] for name in wanted}  # lpips cuts `features` into slices
    wrong = [key for name, key in source.items() if key not in stored or stored[key].shape != wanted[name].shape]
    if wrong:
        raise ValueError(f"weights must be torchvision's for {net!r}; {path.name} has no fitting {wrong[0]!r}")
    network.net.load_state_dict({name: stored[key] for name, key in source.items()})
    return network.eval().requires_grad_(False)


def distance(
    images: Float[Tensor, "batch channel height width"],
    truth: Float[Tensor, "batch channel height width"],
    net: str,
    path: Path,
) -> Float[Tensor, " batch"]:
    """LPIPS per image for two stacks in [0, 1] of one or three channels, enlarged to 64 px if smaller."""
    network = load(net, path, path.stat().st_mtime)
    short = min(truth.shape[2:])
    pair = []
    for stack in (images, truth):
        stack = stack.float().expand(-1, 3, -1, -1)
        if short < SMALLEST:
            size = [round(side * SMALLEST / short) for side in stack.shape[2:]]
            stack = F.interpolate(stack, size=size, mode="bilinear", align_corners=False)
        pair.append(stack)
    with torch.no_grad():
        return torch.cat([network(a[None], b[None], normalize=True).flatten() for a, b in zip(*pair, strict=True)])
