"""Which of a machine's GPUs is taken, how much of it, and what it can run. Pure: every finding is a value."""

from dataclasses import dataclass, replace

from gptoss_cli.errors import ResourceError
from gptoss_cli.placement.hardware import Cuda, Gpu, Hardware
from gptoss_cli.placement.reasons import Code, Reason, gib
from gptoss_cli.placement.request import PlacementRequest

_TRITON_CAPABILITY = (7, 5)
_BUSY_SHARE = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenGpu:
    """A GPU that torch can use. `slow` is why the fast kernels cannot be built for it; `reasons` has all else."""

    device: str
    total_bytes: int
    budget_bytes: int
    slow: Reason | None
    reasons: tuple[Reason, ...]


def choose_gpu(machine: Hardware, wishes: PlacementRequest) -> ChosenGpu | Reason:
    """The GPU that is wished for, else the one with most free memory; or why none can be used.

    Raises ResourceError for a wish that no GPU here can meet.
    """
    if machine.apple_gpu is not None and (wishes.device == "mps" or not machine.gpus):
        return _take_apple_gpu(machine.apple_gpu, wishes)
    unusable = _unusable(machine) if wishes.device != "mps" else Reason(Code.NO_GPU, "There is no Apple GPU.")
    if unusable is not None:
        if wishes.gpu_flag is not None:
            raise ResourceError(f"{wishes.gpu_flag} cannot be met. {unusable.text} Or use --device cpu")
        return unusable
    number = _number(machine.gpus, wishes)
    gpu, device = machine.gpus[number], f"cuda:{number}"
    taken = _taken(gpu, device, wishes, called=device, slow=_slow(machine, gpu))
    if len(machine.gpus) == 1 or wishes.gpu_number is not None:
        return taken
    text = f"Of {len(machine.gpus)} GPUs {device} has the most free memory; a model uses one at most."
    return replace(taken, reasons=(Reason(Code.ROOMIEST_GPU, text), *taken.reasons))


def _take_apple_gpu(gpu: Gpu, wishes: PlacementRequest) -> ChosenGpu:
    """Apple's only GPU. Raises ResourceError if an NVIDIA GPU is wished for."""
    if wishes.device.startswith("cuda"):
        raise ResourceError(f"--device {wishes.device} cannot be met. There is no NVIDIA GPU. Use --device mps")
    slow = "Apple's GPUs run the reference kernels, which dequantize experts for every token, and hold the whole model."
    return _taken(gpu, "mps", wishes, called="the GPU", slow=Reason(Code.APPLE_GPU, slow))


def _taken(gpu: Gpu, device: str, wishes: PlacementRequest, *, called: str, slow: Reason | None) -> ChosenGpu:
    """Raises ResourceError if more is wished for than it has free; texts name it as it is `called`."""
    busy = _busy(gpu, called, wishes)
    return ChosenGpu(
        device=device,
        total_bytes=gpu.total_bytes,
        budget_bytes=_budget(gpu, called, wishes),
        slow=slow,
        reasons=() if busy is None else (busy,),
    )


def _unusable(machine: Hardware) -> Reason | None:
    """Why no GPU at all can be used."""
    match machine.cuda:
        case Cuda.USABLE if machine.gpus:
            return None
        case Cuda.NOT_BUILT:
            build = f"torch {machine.torch or ''}".strip()
            text = f"{build} is a build without CUDA, so the NVIDIA GPU is not used. Install a CUDA build of torch."
            return Reason(Code.TORCH_WITHOUT_CUDA, text)
        case Cuda.FAILS:
            why = machine.cuda_problem or "it does not say why"
            text = f"torch cannot use the NVIDIA GPU ({why}). Update the NVIDIA driver, or torch."
            return Reason(Code.CUDA_FAILS, text)
        case Cuda.HIDDEN:
            return Reason(Code.GPU_HIDDEN, "CUDA_VISIBLE_DEVICES hides the NVIDIA GPU. Unset it to use the GPU.")
    return Reason(Code.NO_GPU, "There is no NVIDIA GPU.")


def _number(gpus: tuple[Gpu, ...], wishes: PlacementRequest) -> int:
    if wishes.gpu_number is None:
        return max(range(len(gpus)), key=lambda number: gpus[number].free_bytes)
    if wishes.gpu_number >= len(gpus):
        there = "cuda:0 is the only GPU" if len(gpus) == 1 else f"the GPUs are cuda:0 to cuda:{len(gpus) - 1}"
        raise ResourceError(f"--device {wishes.device} cannot be met: {there}. Leave it out")
    return wishes.gpu_number


def _budget(gpu: Gpu, device: str, wishes: PlacementRequest) -> int:
    wished = wishes.gpu_memory_bytes
    if wished is None:
        return gpu.free_bytes
    if wished > gpu.free_bytes:
        missing = gib(wished - gpu.free_bytes)
        raise ResourceError(f"--gpu-memory {gib(wished)} is {missing} more than is free on {device}. Ask for less")
    return wished


def _busy(gpu: Gpu, device: str, wishes: PlacementRequest) -> Reason | None:
    """That other programs hold much of it, unless less than what is free was asked for anyway."""
    if gpu.free_bytes >= _BUSY_SHARE * gpu.total_bytes or wishes.gpu_memory_bytes is not None:
        return None
    held = gpu.total_bytes - gpu.free_bytes
    text = f"Other programs hold {gib(held)} of the {gib(gpu.total_bytes)} of {device}. Ending them makes room."
    return Reason(Code.GPU_BUSY, text)


def _slow(machine: Hardware, gpu: Gpu) -> Reason | None:
    """Why only the reference kernels run: slowly, and with everything on the GPU."""
    lost = "Without it models run slowly on the GPU, and only those that fit on it."
    if gpu.capability is not None and gpu.capability < _TRITON_CAPABILITY:
        version = ".".join(map(str, gpu.capability))
        return Reason(Code.OLD_GPU, f"{gpu.name} has compute capability {version}; the fast kernels need 7.5.")
    if not machine.triton:
        return Reason(Code.NO_TRITON, f"Triton is not installed. {lost} Install it with pip.")
    if not machine.compiler:
        text = f"Triton finds no C compiler, or no Python headers. {lost} Install gcc and Python's development files."
        return Reason(Code.NO_COMPILER, text)
    return None
