"""Opening generators over small checkpoints, with the placement given as keywords."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptoss_cli.cache_files import KV_LIMIT_BYTES
from gptoss_cli.checkpoint.folder import weights_folder
from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.loader import load
from gptoss_cli.placement.model_config import load_config
from gptoss_cli.placement.placement import KernelSet, Placement, WeightPlacement
from gptoss_cli.settings import Execution


def open_generator(
    folder: Path,
    *,
    context_tokens: int | None = None,
    chunk_tokens: int | None = None,
    progress: Callable[[str], None] | None = None,
    kv_limit_bytes: int = KV_LIMIT_BYTES,
    notice: Callable[[str], None] | None = None,
    **placement: Any,
) -> Generator:
    """Load a checkpoint; without `context_tokens`, with the largest context of its model."""
    if context_tokens is None:
        context_tokens = load_config(weights_folder(folder) / "config.json").max_context_tokens
    return load(
        folder,
        Placement(context_tokens=context_tokens, **placement),
        progress=progress,
        notice=notice,
        chunk_tokens=chunk_tokens,
        kv_limit_bytes=kv_limit_bytes,
    )


def on_gpu(device: str, experts: int, *, embedding: bool = True) -> dict[str, Any]:
    """Return the keywords of a placement for Triton's kernels, with `experts` of all experts on `device`."""
    return {
        "execution": Execution.MXFP4,
        "device": device,
        "kernels": KernelSet.TRITON,
        "weights": WeightPlacement(gpu_experts=experts, embedding_on_gpu=embedding),
    }
