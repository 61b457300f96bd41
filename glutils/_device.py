"""Which device a name stands for."""

from __future__ import annotations

import torch


def resolve(device: str | torch.device | None = None) -> torch.device:
    """The device that ``device`` names, with its index.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` or a ``torch.device``; None means a CUDA GPU where there
            is one, else the CPU (``"mps"`` has no float64, so it is taken only when named).

    Raises:
        TypeError: neither text, nor a ``torch.device``, nor None.
        ValueError: an unknown device, or one that this machine does not have.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"device must be a name, a torch.device or None, got {device!r} ({type(device).__name__})")
    available = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    available += ["mps"] if torch.backends.mps.is_available() else []
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device must be one of {', '.join(available)}; got {device!r}") from None
    if found.type == "cuda" and found.index is None and torch.cuda.is_available():
        found = torch.device("cuda", torch.cuda.current_device())  # equal to the device of the tensors put there
    if str(found).removesuffix(":0") not in available and str(found) not in available:
        raise ValueError(f"device must be one of {', '.join(available)} on this machine; got {str(device)!r}")
    return torch.device("cpu") if found.type == "cpu" else found
