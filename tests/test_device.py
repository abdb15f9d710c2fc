"""Which device a name means, and what is refused."""

from __future__ import annotations

import pytest
import torch

from hlvnn.device import resolve_device
from hlvnn.errors import ResourceError


def test_the_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused_with_the_count(name: str) -> None:
    with pytest.raises(ResourceError, match=f"--device {name}: torch sees 0 GPUs"):
        resolve_device(name)
    assert resolve_device("auto") == torch.device("cpu")


def test_an_unknown_kind_of_device_is_refused() -> None:
    with pytest.raises(ResourceError, match="--device gpu: no such kind of device; use auto"):
        resolve_device("gpu")
