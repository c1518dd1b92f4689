"""Choose where a model's weights lie and what computes: a pure function of its config, the hardware and the request.

Memory for anything other than weights and KV cache is an estimate, not a measurement.
"""

from collections.abc import Iterator
from dataclasses import replace

from gptoss_cli.errors import Hint, ResourceError, UsageError
from gptoss_cli.placement.devices import ChosenGpu, choose_gpu
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.memory import STAGING_BYTES, ModelMemory, model_memory
from gptoss_cli.placement.model_config import ModelConfig
from gptoss_cli.placement.placement import DecodeBound, KernelSet, MemoryUse, Placement, WeightPlacement
from gptoss_cli.placement.reasons import Code, Reason, gib
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.settings import Activations, Dense, Execution

# Without a request: the shortest context, and one that is worth more than having all experts on the GPU.
_SHORT_CONTEXT_TOKENS = 4_096
_USUAL_CONTEXT_TOKENS = 16_384
_CONTEXT_STEP_TOKENS = 256
# CUDA's own context, compiled kernels and the work memory of libraries; the same with a chunk of 2,048 tokens.
GPU_FIXED_BYTES = 458 << 20
GPU_WORK_BYTES = 768 << 20
# Tokens of a prompt that a GPU reads at once, if its memory has at least so many bytes per second. Larger chunks give
# each expert more tokens. But a prompt can only be stopped between two chunks, which should take less than a second.
_CHUNKS = ((8_192, 1_200e9), (4_096, 600e9), (2_048, 0))
# Python and torch, the attention scores and the dequantized experts of a prefill chunk.
_HOST_WORK_BYTES = 1 << 30
# Assumed bandwidth for GPUs of up to so many GiB, where the driver does not tell. Apple: the plain chips, Pro and Max.
# Others: RTX 2080; 4080; 4090; 5090; the A100 and H100 of 80 GiB; H200.
_APPLE_BYTES_PER_SECOND = ((20, 120e9), (40, 270e9), (1 << 20, 400e9))
_SHARED_BYTES_PER_SECOND = 256e9  # eight channels of LPDDR5X-8000, 32 bits each
_GPU_BYTES_PER_SECOND = ((10, 450e9), (20, 720e9), (26, 1000e9), (36, 1800e9), (100, 3350e9), (1 << 20, 4800e9))


def choose(config: ModelConfig, hardware: Hardware, request: PlacementRequest | None = None) -> Placement:
    """Return the best placement of `config` on `hardware` that satisfies `request`.

    Raises UsageError for a context length that the model does not have. Raises ResourceError for a request that the
    hardware cannot satisfy, with the bytes that are missing, and if there is no memory for any context.
    """
    request = request or PlacementRequest()
    memory = model_memory(config, request.dtype)
    tokens, limit = request.context_tokens, memory.max_context_tokens
    if tokens is not None and not 2 <= tokens <= limit:
        message = f"The context should be 2 to {limit:,} tokens for this model, not {tokens:,}"
        raise UsageError(message, Hint.VALID_CONTEXT)
    placement = _choose_device(_Requirements(memory, request), hardware, request)
    return replace(
        placement,
        dtype=request.dtype,
        activations=request.activations,
        threads=request.threads,
        reasons=(*_memory_reasons(hardware), *placement.reasons, *_ignored_settings(placement, request)),
    )


def _memory_reasons(hardware: Hardware) -> Iterator[Reason]:
    if hardware.available_bytes is None:
        yield Reason(Code.MEMORY_UNKNOWN, "The amount of free memory is unknown on this system.")
    elif hardware.group_limit_bytes is not None:
        limit = gib(hardware.group_limit_bytes)
        yield Reason(Code.GROUP_LIMIT, f"The control group limits the memory to {limit}.")
    if hardware.reserved_bytes and hardware.available_bytes is not None:
        total = hardware.available_bytes + hardware.reserved_bytes
        text = f"The operating system is assumed to use {gib(hardware.reserved_bytes)} of the {gib(total)} of memory."
        yield Reason(Code.MEMORY_RESERVED, text)


def _ignored_settings(placement: Placement, request: PlacementRequest) -> Iterator[Reason]:
    """Yield a reason for each requested setting that has no effect on a GPU."""
    device = placement.device
    if placement.dense is not request.dense:
        text = f"Dense weights in {request.dense} are for the CPU: on {device} they stay {placement.dense}."
        yield Reason(Code.DENSE_ON_GPU, text)
    if placement.sequences < request.sequences:
        text = f"On {device} one conversation at a time is cached: the next one is read from its beginning."
        yield Reason(Code.ONE_SEQUENCE_ON_GPU, text)
    if placement.execution is not Execution.CPU and request.activations is not Activations.INT16:
        text = f"Activations in {request.activations} are for the CPU: on {device} they stay {request.dtype}."
        yield Reason(Code.ACTIVATIONS_ON_GPU, text)


class _Requirements:
    """The memory of a model, and the context lengths that it can have under a request."""

    def __init__(self, memory: ModelMemory, request: PlacementRequest) -> None:
        self.memory = memory
        self.dense = request.dense
        self.sequences = request.sequences
        self._requested_tokens = request.context_tokens

    @property
    def cpu_memory(self) -> ModelMemory:
        """The memory if the CPU computes, which may have dense weights of 8 bits, and more than one KV cache."""
        memory = self.memory
        return replace(
            memory,
            dense_bytes=memory.int8_dense_bytes if self.dense is Dense.INT8 else memory.dense_bytes,
            token_bytes=memory.token_bytes * self.sequences,
            ring_bytes=memory.ring_bytes * self.sequences,
        )

    def least_context(self, tokens: int) -> int:
        """Return the requested context, else `tokens`, or all that the model has if that is fewer."""
        return self._requested_tokens or min(tokens, self.memory.max_context_tokens)

    def longest_context(self, room_bytes: int, memory: ModelMemory | None = None) -> int:
        """Return the longest context up to the requested one whose full-attention layers need at most `room_bytes`.

        `memory` is that of the GPU by default.
        """
        token_bytes = (memory or self.memory).token_bytes
        limit = self.least_context(self.memory.max_context_tokens)
        if not token_bytes:
            return limit
        tokens = max(0, room_bytes) // token_bytes
        return limit if tokens >= limit else tokens // _CONTEXT_STEP_TOKENS * _CONTEXT_STEP_TOKENS

    def shortened(self, context: int) -> tuple[Reason, ...]:
        """Return a reason if `context` is neither the requested one nor all that the model has."""
        limit = self.memory.max_context_tokens
        if self._requested_tokens is not None or context == limit:
            return ()
        text = f"The context is {context:,} of the model's {limit:,} tokens, which is what fits."
        return (Reason(Code.SHORTER_CONTEXT, text),)


def _choose_device(needs: _Requirements, hardware: Hardware, request: PlacementRequest) -> Placement:
    if request.requires_cpu:
        return _on_cpu(needs, hardware, (Reason(Code.CPU_REQUESTED, "The CPU was requested."),))
    gpu = choose_gpu(hardware, request)
    if isinstance(gpu, Reason):
        return _on_cpu(needs, hardware, (gpu,))
    fallback = () if gpu.fallback is None else (gpu.fallback,)
    placement = _on_gpu(needs, gpu, hardware, request)
    if isinstance(placement, Placement):
        return replace(placement, reasons=(*gpu.reasons, *fallback, *placement.reasons))
    obstacle = placement
    if request.gpu_setting is not None:
        can_offload = request.execution is Execution.MXFP4 and gpu.fallback is None
        message = f"{request.gpu_setting} is not possible. {obstacle.text.removesuffix('.')}"
        raise ResourceError(message, Hint.OFFLOAD if can_offload else Hint.CPU, Hint.SMALLER_CONTEXT)
    return _on_cpu(needs, hardware, (*gpu.reasons, *dict.fromkeys((*fallback, obstacle))))


def _on_gpu(needs: _Requirements, gpu: ChosenGpu, hardware: Hardware, request: PlacementRequest) -> Placement | Reason:
    """Put all weights on the GPU, else as many experts as fit. Returns a Reason if neither is possible."""
    too_small = None
    if request.execution is not Execution.OFFLOAD:
        least_tokens = _SHORT_CONTEXT_TOKENS if request.execution is Execution.MXFP4 else _USUAL_CONTEXT_TOKENS
        placement = _with_all_experts(needs, gpu, hardware, least_tokens)
        if isinstance(placement, Placement) or request.execution is Execution.MXFP4:
            return placement
        too_small = placement
    if gpu.fallback is not None:
        return too_small or gpu.fallback
    return _with_offloaded_experts(needs, gpu, hardware)


def _with_all_experts(
    needs: _Requirements, gpu: ChosenGpu, hardware: Hardware, least_tokens: int
) -> Placement | Reason:
    """Put all that a token reads on the GPU, and the embedding too if the context need not be shorter for it."""
    memory, budget = needs.memory, gpu.budget_bytes
    chunk, work_bytes, smaller = _chunk(needs, gpu)
    fixed = memory.dense_bytes + memory.experts_bytes + memory.ring_bytes + work_bytes
    missing = fixed + needs.least_context(least_tokens) * memory.token_bytes - budget
    if missing > 0:
        return _gpu_too_small(gpu, "all experts", missing)
    context = needs.longest_context(budget - fixed)
    gpu_use = MemoryUse(
        dense_bytes=memory.dense_bytes,
        experts_bytes=memory.experts_bytes,
        cache_bytes=memory.cache_bytes(context),
        work_bytes=work_bytes,
        room_bytes=budget,
    )
    embedding_fits = gpu_use.used_bytes + memory.embedding_bytes <= budget
    if embedding_fits:
        gpu_use = replace(gpu_use, dense_bytes=gpu_use.dense_bytes + memory.embedding_bytes)
    host_use = MemoryUse(
        dense_bytes=0 if embedding_fits else memory.embedding_bytes,
        work_bytes=_HOST_WORK_BYTES,
        room_bytes=_host_room(gpu, gpu_use, hardware),
    )
    reasons = [Reason(Code.FITS_GPU, f"All experts fit on {gpu.device}.")]
    missing = _missing(host_use)
    if missing:
        text = f"Host memory lacks {gib(missing)} for the program itself, which the system may end."
        reasons.append(Reason(Code.HOST_TOO_SMALL, text, missing))
    if not embedding_fits:
        text = "The embedding stays in host memory: a token reads one row of it."
        reasons.append(Reason(Code.EMBEDDING_ON_HOST, text))
    return Placement(
        execution=Execution.MXFP4,
        device=gpu.device,
        context_tokens=context,
        gpu=gpu_use,
        host=host_use,
        experts=memory.experts,
        gpu_experts=memory.experts,
        bound=DecodeBound(
            gpu_bytes=memory.dense_bytes + memory.active_bytes, gpu_bytes_per_second=_assumed_bandwidth(gpu)
        ),
        reasons=(*reasons, *needs.shortened(context), *smaller),
        weights=WeightPlacement(gpu_experts=memory.experts, embedding_on_gpu=embedding_fits),
        chunk_tokens=chunk,
        kernels=KernelSet.REFERENCE if gpu.fallback else KernelSet.TRITON,
    )


def _chunk(needs: _Requirements, gpu: ChosenGpu) -> tuple[int, int, tuple[Reason, ...]]:
    """Return the largest chunk that costs neither context nor the embedding's place, and the memory to work with it.

    The reason, if there is one, says that memory for a larger chunk is lacking.
    """
    least = _CHUNKS[-1][0]
    if gpu.fallback is not None:
        return least, GPU_WORK_BYTES, ()
    memory, bandwidth = needs.memory, _assumed_bandwidth(gpu)
    weights = memory.dense_bytes + memory.experts_bytes + memory.ring_bytes

    def left_by(chunk: int) -> tuple[int, bool]:
        room = gpu.budget_bytes - weights - _work_bytes(memory, chunk)
        context = needs.longest_context(room)
        return context, room - context * memory.token_bytes >= memory.embedding_bytes

    possible = [chunk for chunk, needed in _CHUNKS if bandwidth >= needed]
    chunk = next(chunk for chunk in possible if left_by(chunk) == left_by(least))
    text = f"A prompt is read {chunk:,} tokens at a time: {possible[0]:,} would take memory that the model needs."
    smaller = (Reason(Code.SMALLER_CHUNK, text),) if chunk < possible[0] else ()
    return chunk, _work_bytes(memory, chunk), smaller


def _work_bytes(memory: ModelMemory, chunk_tokens: int) -> int:
    return GPU_FIXED_BYTES + chunk_tokens * memory.chunk_token_bytes


def _with_offloaded_experts(needs: _Requirements, gpu: ChosenGpu, hardware: Hardware) -> Placement | Reason:
    """Put a usual context and as many experts as fit on the GPU; the other experts are pinned in host memory."""
    memory, budget = needs.memory, gpu.budget_bytes
    fixed = memory.dense_bytes + memory.ring_bytes + GPU_WORK_BYTES + STAGING_BYTES
    missing = fixed + needs.least_context(_SHORT_CONTEXT_TOKENS) * memory.token_bytes - budget
    if missing > 0:
        return _gpu_too_small(gpu, "the dense weights", missing)
    context = min(needs.least_context(_USUAL_CONTEXT_TOKENS), needs.longest_context(budget - fixed))
    room_bytes = budget - fixed - context * memory.token_bytes
    gpu_experts = min(memory.experts, room_bytes // memory.expert_bytes)
    gpu_use = MemoryUse(
        dense_bytes=memory.dense_bytes,
        experts_bytes=gpu_experts * memory.expert_bytes,
        cache_bytes=memory.cache_bytes(context),
        work_bytes=GPU_WORK_BYTES + STAGING_BYTES,
        room_bytes=budget,
    )
    host_use = MemoryUse(
        dense_bytes=memory.embedding_bytes,
        experts_bytes=memory.experts_bytes,
        work_bytes=_HOST_WORK_BYTES,
        room_bytes=_host_room(gpu, gpu_use, hardware),
    )
    lacking = _missing(host_use)
    if lacking:
        host_use = replace(host_use, experts_bytes=memory.experts_bytes - gpu_use.experts_bytes)
    if missing := _missing(host_use):
        text = f"Host memory lacks {gib(missing)} for the experts that do not fit on {gpu.device}."
        return Reason(Code.HOST_TOO_SMALL, text, missing)
    # If all experts are used alike. A real model repeats itself, so that the GPU holds more of those that it needs.
    link_bytes = memory.active_bytes * (memory.experts - gpu_experts) // memory.experts
    return Placement(
        execution=Execution.OFFLOAD,
        device=gpu.device,
        context_tokens=context,
        gpu=gpu_use,
        host=host_use,
        experts=memory.experts,
        gpu_experts=gpu_experts,
        bound=DecodeBound(
            gpu_bytes=memory.dense_bytes + memory.active_bytes - link_bytes,
            link_bytes=link_bytes,
            gpu_bytes_per_second=_assumed_bandwidth(gpu),
        ),
        reasons=(*_offload_reasons(memory, gpu, gpu_experts, lacking), *needs.shortened(context)),
        weights=WeightPlacement(gpu_experts=gpu_experts, embedding_on_gpu=False, host_keeps_all=not lacking),
        kernels=KernelSet.TRITON,
    )


def _missing(use: MemoryUse) -> int:
    """Return the bytes that a memory lacks, 0 if its room is unknown."""
    return 0 if use.room_bytes is None else max(0, use.used_bytes - use.room_bytes)


def _offload_reasons(memory: ModelMemory, gpu: ChosenGpu, gpu_experts: int, lacking: int) -> Iterator[Reason]:
    """Explain which experts are where; host memory lacks `lacking` bytes to keep all of them."""
    fit = f"{gpu_experts:,} of {memory.experts:,} experts fit on {gpu.device}"
    if not lacking:
        text = f"{fit}, which holds those used last; host memory keeps all, {gib(memory.experts_bytes)}."
        yield Reason(Code.EXPERTS_ON_HOST, text)
        return
    pinned_bytes = (memory.experts - gpu_experts) * memory.expert_bytes
    yield Reason(Code.EXPERTS_ON_HOST, f"{fit}; the others, {gib(pinned_bytes)}, stay in host memory.")
    text = (
        f"Host memory lacks {gib(lacking)} to keep all experts: {gpu.device} always holds the same ones, not the last."
    )
    yield Reason(Code.EXPERTS_FIXED, text, lacking)


def _with_embedding(host_use: MemoryUse, memory: ModelMemory) -> tuple[MemoryUse, tuple[Reason, ...]]:
    """Add the embedding, which is mapped from its file, to `host_use` if there is room; else return a reason too."""
    use, size = replace(host_use, dense_bytes=host_use.dense_bytes + memory.embedding_bytes), memory.embedding_bytes
    if not _missing(use):
        return use, ()
    text = f"The embedding, {gib(size)}, is not counted: it may stay on the disk, since a token reads one row of it."
    return host_use, (Reason(Code.EMBEDDING_ON_DISK, text),)


def _on_cpu(needs: _Requirements, hardware: Hardware, why: tuple[Reason, ...]) -> Placement:
    """Map the weights and compute on the CPU. Weights that do not fit in memory are read from the files every time."""
    memory = needs.cpu_memory
    context, slow = _cpu_context(needs, hardware.available_bytes)
    host_use = MemoryUse(
        dense_bytes=memory.dense_bytes,
        experts_bytes=memory.experts_bytes,
        cache_bytes=memory.cache_bytes(context),
        work_bytes=_HOST_WORK_BYTES,
        room_bytes=hardware.available_bytes,
    )
    host_use, on_disk = _with_embedding(host_use, memory)
    return Placement(
        execution=Execution.CPU,
        device="cpu",
        context_tokens=context,
        gpu=None,
        host=host_use,
        experts=memory.experts,
        gpu_experts=0,
        bound=DecodeBound(host_bytes=memory.dense_bytes + memory.active_bytes),
        dense=needs.dense,
        sequences=needs.sequences,
        reasons=(*why, *slow, *on_disk, *needs.shortened(context), *_cached_sequences(needs.sequences, host_use)),
    )


def _cached_sequences(count: int, use: MemoryUse) -> Iterator[Reason]:
    if count > 1:
        text = f"{count} KV caches take {gib(use.cache_bytes)} when all of them are full; they grow as they are needed."
        yield Reason(Code.SEQUENCES, text)


def _cpu_context(needs: _Requirements, available: int | None) -> tuple[int, tuple[Reason, ...]]:
    """Return the context that fits beside the weights, but at least a usual one, since mapped weights can be dropped.

    The reason, if there is one, says that weights are read from the disk again and again. Raises ResourceError.
    """
    memory = needs.cpu_memory
    if available is None:
        return needs.least_context(memory.max_context_tokens), ()
    cache_room = available - _HOST_WORK_BYTES - memory.ring_bytes
    least = needs.least_context(_SHORT_CONTEXT_TOKENS)
    missing = least * memory.token_bytes - cache_room
    if missing > 0:
        raise ResourceError(
            f"Host memory lacks {gib(missing)} for a context of {least:,} tokens on the CPU: "
            f"{gib(available)} are available",
            Hint.FREE_MEMORY,
            Hint.SMALLER_CONTEXT,
        )
    room_beside_weights = cache_room - memory.dense_bytes - memory.experts_bytes
    usual = min(needs.least_context(_USUAL_CONTEXT_TOKENS), needs.longest_context(cache_room, memory))
    context = max(needs.longest_context(room_beside_weights, memory), usual)
    missing = context * memory.token_bytes - room_beside_weights
    if missing <= 0:
        return context, ()
    text = f"The weights exceed the memory by {gib(missing)}: some are read from the disk for every token, slowly."
    return context, (Reason(Code.FROM_DISK, text, missing),)


def _gpu_too_small(gpu: ChosenGpu, part: str, missing: int) -> Reason:
    return Reason(Code.GPU_TOO_SMALL, f"{gpu.device} lacks {gib(missing)} for {part} and a context.", missing)


def _host_room(gpu: ChosenGpu, gpu_use: MemoryUse, hardware: Hardware) -> int | None:
    """Return the host memory that is available beside `gpu_use`, which is a part of it on some machines."""
    if hardware.available_bytes is None or not gpu.shares_memory:
        return hardware.available_bytes
    return max(0, hardware.available_bytes - gpu_use.used_bytes)


def _assumed_bandwidth(gpu: ChosenGpu) -> float:
    if gpu.bytes_per_second is not None:
        return gpu.bytes_per_second
    if gpu.shares_memory:
        return _SHARED_BYTES_PER_SECOND
    table = _APPLE_BYTES_PER_SECOND if gpu.device == "mps" else _GPU_BYTES_PER_SECOND
    return next(bytes_per_second for gibibytes, bytes_per_second in table if gpu.total_bytes <= gibibytes << 30)
