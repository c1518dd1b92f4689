"""Why a placement is as it is, as data: a closed set of codes, with words and with what is missing in bytes."""

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """Every kind of reason that a placement can give."""

    NO_GPU = "no-gpu"
    GPU_HIDDEN = "gpu-hidden"
    TORCH_WITHOUT_CUDA = "torch-without-cuda"
    CUDA_FAILS = "cuda-fails"
    NO_TRITON = "no-triton"
    NO_COMPILER = "no-compiler"
    OLD_GPU = "old-gpu"
    APPLE_GPU = "apple-gpu"
    WISHED = "wished"
    ROOMIEST_GPU = "roomiest-gpu"
    GPU_BUSY = "gpu-busy"
    FITS_GPU = "fits-gpu"
    EMBEDDING_ON_HOST = "embedding-on-host"
    EXPERTS_ON_HOST = "experts-on-host"
    GPU_TOO_SMALL = "gpu-too-small"
    HOST_TOO_SMALL = "host-too-small"
    LOCKED_MEMORY = "locked-memory"
    SHORTER_CONTEXT = "shorter-context"
    FROM_DISK = "from-disk"
    GROUP_LIMIT = "group-limit"
    MEMORY_UNKNOWN = "memory-unknown"
    DENSE_ON_GPU = "dense-on-gpu"
    ACTIVATIONS_ON_GPU = "activations-on-gpu"


# What only explains. All others say that a model runs worse than it could, and are warnings.
_EXPLANATIONS = frozenset(
    {
        Code.NO_GPU,
        Code.APPLE_GPU,
        Code.WISHED,
        Code.ROOMIEST_GPU,
        Code.FITS_GPU,
        Code.EMBEDDING_ON_HOST,
        Code.EXPERTS_ON_HOST,
        Code.SHORTER_CONTEXT,
        Code.GROUP_LIMIT,
    }
)


@dataclass(frozen=True, slots=True)
class Reason:
    """One or two sentences; `missing_bytes` is by how much something is too small, 0 where nothing is."""

    code: Code
    text: str
    missing_bytes: int = 0

    @property
    def is_warning(self) -> bool:
        """Whether the model runs worse for it than the hardware or the model would let it."""
        return self.code not in _EXPLANATIONS

    def to_json(self) -> dict[str, object]:
        """The reason as JSON values."""
        told: dict[str, object] = {"code": self.code, "warning": self.is_warning, "text": self.text}
        return told | {"missing_bytes": self.missing_bytes} if self.missing_bytes else told


def gib(count: int) -> str:
    """Bytes of memory in words."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{-(-count // 2**20)} MiB"
