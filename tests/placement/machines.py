"""Descriptions of machines, as `detect` returns them."""

from dataclasses import replace
from typing import Any

from gptoss_cli.placement.gpus import Cuda, Gpu
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.model_config import published_config

GIB = 1 << 30
GPT_OSS_20B = published_config(layers=24, experts=32)
GPT_OSS_120B = published_config(layers=36, experts=128)


def gib(count: float) -> int:
    return round(count * GIB)


def gpu(total: float, free: float | None = None, *, capability: tuple[int, int] = (8, 6), name: str = "GPU") -> Gpu:
    """A GPU of `total` GiB, all of them free by default."""
    return Gpu(
        name=name, total_bytes=gib(total), free_bytes=gib(total if free is None else free), capability=capability
    )


def mac(ram: float) -> Hardware:
    """An Apple computer of `ram` GiB, of which its GPU may use two thirds to three quarters, all of them free."""
    apple = gpu(ram * (0.75 if ram > 36 else 2 / 3), name="Apple GPU")
    return machine(ram=ram, apple_gpu=replace(apple, capability=None), triton=False, kernels=False)


def machine(*gpus: Gpu, ram: float = 64, available: float | None = None, **details: Any) -> Hardware:
    """A machine of `ram` GiB, nine tenths of them available by default, on which Triton works."""
    facts: dict[str, Any] = {
        "gpus": gpus,
        "cuda": Cuda.USABLE if gpus else Cuda.ABSENT,
        "torch": "2.13.0+cu130",
        "kernels": True,
        "triton": True,
        "compiler": True,
        "memory_bytes": gib(ram),
        "available_bytes": gib(0.9 * ram if available is None else available),
        "disk_bytes": 500 * 10**9,
    }
    return Hardware(**facts | details)
