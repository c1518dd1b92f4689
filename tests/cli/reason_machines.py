"""A machine for every reason that a placement can give, for tests that each reason is shown."""

import pytest

from gptoss_cli.placement.choose import choose
from gptoss_cli.placement.gpus import Cuda
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.model_config import ModelConfig
from gptoss_cli.placement.reasons import Code
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.settings import Activations, Dense
from tests.placement.machines import GPT_OSS_20B, GPT_OSS_120B, gib, gpu, mac, machine

# A reason -> a model, and a machine on which its placement gives the reason.
MACHINES: dict[Code, tuple[str, Hardware]] = {
    Code.NO_GPU: ("20b", machine()),
    Code.GPU_HIDDEN: ("20b", machine(gpu(24), cuda=Cuda.HIDDEN)),
    Code.TORCH_WITHOUT_CUDA: ("20b", machine(gpu(24), cuda=Cuda.NOT_BUILT, torch="2.13.0+cpu")),
    Code.CUDA_FAILS: ("20b", machine(gpu(24), cuda=Cuda.FAILS, cuda_problem="the driver is too old")),
    Code.NO_TRITON: ("20b", machine(gpu(8), triton=False)),
    Code.NO_COMPILER: ("20b", machine(gpu(8), compiler=False)),
    Code.OLD_GPU: ("20b", machine(gpu(8, capability=(6, 1), name="Tesla P4"))),
    Code.APPLE_GPU: ("20b", mac(32)),
    Code.ROCM_UNTESTED: ("20b", machine(gpu(24, name="AMD Radeon RX 7900 XTX"), rocm="7.1")),
    Code.ROOMIEST_GPU: ("20b", machine(gpu(2), gpu(3))),
    Code.GPU_BUSY: ("20b", machine(gpu(24, 2))),
    Code.FITS_GPU: ("20b", machine(gpu(24))),
    Code.EMBEDDING_ON_HOST: ("20b", machine(gpu(16))),
    Code.EMBEDDING_ON_DISK: ("20b", machine(available=14.4)),
    Code.EXPERTS_ON_HOST: ("20b", machine(gpu(8))),
    Code.EXPERTS_FIXED: ("120b", machine(gpu(24))),
    Code.GPU_TOO_SMALL: ("20b", machine(gpu(3))),
    Code.HOST_TOO_SMALL: ("120b", machine(gpu(24), ram=32)),
    Code.SHORTER_CONTEXT: ("20b", machine(ram=16)),
    Code.SMALLER_CHUNK: ("20b", machine(gpu(15))),
    Code.FROM_DISK: ("120b", machine(ram=32)),
    Code.GROUP_LIMIT: ("20b", machine(available=20, group_limit_bytes=gib(21))),
    Code.MEMORY_RESERVED: ("20b", machine(available=28.8, reserved_bytes=gib(3.2))),
    Code.MEMORY_UNKNOWN: ("20b", machine(available_bytes=None, memory_bytes=None)),
    Code.DENSE_ON_GPU: ("20b", machine(gpu(24))),
    Code.ACTIVATIONS_ON_GPU: ("20b", machine(gpu(24))),
    Code.CPU_REQUESTED: ("20b", machine()),
    Code.SEQUENCES: ("20b", machine()),
    Code.ONE_SEQUENCE_ON_GPU: ("20b", machine(gpu(24))),
}
# The reasons that only a request gives: an option of the command line, and the same request.
FLAGS: dict[Code, tuple[str, str]] = {
    Code.CPU_REQUESTED: ("--device", "cpu"),
    Code.DENSE_ON_GPU: ("--dense", "int8"),
    Code.ACTIVATIONS_ON_GPU: ("--activations", "int8"),
    Code.SEQUENCES: ("--conversations", "4"),
    Code.ONE_SEQUENCE_ON_GPU: ("--conversations", "4"),
}
REQUESTS = {
    Code.CPU_REQUESTED: PlacementRequest(device="cpu"),
    Code.DENSE_ON_GPU: PlacementRequest(dense=Dense.INT8),
    Code.ACTIVATIONS_ON_GPU: PlacementRequest(activations=Activations.INT8),
    Code.SEQUENCES: PlacementRequest(sequences=5),
    Code.ONE_SEQUENCE_ON_GPU: PlacementRequest(sequences=5),
}


def put_on_machine(code: Code, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str], str]:
    """Run the program on the machine of the reason; return the model, the options, and the reason in words."""
    model, hardware = MACHINES[code]
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: hardware)
    flags = list(FLAGS.get(code, ()))
    placed = choose(config_of(model), hardware, REQUESTS.get(code))
    (reason,) = [reason for reason in placed.reasons if reason.code is code]
    return model, flags, reason.text


def config_of(model: str) -> ModelConfig:
    return GPT_OSS_20B if model == "20b" else GPT_OSS_120B
