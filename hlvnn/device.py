"""Which device a name stands for."""

from __future__ import annotations

import torch

from hlvnn.errors import ResourceError


def described(device: torch.device) -> str:
    """Return a device in words: cpu, or the name of a GPU."""
    if device.type != "cuda":
        return device.type
    return torch.cuda.get_device_name(device)


def resolve_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda`, `cuda:1`; `ResourceError` if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ResourceError(
            f"--device {name}: no such kind of device; use auto, cpu or cuda"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"--device {name}: torch sees {torch.cuda.device_count()} GPUs on this machine; "
            "use --device cpu, or auto"
        )
    return device
