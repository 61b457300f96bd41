"""Images as PNG files, and back."""

from __future__ import annotations

import io

import torch


def encode(image: torch.Tensor) -> bytes:
    """The bytes of a PNG file of an image (1 or 3, H, W): 8 bits a channel, clamped to [0, 1], NaN black.

    The same image gives the same bytes.
    """
    from PIL import Image  # here and below: not every run makes pictures

    image = image.detach().cpu().float().nan_to_num(0).clamp(0, 1)
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).squeeze(-1).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def decode(content: bytes) -> torch.Tensor:
    """The image (1 or 3, H, W) behind such bytes, float32 in [0, 1]: what :func:`encode` got, to the nearest 1/255."""
    import numpy
    from PIL import Image

    pixels = torch.from_numpy(numpy.array(Image.open(io.BytesIO(content)))).float() / 255
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
