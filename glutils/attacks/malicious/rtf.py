"""RTF: Robbing the Fed (Fowl, Geiping, Czaja, Goldblum, Goldstein, ICLR 2022): images read from a malicious block."""

from __future__ import annotations

from ... import _validate
from ...observation import Observation
from ..base import Card, Reconstruction, register
from ..closed_form.held import gradient_of
from . import imprint


@register(
    "rtf",
    Card(
        title="RTF",
        adversary="malicious server",
        kinds=("gradient", "delta"),
        simulates="nothing: one subtraction, one division a bin",
        variable="-",
        distance="-",
        prior="none",
        solver="closed form",
        labels="not needed",
        source="fowl2022rtf",
    ),
)
def rtf(seen: Observation, *, seed: int = 0, threshold: float | int = 1e-6) -> Reconstruction:
    """The images that are alone in a bin of the block before the model
    (:func:`glutils.attacks.malicious.imprint.imprint`).

    Neuron l fires for all images above cut l, so row l of the gradient minus row l + 1 holds the images between the two
    cuts; the top row, which has nobody above it, is read as it is. One image there, and
    x = (W_l - W_{l+1}) / (b_l - b_{l+1}), exactly. Several: their weighted mean. Rows of a two-sided block need no
    subtraction.

    A bin is hit if its bias difference exceeds ``threshold`` times the largest bias gradient: equal rows of float32
    differ by rounding, and a test for zero would divide by that. If more bins are hit than there are images, the B with
    the largest weight difference are kept; places without a hit are grey, and a note says so. Images come in the order
    of the bins. ``seed`` is not used. Of one local step a parameter difference serves as well, up to rounding.

    Deviations: the reference subtracts downwards, which loses the top bin, and tests for zero.

    Raises:
        ValueError: a model without the block, or a threshold outside 0 to 1.
    """
    block = imprint.block_of(seen.model)
    if block is None:
        raise ValueError(
            "attack 'rtf' needs a model that begins with a malicious block (gl.imprint.imprint makes one); 'cpa' "
            "and 'ig' attack models as they are"
        )
    _validate.number("threshold", threshold, at_least=0, at_most=1)
    prefix = "" if block is seen.model else "0."
    weight, bias = (gradient_of(seen, "rtf", f"{prefix}encode.{name}") for name in ("weight", "bias"))
    weight, bias, hits = imprint.read_bins(weight, bias, block.two_sided, threshold)
    rows, sizes = weight[hits] / bias[hits, None], weight[hits].norm(dim=1)
    found = {"hits": float(len(hits)), "bins": float(block.bins)}
    return imprint.collected(seen, rows, sizes, "in the order of the bins", found)
