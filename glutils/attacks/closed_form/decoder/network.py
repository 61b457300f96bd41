"""The victim's features, and the network that turns them into images (Xue et al. 2022, section "generator")."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from .... import _files, _validate, models

FORMAT = "glutils decoder 1"
SLOPE = 0.2  # of the leaky ReLU


def _features_and_shape(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...] | None]:
    """Input (B, m) of the last linear layer, and the shape of the last map (B, c, h, w) with m entries an image."""
    maps = []
    _, layer = models.last_linear(model, tuple(images.shape))

    def note_map(module, inputs, output):
        if isinstance(output, torch.Tensor) and output.ndim == 4:
            maps.append(tuple(output.shape[1:]))

    handles = [module.register_forward_hook(note_map) for module in model.modules()]
    try:
        with models.record_inputs(layer) as inputs, torch.no_grad(), models.stateless(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    found = inputs[-1].detach().flatten(1)
    fitting = [shape for shape in maps if shape[0] * shape[1] * shape[2] == found.shape[1]]
    return found, fitting[-1] if fitting else None


def features(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the last linear layer of ``model`` reads, (B, m), for images (B, C, H, W) in [0, 1].

    Without a graph, in the model's present mode; running statistics are left alone.
    """
    _validate.instance("model", model, nn.Module)
    return _features_and_shape(model, images)[0]


def feature_shape(model: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Shape (c, h, w) of the features before they are flattened, for images of shape (C, H, W).

    (m, 1, 1) where no map of that many entries precedes the last layer: after average pooling, or in an ``mlp``.
    """
    _validate.instance("model", model, nn.Module)
    at = next(model.parameters())
    images = torch.zeros(1, *shape, device=at.device, dtype=at.dtype)
    found, spatial = _features_and_shape(copy.deepcopy(model).eval(), images)
    return spatial or (found.shape[1], 1, 1)


def remove_pooling(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """A copy of ``model`` without its global average pool and with a fresh last layer for the longer features.

    This is the change that FGLA makes to its victim: pooling throws away where things are.

    Raises:
        ValueError: a model without an ``nn.AdaptiveAvgPool2d``, or one not made by :func:`glutils.models.build`.
    """
    _validate.instance("model", model, nn.Module)
    pools = [name for name, module in model.named_modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    if not pools or not hasattr(model, "shape"):
        raise ValueError("model must be built by glutils.models.build and have an average pool to take away")
    name, layer = models.last_linear(model)
    changed = copy.deepcopy(model)
    changed.set_submodule(pools[-1], nn.Identity())
    probe = nn.Identity()
    changed.set_submodule(name, probe)
    with models.record_inputs(probe) as inputs, torch.no_grad(), models.stateless(changed):
        changed(torch.zeros(1, *model.shape, device=layer.weight.device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_validate.integer("seed", seed, at_least=0))
        fresh = nn.Linear(inputs[-1].shape[1], layer.out_features, bias=layer.bias is not None)
    changed.set_submodule(name, fresh.to(layer.weight))
    return changed


def backbone_digest(model: nn.Module) -> str:
    """Sixteen hexadecimal digits that tell one set of layers before the last linear one from another."""
    last, _ = models.last_linear(model)
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not name.startswith(f"{last}."):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class _Unit(nn.Module):
    """Residual unit: 3x3 convolution, batch norm, leaky ReLU, 3x3 convolution, batch norm, added to the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x + self.body(x))


class Decoder(nn.Module):
    """Features to images: blocks of a transposed convolution that doubles the side, then residual units; a sigmoid.

    The paper's blocks, as many as doublings lie between the map and the image (there five, 7x7 to 224x224), with
    ``width`` channels in the last block and twice as many in each one before it (there 64, with three units a block).

    Deviation: features are standardised per channel first, with statistics of the public images, because those of an
    untrained network are tiny.

    Attributes:
        feature: shape (c, h, w) of what it reads.
        image: shape (C, H, W) of what it makes. ``width``, ``units``: as given.
        backbone: :func:`backbone_digest` of the network that it was trained for, empty before training.
    """

    def __init__(self, feature: Any, image: Any, *, width: int = 32, units: int = 1, backbone: str = ""):
        """Raises ``ValueError`` if the image's sides are not those of the map times one power of two."""
        super().__init__()
        self.feature, self.image = tuple(map(int, feature)), tuple(map(int, image))
        self.width = _validate.integer("width", width, at_least=1)
        self.units = _validate.integer("units", units, at_least=0)
        self.backbone = backbone
        channels, height, wide = self.feature
        times = self.image[1] // height
        if times & (times - 1) or times < 1 or self.image[1:] != (times * height, times * wide):
            raise ValueError(
                f"image must be 1, 2, 4, 8, ... times the features' {height}x{wide} on both sides, "
                f"got {self.image[1]}x{self.image[2]}"
            )
        layers: list[nn.Module] = [nn.BatchNorm2d(channels, affine=False)]
        doublings = times.bit_length() - 1
        for k in range(max(doublings, 1)):
            after = self.width * 2 ** max(doublings - 1 - k, 0)
            up = nn.ConvTranspose2d(channels, after, 3, 2, 1, 1) if doublings else nn.Conv2d(channels, after, 3, 1, 1)
            layers += [up, nn.LeakyReLU(SLOPE), *(_Unit(after) for _ in range(self.units))]
            channels = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, self.image[0], 1), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) in [0, 1] from features (B, c h w) or (B, c, h, w)."""
        return self.layers(x.reshape(-1, *self.feature))

    def about(self) -> dict[str, Any]:
        """What :class:`Decoder` has to be called with to get this one."""
        return {key: getattr(self, key) for key in ("feature", "image", "width", "units", "backbone")}

    def save(self, path: Any) -> Path:
        """Write weights and shapes as one safetensors file.

        Raises:
            FileExistsError: there is a file already; weights are never overwritten.
        """
        path = Path(path)
        if path.exists():
            raise FileExistsError(f"{path} exists and is never overwritten")
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        # one entry: safetensors writes several in random order, and the same weights would not be the same bytes
        content = save(state, {FORMAT: json.dumps(self.about())})
        _files.write(path, content)
        return path


def load(path: Any, *, device: Any = "cpu") -> Decoder:
    """The decoder that :meth:`Decoder.save` wrote, or that training left in the folder ``path``; in ``eval`` mode.

    Raises:
        FileNotFoundError: no such file. ValueError: a file that is not a decoder's.
    """
    path = Path(path)
    path = path / "weights.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no decoder at {path}; gl.decoder.train(..., folder=...) makes one")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            about = file.metadata() or {}
            if FORMAT not in about:
                raise ValueError("it was written by something else")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        decoder = Decoder(**json.loads(about[FORMAT]))
        decoder.load_state_dict(state)
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must hold the weights of a decoder, but cannot be read: {error}") from error
    return decoder.to(device).eval()
