"""A small vision transformer (Dosovitskiy et al. 2021)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import _validate
from .zoo import MODELS, Shape

POSITIONS = 0.2
"""Deviation with which positions are drawn. The paper's code has 0.02: before training, patches are then hardly told
apart, their order hardly matters, and a search that has the patches in a wrong order stays there."""


class VisionTransformer(nn.Module):
    """Patches as tokens, a class token in front, learned positions, blocks with the norm first, a linear head."""

    def __init__(self, shape: Shape, classes: int, patch: int, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        channels, rows, columns = shape
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        count = (rows // patch) * (columns // patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(POSITIONS * torch.randn(1, count + 1, width))
        block = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, blocks, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.position
        return self.head(self.norm(self.blocks(tokens))[:, 0])


@MODELS.register("vit")
def vit(
    shape: Shape, classes: int, patch: int | None = None, width: int = 32, blocks: int = 2, heads: int = 4
) -> nn.Module:
    """A vision transformer (Dosovitskiy et al. 2021) of two blocks, width 32 and four heads, GELU, twice as wide inside
    a block; 18,218 parameters for an 8x8 grey image and 10 classes.

    Positions are drawn ten times as large as the paper's code draws them, see ``POSITIONS``.

    ``patch`` is the side of a patch in pixels, and has to divide the image's: 2 unless told, and 4 from 16 pixels on.

    Example:
        >>> import glutils as gl
        >>> sum(p.numel() for p in gl.models.vit((3, 16, 16), 10).parameters())
        19626
    """
    patch = (4 if min(shape[1:]) >= 16 else 2) if patch is None else _validate.integer("patch", patch, at_least=1)
    for name, value in (("width", width), ("blocks", blocks), ("heads", heads)):
        _validate.integer(name, value, at_least=1)
    if shape[1] % patch or shape[2] % patch:
        raise ValueError(f"patch must divide the images' {shape[1]}x{shape[2]} pixels, got {patch}")
    if width % heads:
        raise ValueError(f"width must be a multiple of the {heads} heads, got {width}")
    return VisionTransformer(shape, classes, patch, width, blocks, heads)
