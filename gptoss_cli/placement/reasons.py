"""Reasons for a placement, as data: a closed set of codes, each with a text and the bytes that are missing."""

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """Every kind of reason that a placement can have. The values are part of the JSON output."""

    NO_GPU = "no-gpu"
    GPU_HIDDEN = "gpu-hidden"
    TORCH_WITHOUT_CUDA = "torch-without-cuda"
    CUDA_FAILS = "cuda-fails"
    NO_TRITON = "no-triton"
    NO_COMPILER = "no-compiler"
    OLD_GPU = "old-gpu"
    APPLE_GPU = "apple-gpu"
    CPU_REQUESTED = "wished"
    ROCM_UNTESTED = "rocm-untested"
    ROOMIEST_GPU = "roomiest-gpu"
    GPU_BUSY = "gpu-busy"
    FITS_GPU = "fits-gpu"
    EMBEDDING_ON_HOST = "embedding-on-host"
    EMBEDDING_ON_DISK = "embedding-on-disk"
    EXPERTS_ON_HOST = "experts-on-host"
    EXPERTS_FIXED = "experts-fixed"
    GPU_TOO_SMALL = "gpu-too-small"
    HOST_TOO_SMALL = "host-too-small"
    SHORTER_CONTEXT = "shorter-context"
    SMALLER_CHUNK = "smaller-chunk"
    FROM_DISK = "from-disk"
    GROUP_LIMIT = "group-limit"
    MEMORY_RESERVED = "memory-reserved"
    MEMORY_UNKNOWN = "memory-unknown"
    DENSE_ON_GPU = "dense-on-gpu"
    ACTIVATIONS_ON_GPU = "activations-on-gpu"
    SEQUENCES = "sequences"
    ONE_SEQUENCE_ON_GPU = "one-sequence-on-gpu"


# These only explain. All others mean that the model runs worse than it could, and are warnings.
_EXPLANATIONS = frozenset(
    {
        Code.NO_GPU,
        Code.APPLE_GPU,
        Code.CPU_REQUESTED,
        Code.ROOMIEST_GPU,
        Code.FITS_GPU,
        Code.EMBEDDING_ON_HOST,
        Code.EMBEDDING_ON_DISK,
        Code.EXPERTS_ON_HOST,
        Code.SHORTER_CONTEXT,
        Code.SMALLER_CHUNK,
        Code.GROUP_LIMIT,
        Code.MEMORY_RESERVED,
        Code.SEQUENCES,
        Code.ONE_SEQUENCE_ON_GPU,
    }
)


@dataclass(frozen=True, slots=True)
class Reason:
    """One or two sentences for the user. `missing_bytes` is 0 unless something does not fit in a memory."""

    code: Code
    text: str
    missing_bytes: int = 0

    @property
    def is_warning(self) -> bool:
        """True if the model runs worse than the hardware or the model would allow."""
        return self.code not in _EXPLANATIONS

    def to_json(self) -> dict[str, object]:
        """Return JSON values; `missing_bytes` is left out if it is 0."""
        values: dict[str, object] = {"code": self.code, "warning": self.is_warning, "text": self.text}
        return values | {"missing_bytes": self.missing_bytes} if self.missing_bytes else values


def gib(count_bytes: int) -> str:
    """Return a memory size as text: GiB with one decimal, below 1 GiB whole MiB, rounded up."""
    return f"{count_bytes / 2**30:.1f} GiB" if count_bytes >= 2**30 else f"{-(-count_bytes // 2**20)} MiB"
