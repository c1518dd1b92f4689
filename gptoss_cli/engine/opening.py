"""Makes a model of a checkpoint on disk: its weights where they are wanted, and the best operations, checked."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from gptoss_cli import settings
from gptoss_cli.checkpoint.folder import fingerprint
from gptoss_cli.engine.ahead import check_ahead
from gptoss_cli.engine.config import ModelConfig
from gptoss_cli.engine.int8 import int8_weights
from gptoss_cli.engine.interface import Numerics
from gptoss_cli.engine.kernels import Kernels, reference
from gptoss_cli.engine.kernels.cpu import CpuKernels, find_kernels
from gptoss_cli.engine.model import Model
from gptoss_cli.engine.residence import Residence
from gptoss_cli.engine.weights import load_weights
from gptoss_cli.settings import Activations, Dense, Dtype

_TORCH_DTYPES = {Dtype.FLOAT32: torch.float32, Dtype.BFLOAT16: torch.bfloat16}


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model that is ready, how it computes, and what tells its checkpoint from others."""

    model: Model
    numerics: Numerics
    identity: str


def open_model(
    home: Path,
    config: ModelConfig,
    *,
    residence: Residence,
    dtype: Dtype,
    dense: Dense,
    activations: Activations,
    threads: int | None,
    say: Callable[[str], None] | None,
) -> OpenModel:
    """The model in the folder `home`. Raises what Generator.open raises for files and devices."""
    weights = load_weights(home, config, residence)
    kernels, numerics = _choose_kernels(residence, dtype, dense, activations, threads)
    identity = fingerprint(home)
    if dense is Dense.INT8:
        weights = int8_weights(weights, settings.cache_folder() / "int8", identity)
    on_cpu, placed = residence.device == "cpu", residence.experts is not None
    model = Model(config, weights, kernels, _TORCH_DTYPES[dtype], records=placed and not on_cpu)
    if placed:
        if say is not None:
            say("Checking the GPU's kernels, which the first use compiles")
        model.check_kernels()
        if model.runs_ahead:
            check_ahead(model)
    elif not on_cpu:
        model.check_device(Model(config, load_weights(home, config), reference, _TORCH_DTYPES[dtype]))
    return OpenModel(model, numerics, identity)


def _choose_kernels(
    residence: Residence, dtype: Dtype, dense: Dense, activations: Activations, threads: int | None
) -> tuple[Kernels, Numerics]:
    """The best operations for a device, and what is to be known of them."""
    found = find_kernels(activations, threads) if residence.device == "cpu" and residence.experts is None else None
    if isinstance(found, CpuKernels):
        used = "float32" if dtype is Dtype.FLOAT32 else activations
        return found, Numerics(found.native.instructions, used, dense, found.threads, found.shortcoming)
    if threads is not None:
        torch.set_num_threads(threads)
    threads = torch.get_num_threads()
    if residence.experts is not None:
        # Triton is there only where a GPU is.
        from gptoss_cli.engine.kernels.cuda import CudaKernels, tuning_for

        capability = None if residence.device == "cpu" else torch.cuda.get_device_capability(residence.device)
        return CudaKernels(tuning_for(capability)), Numerics("triton", dtype, Dense.BF16, threads)
    return reference, Numerics("reference", dtype, dense, threads, shortcoming=found)
