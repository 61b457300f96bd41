"""Pictures in files: what goes in comes out, to 8 bits, and what no picture can hold is clamped."""

import io

import pytest
import torch
from PIL import Image

from glutils import _png


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_comes_back_to_the_nearest_of_256_values(channels):
    image = torch.rand(channels, 5, 7, generator=torch.Generator().manual_seed(0))
    found = _png.decode(_png.encode(image))
    assert found.shape == image.shape and found.dtype == torch.float32
    assert float((found - image).abs().max()) <= 0.5 / 255 + 1e-6
    assert torch.equal(_png.decode(_png.encode(found)), found)
    assert _png.encode(image.double().requires_grad_()) == _png.encode(image)


def test_pixels_outside_are_clamped_and_nan_is_black():
    image = torch.tensor([[[-1.0, 2.0, float("nan")]]])
    assert _png.decode(_png.encode(image)).flatten().tolist() == [0.0, 1.0, 0.0]


def test_others_read_the_file():
    image = torch.zeros(3, 2, 4)
    image[0, 0, 1] = 1
    read = Image.open(io.BytesIO(_png.encode(image)))
    assert read.format == "PNG" and read.mode == "RGB" and read.size == (4, 2)
    assert read.getpixel((1, 0)) == (255, 0, 0) and read.getpixel((0, 0)) == (0, 0, 0)
