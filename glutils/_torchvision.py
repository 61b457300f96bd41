"""Make ``import torchvision`` work beside a CPU-only build of torch.

torchvision's wheel registers fake kernels for its compiled operators. Next to a CPU-only torch those operators do not
load (they want CUDA libraries), and the import dies on ``operator torchvision::nms does not exist``. Declaring the two
schemas first is enough: detection operators are never called in this project.
"""

from __future__ import annotations

import importlib.util

import torch

_library = None  # kept alive: the schemas vanish with the object


def prepare() -> bool:
    """Declare torchvision's detection operators if torch has no CUDA; returns whether anything had to be declared."""
    global _library
    if _library is not None or torch.version.cuda is not None or importlib.util.find_spec("torchvision") is None:
        return False
    if hasattr(torch.ops.torchvision, "nms"):  # a torchvision that loads its own operators
        return False
    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return True


prepare()
