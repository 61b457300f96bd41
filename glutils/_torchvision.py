"""Make ``import torchvision`` work beside a build of torch that its compiled operators do not fit.

torchvision declares shape rules for its compiled operators when it is imported. Where those operators do not load (the
CUDA wheel of torchvision next to a CPU-only torch, say), the import dies on ``operator torchvision::nms does not
exist``. Declaring the two schemas first is enough: detection operators are never called in this project.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

_library = None  # kept alive: the schemas vanish with the object


def prepare() -> bool:
    """Declare torchvision's detection operators if its own do not load; returns whether they had to be declared."""
    global _library
    if _library is not None or "torchvision" in sys.modules:
        return False
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _own_operators_load(Path(spec.origin).parent):
        return False
    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return True


def _own_operators_load(package: Path) -> bool:
    # This has to be tried, not guessed from the version: operators that do load after a second declaration of the same
    # schema abort the whole interpreter. Loading them here costs nothing, as torchvision's import would do the same.
    # The library is called _C, or since torchvision 0.29 _C_stable.
    for library in sorted(package.glob("_C*")):
        if library.name.endswith(tuple(EXTENSION_SUFFIXES)):
            try:
                torch.ops.load_library(str(library))
            except OSError:
                continue
            return True
    return False


prepare()
