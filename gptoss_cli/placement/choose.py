"""Decides where a model's weights lie and what computes: a pure function of its config, the machine and the wishes.

What a device is reckoned with beyond weights and KV cache is an allowance, not yet a measurement. Imports no torch.
"""

from collections.abc import Iterator
from dataclasses import replace

from gptoss_cli.errors import ResourceError, UsageError
from gptoss_cli.placement.devices import ChosenGpu, choose_gpu
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.memory import ModelMemory, model_memory
from gptoss_cli.placement.model_config import ModelConfig
from gptoss_cli.placement.placement import DecodeBound, KernelSet, MemoryUse, Placement, WeightPlacement
from gptoss_cli.placement.reasons import Code, Reason, gib
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.settings import Activations, Dense, Execution

# The shortest context that is given unasked, and the one that comes before a second thought about speed.
SHORT_CONTEXT_TOKENS = 4_096
USUAL_CONTEXT_TOKENS = 16_384
_CONTEXT_STEP_TOKENS = 256
# CUDA's own context, compiled kernels, and the activations of a prefill chunk.
GPU_WORK_BYTES = 768 << 20
# Two buffers through which prefill streams the experts of host memory.
STAGING_BYTES = 256 << 20
# Python and torch, the attention scores and the dequantized experts of a prefill chunk.
HOST_WORK_BYTES = 1 << 30
# Of Apple's chips by the memory that the GPU may have: the plain one, the Pro, and the Max.
_APPLE_BYTES_PER_SECOND = ((20, 120e9), (40, 270e9), (1 << 20, 400e9))
# The bandwidth that is usual among GPUs of up to so many GiB.
_GPU_BYTES_PER_SECOND = ((10, 250e9), (20, 450e9), (64, 900e9), (1 << 20, 2000e9))


def choose(config: ModelConfig, machine: Hardware, wishes: PlacementRequest | None = None) -> Placement:
    """Where `config` runs best on `machine`, as far as `wishes` leave it open.

    Raises UsageError for a context that the model does not have, ResourceError for a wish that cannot be met, by how
    much, and for a machine that has no room for any context.
    """
    wishes = wishes or PlacementRequest()
    sizes = model_memory(config, wishes.dtype)
    wished, most = wishes.context_tokens, sizes.max_context_tokens
    if wished is not None and not 2 <= wished <= most:
        raise UsageError(f"The context should be 2 to {most:,} tokens for this model, not {wished:,}. Check --context")
    placement = _place(_Demand(sizes, wishes), machine, wishes)
    return replace(
        placement,
        dtype=wishes.dtype,
        activations=wishes.activations,
        threads=wishes.threads,
        reasons=(*_about_memory(machine), *placement.reasons, *_about_numerics(placement, wishes)),
    )


def _about_numerics(placement: Placement, wishes: PlacementRequest) -> Iterator[Reason]:
    """What was wished of the numerics that a GPU does not have."""
    if placement.dense is not wishes.dense:
        text = f"--dense {wishes.dense} is for the CPU: on {placement.device} the dense weights stay {placement.dense}."
        yield Reason(Code.DENSE_ON_GPU, text)
    if placement.execution is not Execution.CPU and wishes.activations is not Activations.INT16:
        text = f"--activations {wishes.activations} is for the CPU: on {placement.device} they stay {wishes.dtype}."
        yield Reason(Code.ACTIVATIONS_ON_GPU, text)


def _about_memory(machine: Hardware) -> list[Reason]:
    if machine.available_bytes is None:
        return [Reason(Code.MEMORY_UNKNOWN, "How much memory is free cannot be told on this system.")]
    if machine.group_limit_bytes is not None:
        limit = gib(machine.group_limit_bytes)
        return [Reason(Code.GROUP_LIMIT, f"The control group limits the memory to {limit}.")]
    return []


class _Demand:
    """What a model takes, given what is wished of its context."""

    def __init__(self, sizes: ModelMemory, wishes: PlacementRequest) -> None:
        self.sizes = sizes
        self.dense = wishes.dense
        self._wished = wishes.context_tokens

    @property
    def host_sizes(self) -> ModelMemory:
        """The sizes where the CPU computes."""
        smaller = self.dense is Dense.INT8
        return replace(self.sizes, dense_bytes=self.sizes.int8_dense_bytes) if smaller else self.sizes

    def at_least(self, tokens: int) -> int:
        """The context that is wished, else `tokens` or all that the model has."""
        return self._wished or min(tokens, self.sizes.max_context_tokens)

    def fitting(self, room_bytes: int) -> int:
        """The longest context in `room_bytes`, the sliding layers' part of it not counted; none longer than wished."""
        most = self.at_least(self.sizes.max_context_tokens)
        if not self.sizes.token_bytes:
            return most
        fitting = max(0, room_bytes) // self.sizes.token_bytes
        return most if fitting >= most else fitting // _CONTEXT_STEP_TOKENS * _CONTEXT_STEP_TOKENS

    def shortened(self, context: int) -> list[Reason]:
        most = self.sizes.max_context_tokens
        if self._wished is not None or context == most:
            return []
        return [Reason(Code.SHORTER_CONTEXT, f"The context is {context:,} of the model's {most:,} tokens: that fits.")]


def _place(demand: _Demand, machine: Hardware, wishes: PlacementRequest) -> Placement:
    if wishes.wants_cpu:
        return _on_host(demand, machine, (Reason(Code.WISHED, "The CPU was asked for."),))
    taken = choose_gpu(machine, wishes)
    if isinstance(taken, Reason):
        return _on_host(demand, machine, (taken,))
    slow = () if taken.slow is None else (taken.slow,)
    placed = _on_gpu(demand, taken, machine, wishes)
    if isinstance(placed, Placement):
        return replace(placed, reasons=(*taken.reasons, *slow, *placed.reasons))
    if wishes.gpu_flag is not None:
        can_offload = wishes.execution is Execution.MXFP4 and taken.slow is None
        way_out = "Use --execution offload" if can_offload else "Use --device cpu"
        raise ResourceError(f"{wishes.gpu_flag} cannot be met. {placed.text} {way_out}, or a smaller --context")
    return _on_host(demand, machine, (*taken.reasons, *dict.fromkeys((*slow, placed))))


def _on_gpu(demand: _Demand, taken: ChosenGpu, machine: Hardware, wishes: PlacementRequest) -> Placement | Reason:
    """Everything on the GPU, or else as much as fits there; or what stands against both."""
    too_small = None
    if wishes.execution is not Execution.OFFLOAD:
        shortest = SHORT_CONTEXT_TOKENS if wishes.execution is Execution.MXFP4 else USUAL_CONTEXT_TOKENS
        placed = _resident(demand, taken, machine, shortest)
        if isinstance(placed, Placement) or wishes.execution is Execution.MXFP4:
            return placed
        too_small = placed
    if taken.slow is not None:
        return too_small or taken.slow
    return _offloaded(demand, taken, machine)


def _resident(demand: _Demand, taken: ChosenGpu, machine: Hardware, shortest: int) -> Placement | Reason:
    """All that a token reads on the GPU, and the embedding too if nothing else gives way to it."""
    sizes, budget = demand.sizes, taken.budget_bytes
    fixed = sizes.dense_bytes + sizes.experts_bytes + sizes.ring_bytes + GPU_WORK_BYTES
    missing = fixed + demand.at_least(shortest) * sizes.token_bytes - budget
    if missing > 0:
        return _gpu_too_small(taken, "all experts", missing)
    context = demand.fitting(budget - fixed)
    on_gpu = MemoryUse(
        dense_bytes=sizes.dense_bytes,
        experts_bytes=sizes.experts_bytes,
        cache_bytes=sizes.cache_bytes(context),
        work_bytes=GPU_WORK_BYTES,
        room_bytes=budget,
    )
    on_host = MemoryUse(work_bytes=HOST_WORK_BYTES, room_bytes=machine.available_bytes)
    reasons = [Reason(Code.FITS_GPU, f"All experts fit on {taken.device}.")]
    embedding = on_gpu.used_bytes + sizes.embedding_bytes <= budget
    if embedding:
        on_gpu = replace(on_gpu, dense_bytes=on_gpu.dense_bytes + sizes.embedding_bytes)
    else:
        on_host = replace(on_host, dense_bytes=sizes.embedding_bytes)
        text = "The embedding stays in host memory: a token reads one row of it."
        reasons.append(Reason(Code.EMBEDDING_ON_HOST, text))
    return Placement(
        execution=Execution.MXFP4,
        device=taken.device,
        context_tokens=context,
        gpu=on_gpu,
        host=on_host,
        experts=sizes.experts,
        gpu_experts=sizes.experts,
        bound=DecodeBound(
            gpu_bytes=sizes.dense_bytes + sizes.active_bytes, gpu_bytes_per_second=_usual_bandwidth(taken)
        ),
        reasons=(*reasons, *demand.shortened(context)),
        weights=WeightPlacement(gpu_experts=sizes.experts, embedding_on_gpu=embedding),
        kernels=KernelSet.REFERENCE if taken.slow else KernelSet.TRITON,
    )


def _offloaded(demand: _Demand, taken: ChosenGpu, machine: Hardware) -> Placement | Reason:
    """A usual context and as many experts on the GPU as fit, the others pinned in host memory."""
    sizes, budget = demand.sizes, taken.budget_bytes
    fixed = sizes.dense_bytes + sizes.ring_bytes + GPU_WORK_BYTES + STAGING_BYTES
    missing = fixed + demand.at_least(SHORT_CONTEXT_TOKENS) * sizes.token_bytes - budget
    if missing > 0:
        return _gpu_too_small(taken, "the dense part", missing)
    context = min(demand.at_least(USUAL_CONTEXT_TOKENS), demand.fitting(budget - fixed))
    slots = (budget - fixed - context * sizes.token_bytes) // sizes.expert_bytes
    resident = min(sizes.experts, slots)
    on_gpu = MemoryUse(
        dense_bytes=sizes.dense_bytes,
        experts_bytes=resident * sizes.expert_bytes,
        cache_bytes=sizes.cache_bytes(context),
        work_bytes=GPU_WORK_BYTES + STAGING_BYTES,
        room_bytes=budget,
    )
    pinned = sizes.experts_bytes - on_gpu.experts_bytes
    available = machine.available_bytes
    if available is not None and pinned + HOST_WORK_BYTES > available:
        missing = pinned + HOST_WORK_BYTES - available
        text = f"The memory is {gib(missing)} short of room for the experts that do not fit on {taken.device}."
        return Reason(Code.HOST_TOO_SMALL, text, missing)
    on_host = MemoryUse(
        dense_bytes=sizes.embedding_bytes, experts_bytes=pinned, work_bytes=HOST_WORK_BYTES, room_bytes=available
    )
    link = sizes.active_bytes * (sizes.experts - resident) // sizes.experts
    return Placement(
        execution=Execution.OFFLOAD,
        device=taken.device,
        context_tokens=context,
        gpu=on_gpu,
        host=on_host,
        experts=sizes.experts,
        gpu_experts=resident,
        bound=DecodeBound(
            gpu_bytes=sizes.dense_bytes + sizes.active_bytes - link,
            link_bytes=link,
            gpu_bytes_per_second=_usual_bandwidth(taken),
        ),
        reasons=(
            Reason(
                Code.EXPERTS_ON_HOST,
                f"{resident:,} of {sizes.experts:,} experts fit on {taken.device}; "
                f"the others, {gib(pinned)}, stay in host memory.",
            ),
            *_about_locking(machine, pinned),
            *demand.shortened(context),
        ),
        weights=WeightPlacement(gpu_experts=resident, embedding_on_gpu=False),
        kernels=KernelSet.TRITON,
    )


def _on_host(demand: _Demand, machine: Hardware, why: tuple[Reason, ...]) -> Placement:
    """Mapped weights and the CPU. What does not fit in memory is read from the files again and again."""
    sizes = demand.host_sizes
    context, slow = _host_context(demand, machine.available_bytes)
    share = MemoryUse(
        dense_bytes=sizes.dense_bytes + sizes.embedding_bytes,
        experts_bytes=sizes.experts_bytes,
        cache_bytes=sizes.cache_bytes(context),
        work_bytes=HOST_WORK_BYTES,
        room_bytes=machine.available_bytes,
    )
    return Placement(
        execution=Execution.CPU,
        device="cpu",
        context_tokens=context,
        gpu=None,
        host=share,
        experts=sizes.experts,
        gpu_experts=0,
        bound=DecodeBound(host_bytes=sizes.dense_bytes + sizes.active_bytes),
        dense=demand.dense,
        reasons=(*why, *slow, *demand.shortened(context)),
    )


def _host_context(demand: _Demand, available: int | None) -> tuple[int, list[Reason]]:
    """The context that fits beside the weights; a usual one in any case, since the weights' pages can give way."""
    sizes = demand.host_sizes
    if available is None:
        return demand.at_least(sizes.max_context_tokens), []
    beside = available - HOST_WORK_BYTES - sizes.ring_bytes
    least = demand.at_least(SHORT_CONTEXT_TOKENS)
    missing = least * sizes.token_bytes - beside
    if missing > 0:
        raise ResourceError(
            f"The memory is {gib(missing)} short of a context of {least:,} tokens on the CPU: {gib(available)} are "
            "available. End other programs, or use a smaller --context"
        )
    room = beside - sizes.dense_bytes - sizes.experts_bytes
    usual = min(demand.at_least(USUAL_CONTEXT_TOKENS), demand.fitting(beside))
    context = max(demand.fitting(room), usual)
    missing = context * sizes.token_bytes - room
    if missing <= 0:
        return context, []
    text = f"The weights exceed the memory by {gib(missing)}: they are read from the disk over and over, slowly."
    return context, [Reason(Code.FROM_DISK, text, missing)]


def _about_locking(machine: Hardware, pinned: int) -> list[Reason]:
    lockable = machine.lockable_bytes
    if lockable is None or lockable >= pinned:
        return []
    text = f"Programs may lock {gib(lockable)} of memory here, so pinning experts may fail: raise it with ulimit -l."
    return [Reason(Code.LOCKED_MEMORY, text, pinned - lockable)]


def _gpu_too_small(taken: ChosenGpu, what: str, missing: int) -> Reason:
    text = f"{taken.device} is {gib(missing)} short of room for {what} and a context."
    return Reason(Code.GPU_TOO_SMALL, text, missing)


def _usual_bandwidth(taken: ChosenGpu) -> float:
    usual = _APPLE_BYTES_PER_SECOND if taken.device == "mps" else _GPU_BYTES_PER_SECOND
    return next(speed for size, speed in usual if taken.total_bytes <= size << 30)
