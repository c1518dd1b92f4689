"""Choose a GPU, how much of its memory to use, and which kernels it can run. Pure: every finding is a value."""

from dataclasses import dataclass, replace

from gptoss_cli.errors import Hint, ResourceError
from gptoss_cli.placement.gpus import Cuda, Gpu
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.reasons import Code, Reason, gib
from gptoss_cli.placement.request import PlacementRequest

_TRITON_CAPABILITY = (7, 5)
# With less of its memory free than this, a GPU is reported as busy.
_BUSY_FRACTION = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenGpu:
    """A GPU that torch can use, and the part of its memory that a model may use.

    `fallback` is the reason for which the reference kernels run on it, None if the Triton kernels do. `reasons` has
    everything else. `bytes_per_second` is the bandwidth of its memory, None if it is unknown. `shares_memory` is true
    if its memory is a part of the host's.
    """

    device: str
    total_bytes: int
    budget_bytes: int
    bytes_per_second: float | None
    shares_memory: bool
    fallback: Reason | None
    reasons: tuple[Reason, ...]


def choose_gpu(hardware: Hardware, request: PlacementRequest) -> ChosenGpu | Reason:
    """Return the requested GPU, else the one with the most free memory; or the reason for which none can be used.

    Raises ResourceError for a request that no GPU of this hardware can satisfy.
    """
    if hardware.apple_gpu is not None and (request.device == "mps" or not hardware.gpus):
        return _choose_apple_gpu(hardware.apple_gpu, request)
    unusable = _why_unusable(hardware) if request.device != "mps" else Reason(Code.NO_GPU, "There is no Apple GPU.")
    if unusable is not None:
        if request.gpu_setting is not None:
            text = unusable.text.removesuffix(".")
            raise ResourceError(f"{request.gpu_setting} is not possible. {text}", Hint.CPU)
        return unusable
    number = _choose_number(hardware.gpus, request)
    gpu, device = hardware.gpus[number], f"cuda:{number}"
    chosen = _chosen(gpu, device, request, called=device, fallback=_why_reference_kernels(hardware, gpu))
    if hardware.rocm is not None:
        text = f"{gpu.name} runs through ROCm {hardware.rocm}, untested: gptoss has never run on an AMD GPU."
        chosen = replace(chosen, reasons=(*chosen.reasons, Reason(Code.ROCM_UNTESTED, text)))
    if len(hardware.gpus) == 1 or request.gpu_number is not None:
        return chosen
    text = f"Of {len(hardware.gpus)} GPUs {device} has the most free memory; a model uses one at most."
    return replace(chosen, reasons=(Reason(Code.ROOMIEST_GPU, text), *chosen.reasons))


def _choose_apple_gpu(gpu: Gpu, request: PlacementRequest) -> ChosenGpu:
    """Return Apple's GPU. Raises ResourceError if an NVIDIA GPU is requested."""
    if request.device.startswith("cuda"):
        message = f"{request.gpu_setting} is not possible. There is no NVIDIA GPU"
        raise ResourceError(message, Hint.APPLE_GPU)
    text = "Apple GPUs run the reference kernels, which dequantize experts for every token, and need the whole model."
    return _chosen(gpu, "mps", request, called="the GPU", fallback=Reason(Code.APPLE_GPU, text))


def _chosen(gpu: Gpu, device: str, request: PlacementRequest, *, called: str, fallback: Reason | None) -> ChosenGpu:
    """Return a GPU with its budget. Messages name it `called`. Raises ResourceError if the budget is not free."""
    busy = _busy(gpu, called, request)
    return ChosenGpu(
        device=device,
        total_bytes=gpu.total_bytes,
        budget_bytes=_budget_bytes(gpu, called, request),
        bytes_per_second=gpu.bytes_per_second,
        shares_memory=gpu.shares_memory,
        fallback=fallback,
        reasons=() if busy is None else (busy,),
    )


def _why_unusable(hardware: Hardware) -> Reason | None:
    """Return the reason for which no GPU of NVIDIA or AMD can be used, None if one can."""
    match hardware.cuda:
        case Cuda.USABLE if hardware.gpus:
            return None
        case Cuda.NOT_BUILT:
            build = f"torch {hardware.torch or ''}".strip()
            text = f"{build} is a build without CUDA, so the NVIDIA GPU is not used. Install a CUDA build of torch."
            return Reason(Code.TORCH_WITHOUT_CUDA, text)
        case Cuda.FAILS:
            cause = hardware.cuda_problem or "unknown cause"
            if hardware.rocm is not None:
                text = f"torch for ROCm cannot use the AMD GPU ({cause}). Update the driver, or torch."
                return Reason(Code.CUDA_FAILS, text)
            text = f"torch cannot use the NVIDIA GPU ({cause}). Update the NVIDIA driver, or torch."
            return Reason(Code.CUDA_FAILS, text)
        case Cuda.HIDDEN:
            return Reason(Code.GPU_HIDDEN, "CUDA_VISIBLE_DEVICES hides the NVIDIA GPU. Unset it to use the GPU.")
    return Reason(Code.NO_GPU, "There is no NVIDIA GPU.")


def _choose_number(gpus: tuple[Gpu, ...], request: PlacementRequest) -> int:
    if request.gpu_number is None:
        return max(range(len(gpus)), key=lambda number: gpus[number].free_bytes)
    if request.gpu_number >= len(gpus):
        present = "cuda:0 is the only GPU" if len(gpus) == 1 else f"the GPUs are cuda:0 to cuda:{len(gpus) - 1}"
        raise ResourceError(f"device {request.device} is not possible: {present}", Hint.ANOTHER_DEVICE)
    return request.gpu_number


def _budget_bytes(gpu: Gpu, called: str, request: PlacementRequest) -> int:
    requested = request.gpu_memory_bytes
    if requested is None:
        return gpu.free_bytes
    if requested > gpu.free_bytes:
        missing = gib(requested - gpu.free_bytes)
        message = f"A GPU memory limit of {gib(requested)} is {missing} more than is free on {called}"
        raise ResourceError(message, Hint.LESS_GPU_MEMORY)
    return requested


def _busy(gpu: Gpu, called: str, request: PlacementRequest) -> Reason | None:
    """Return a reason if other programs use much of the GPU, unless the request limits its memory anyway."""
    if gpu.shares_memory or gpu.free_bytes >= _BUSY_FRACTION * gpu.total_bytes or request.gpu_memory_bytes is not None:
        return None
    used = gib(gpu.total_bytes - gpu.free_bytes)
    text = f"Other programs use {used} of the {gib(gpu.total_bytes)} of {called}. End them to free it."
    return Reason(Code.GPU_BUSY, text)


def _why_reference_kernels(hardware: Hardware, gpu: Gpu) -> Reason | None:
    """Return the reason for which the Triton kernels cannot run: models are slow then and must fit on the GPU."""
    effect = "Without it models run slowly on the GPU, and only those that fit on it."
    if gpu.capability is not None and gpu.capability < _TRITON_CAPABILITY:
        version = ".".join(map(str, gpu.capability))
        return Reason(Code.OLD_GPU, f"{gpu.name} has compute capability {version}; the Triton kernels need 7.5.")
    if not hardware.triton:
        return Reason(Code.NO_TRITON, f"Triton is not installed. {effect} Install it with pip.")
    if not hardware.compiler:
        text = f"Triton finds no C compiler or no Python headers. {effect} Install gcc and Python's development files."
        return Reason(Code.NO_COMPILER, text)
    return None
