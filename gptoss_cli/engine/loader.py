"""Loading: from a checkpoint and a placement to a generator whose kernels have been checked."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from gptoss_cli import __version__
from gptoss_cli.cache_files import KV_LIMIT_BYTES, int8_folder, kv_folder
from gptoss_cli.checkpoint.folder import fingerprint, weights_folder
from gptoss_cli.engine.device_errors import device_errors
from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.kernel_compilation import compile_kernels
from gptoss_cli.engine.kernels import reference
from gptoss_cli.engine.kernels.cpu import CpuKernels, default_threads, find_kernels
from gptoss_cli.engine.kernels.native_library import VARIABLE, MappedFile, Native, chosen_instructions, find_library
from gptoss_cli.engine.kernels.protocol import Kernels
from gptoss_cli.engine.kernels.tuning import tuning_of
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.prefix_cache import PrefixCache
from gptoss_cli.engine.quantize import int8_weights
from gptoss_cli.engine.random_weights import random_weights
from gptoss_cli.engine.selfcheck import check_device, check_kernels, check_overlapped
from gptoss_cli.engine.weights import ModelWeights, load_weights
from gptoss_cli.errors import Hint, IntegrityError, UsageError
from gptoss_cli.generation import Numerics
from gptoss_cli.placement.model_config import ModelConfig, load_config
from gptoss_cli.placement.placement import KernelSet, Placement
from gptoss_cli.settings import Dense, Dtype, Execution
from gptoss_cli.terminal_modes import TerminalModes

_TORCH_DTYPES = {Dtype.FLOAT32: torch.float32, Dtype.BFLOAT16: torch.bfloat16}
_CPU_CHUNK_TOKENS, _GPU_CHUNK_TOKENS = 512, 2048


def load(
    folder: Path,
    placement: Placement,
    *,
    progress: Callable[[str], None] | None = None,
    notice: Callable[[str], None] | None = None,
    chunk_tokens: int | None = None,
    kv_limit_bytes: int = KV_LIMIT_BYTES,
) -> Generator:
    """Load the checkpoint in `folder`, or in its `original` folder, and place its weights as `placement` says.

    On the CPU they are mapped files. 8-bit dense weights are converted first, unless their cache exists. The number of
    threads applies to the whole process. `progress` is called with a line before a step that takes long, and `notice`
    with one about a file that was damaged and is made again, or about host memory that could not be pinned. A prefill
    reads `chunk_tokens` at once. KV caches on disk use at most `kv_limit_bytes`; 0 neither reads nor writes any.

    Raises NotInstalledError, IntegrityError or ResourceError if something is wrong with the files or the device, and
    UsageError if the context is larger than the model's.
    """
    home = weights_folder(folder)
    config = load_config(home / "config.json")
    _check_context(config, placement)
    weights, identity = load_weights(home, config, placement, notice=notice), fingerprint(home)
    kernels, numerics = choose_kernels(placement)
    if placement.dense is Dense.INT8:
        weights = int8_weights(weights, int8_folder(), identity, notice=notice)
    model = _model(config, weights, kernels, placement)
    if placement.kernels is KernelSet.REFERENCE and placement.device != "cpu":
        check_device(model, Transformer(config, load_weights(home, config), reference, model.dtype))
    stored = _prefix_cache(identity, placement, numerics, kv_limit_bytes, notice)
    return _generator(model, placement, numerics, progress, chunk_tokens=chunk_tokens, prefix_cache=stored)


def load_random(
    config: ModelConfig,
    placement: Placement,
    *,
    progress: Callable[[str], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Generator:
    """Make random weights for `config` and place them as `placement` says. No file is read or written.

    `progress` and `notice` are those of `load`. Raises ResourceError if something is wrong with the device, or if there
    is too little memory, and UsageError if the context is larger than the model's.
    """
    _check_context(config, placement)
    with device_errors():
        weights = random_weights(config, placement, notice=notice)
    kernels, numerics = choose_kernels(placement)
    return _generator(_model(config, weights, kernels, placement), placement, numerics, progress)


def _check_context(config: ModelConfig, placement: Placement) -> None:
    if not 2 <= placement.context_tokens <= config.max_context_tokens:
        raise UsageError(
            f"The context must be 2 to {config.max_context_tokens} tokens, not {placement.context_tokens}",
            Hint.VALID_CONTEXT,
        )


def _model(config: ModelConfig, weights: ModelWeights, kernels: Kernels, placement: Placement) -> Transformer:
    graph = placement.kernels is KernelSet.TRITON and placement.device != "cpu"
    return Transformer(config, weights, kernels, _TORCH_DTYPES[placement.dtype], use_cuda_graph=graph)


def _generator(
    model: Transformer,
    placement: Placement,
    numerics: Numerics,
    progress: Callable[[str], None] | None,
    *,
    chunk_tokens: int | None = None,
    prefix_cache: PrefixCache | None = None,
) -> Generator:
    default = _CPU_CHUNK_TOKENS if placement.device == "cpu" else _GPU_CHUNK_TOKENS
    # A CUDA graph needs nothing from the host: it reads what is in host memory by itself.
    overlapped = model.use_cuda_graph
    if placement.kernels is KernelSet.TRITON:
        compile_kernels(model, context_tokens=placement.context_tokens, progress=progress)
        _check_triton(model, overlapped, progress)
    return Generator(
        model,
        context_tokens=placement.context_tokens,
        chunk_tokens=chunk_tokens or placement.chunk_tokens or default,
        overlapped=overlapped,
        numerics=numerics,
        prefix_cache=prefix_cache,
    )


def end_at_lost_page(line: Callable[[str], str], terminal: TerminalModes | None) -> None:
    """End the process, with IntegrityError's status, when a mapped file becomes shorter while it is read.

    `line` returns what is then written to stderr about a file; the modes of `terminal` are restored. Call it again when
    other files are mapped. Does nothing on systems where the library cannot, and without the library.
    """
    path = find_library()
    if path is None:
        return
    with suppress(OSError):
        native = Native(path)
        if terminal is not None:
            native.restore_at_end(terminal.handle, terminal.flags, terminal.characters)
        files = [MappedFile(start, end, line(name).encode()) for start, end, name in _mapped_checkpoints()]
        native.end_at_lost_page(line("A file").encode(), files, IntegrityError.exit_status)


def _mapped_checkpoints() -> Iterator[tuple[int, int, str]]:
    """Yield the addresses and the path of each mapped safetensors file, as far as Linux tells."""
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for mapping in maps:
            addresses, *_, name = mapping.rstrip("\n").split(maxsplit=5)
            if name.endswith(".safetensors"):
                start, _, end = addresses.partition("-")
                yield int(start, 16), int(end, 16), name


def _check_triton(model: Transformer, overlapped: bool, progress: Callable[[str], None] | None) -> None:
    if progress is not None:
        progress("Checking the GPU's kernels")
    check_kernels(model)
    if overlapped:
        check_overlapped(model)


def _prefix_cache(
    identity: str, placement: Placement, numerics: Numerics, limit_bytes: int, notice: Callable[[str], None] | None
) -> PrefixCache | None:
    # A GPU that holds all weights computes a prompt about as fast as a disk returns it.
    if limit_bytes == 0 or placement.execution is Execution.MXFP4:
        return None
    key = f"{__version__} {identity} {placement.dtype} {placement.device} {numerics.summary}"
    return PrefixCache(kv_folder(), key, limit_bytes=limit_bytes, notice=notice)


def choose_kernels(placement: Placement) -> tuple[Kernels, Numerics]:
    """Return the kernels of a placement, and the numerics to report. Sets torch's number of threads."""
    found = find_kernels(placement.activations, placement.threads) if placement.kernels is KernelSet.NATIVE else None
    if isinstance(found, CpuKernels):
        used = Dtype.FLOAT32 if placement.dtype is Dtype.FLOAT32 else placement.activations
        return found, Numerics(
            found.native.instructions,
            used,
            placement.dense,
            found.threads,
            shortcoming=found.shortcoming,
            chosen_by=VARIABLE if chosen_instructions() else None,
        )
    torch.set_num_threads(placement.threads or default_threads())
    numerics = Numerics(placement.kernels, placement.dtype, placement.dense, torch.get_num_threads())
    if placement.kernels is KernelSet.TRITON:
        # Imported here because triton is an optional package: it is only installed for NVIDIA GPUs.
        from gptoss_cli.engine.kernels.cuda import CudaKernels

        return CudaKernels(tuning_of(placement.device)), replace(numerics, dense=Dense.BF16)
    return reference, replace(numerics, kernels="reference", shortcoming=found)
