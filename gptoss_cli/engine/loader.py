"""Loads a checkpoint as a placement says, checks the kernels, and returns a generator."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from gptoss_cli import __version__, settings
from gptoss_cli.checkpoint.folder import fingerprint, weights_folder
from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.kernels import reference
from gptoss_cli.engine.kernels.cpu import CpuKernels, find_kernels
from gptoss_cli.engine.kernels.protocol import Kernels
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.prefix_cache import PrefixStore
from gptoss_cli.engine.quantize import int8_weights
from gptoss_cli.engine.steppers import check_overlapped
from gptoss_cli.engine.weights import load_weights
from gptoss_cli.errors import Hint, UsageError
from gptoss_cli.generation import Numerics
from gptoss_cli.placement.model_config import load_config
from gptoss_cli.placement.placement import KernelSet, Placement
from gptoss_cli.settings import Dense, Dtype

_TORCH_DTYPES = {Dtype.FLOAT32: torch.float32, Dtype.BFLOAT16: torch.bfloat16}
_CPU_CHUNK_TOKENS, _GPU_CHUNK_TOKENS = 512, 2048


def load(
    folder: Path,
    placement: Placement,
    *,
    progress: Callable[[str], None] | None = None,
    chunk_tokens: int | None = None,
) -> Generator:
    """Map the checkpoint in `folder`, or in its `original` folder, or copy it to where `placement` wants it.

    8-bit dense weights are converted first, unless that was done before. The number of threads holds for the whole
    process. `progress` is told what takes long; `chunk_tokens` are prefilled at once.

    Raises NotInstalledError, IntegrityError or ResourceError for what is wrong with the files or the device, and
    UsageError for a context that the model does not have.
    """
    home = weights_folder(folder)
    config = load_config(home / "config.json")
    if not 2 <= placement.context_tokens <= config.max_context_tokens:
        raise UsageError(
            f"The context should be 2 to {config.max_context_tokens} tokens, not {placement.context_tokens}",
            Hint.VALID_CONTEXT,
        )
    weights, identity = load_weights(home, config, placement), fingerprint(home)
    kernels, numerics = _choose_kernels(placement)
    if placement.dense is Dense.INT8:
        weights = int8_weights(weights, settings.cache_folder() / "int8", identity)
    dtype, triton, on_cpu = _TORCH_DTYPES[placement.dtype], placement.kernels is KernelSet.TRITON, _is_on_cpu(placement)
    model = Transformer(config, weights, kernels, dtype, records=triton and not on_cpu)
    if triton:
        if progress is not None:
            progress("Checking the GPU's kernels, which the first use compiles")
        model.check_kernels()
        if model.overlaps:
            check_overlapped(model)
    elif not on_cpu:
        model.check_device(Transformer(config, load_weights(home, config), reference, dtype))
    return Generator(
        model,
        context_tokens=placement.context_tokens,
        chunk_tokens=chunk_tokens or (_CPU_CHUNK_TOKENS if on_cpu else _GPU_CHUNK_TOKENS),
        numerics=numerics,
        # A GPU reads the first messages faster than a disk gives what it made of them.
        prefixes=_prefix_store(identity, placement, numerics) if on_cpu else None,
    )


def _prefix_store(identity: str, placement: Placement, numerics: Numerics) -> PrefixStore:
    key = f"{__version__} {identity} {placement.dtype} {numerics.summary}"
    return PrefixStore(settings.cache_folder() / "prefixes", key)


def _is_on_cpu(placement: Placement) -> bool:
    return placement.device == "cpu"


def _choose_kernels(placement: Placement) -> tuple[Kernels, Numerics]:
    """Return the kernels of a placement, and the numerics to report. Sets torch's number of threads."""
    found = find_kernels(placement.activations, placement.threads) if placement.kernels is KernelSet.NATIVE else None
    if isinstance(found, CpuKernels):
        used = Dtype.FLOAT32 if placement.dtype is Dtype.FLOAT32 else placement.activations
        return found, Numerics(found.native.instructions, used, placement.dense, found.threads)
    if placement.threads is not None:
        torch.set_num_threads(placement.threads)
    numerics = Numerics(placement.kernels, placement.dtype, placement.dense, torch.get_num_threads())
    if placement.kernels is KernelSet.TRITON:
        # Triton is installed only where there is an NVIDIA GPU.
        from gptoss_cli.engine.kernels.cuda import CudaKernels, tuning_for

        capability = None if _is_on_cpu(placement) else torch.cuda.get_device_capability(placement.device)
        return CudaKernels(tuning_for(capability)), replace(numerics, dense=Dense.BF16)
    return reference, replace(numerics, kernels="reference", shortcoming=found)
