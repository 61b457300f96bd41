"""Draw the picture of the README from a real run: photographs, what the attacker makes of scalars, and its control.

    python tools/readme_picture.py --to book/assets/reconstruction.png

Nothing is chosen by looking at the result: the photographs are those of the seeds, and so are weights and directions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import glutils as gl

ROOT = Path(__file__).resolve().parent.parent
SCALARS_PER_PIXEL = 1.25


def main(arguments: list[str] | None = None) -> int:
    """Attack, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=ROOT / "book" / "assets" / "reconstruction.png", help="PNG to write")
    parser.add_argument("--size", type=int, default=20, help="side of the photographs, in pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="one photograph for each")
    options = parser.parse_args(arguments)
    columns = [panels(seed, options.size) for seed in options.seeds]
    options.to.parent.mkdir(parents=True, exist_ok=True)
    options.to.write_bytes(gl.show.figures.png_of(draw(columns)))
    for number, column in enumerate(columns):
        print(f"photograph {number + 1}:", "; ".join(f"{title} {note}".strip() for title, _, note in column))
    print(f"{options.to}: {options.to.stat().st_size / 1000:.0f} kB")
    return 0


def panels(seed: int, size: int) -> list[tuple[str, torch.Tensor, str]]:
    """Title, image and PSNR of each panel for one photograph."""
    batch = gl.data.sample("photos", size=size, count=1, seed=seed)
    model = gl.models.build("lenet", batch, seed=seed)
    count = int(SCALARS_PER_PIXEL * batch.images.numel())
    protocol = gl.protocols.ZerothOrder(directions=count, mu=1e-4, dtype="float64", seed=seed)
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows={"labels"})
    found = gl.attack("zerogla", seen, seed=seed)
    misled = gl.attack("zerogla", gl.tamper(seen, "wrong_seed", seed=seed), iterations=12, seed=seed)
    psnr = [gl.show.decibels(gl.score(result, batch).psnr[0]) for result in (found, misled)]
    return [
        ("private photograph", batch.images[0], ""),
        (f"from {count:,} scalars", found.images[0], psnr[0]),
        ("control: wrong directions", misled.images[0], psnr[1]),
    ]


def draw(columns: list[list[tuple[str, torch.Tensor, str]]]) -> Figure:
    """A row for each photograph."""
    with gl.show.style():
        fig = Figure(figsize=(6.4, 2.35 * len(columns)), layout="constrained")
        for axes_row, column in zip(fig.subplots(len(columns), len(columns[0]), squeeze=False), columns, strict=True):
            for axes, (title, image, note) in zip(axes_row, column, strict=True):
                axes.imshow(image.detach().float().clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
                axes.set(title=title, xticks=[], yticks=[], xlabel=note)
    return fig


if __name__ == "__main__":
    sys.exit(main())
