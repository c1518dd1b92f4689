"""The word for how well a model fits a machine follows its placement."""

import pytest

from gptoss_cli.placement.fitting import Fit, fit
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.model_config import ModelConfig
from tests.placement.machines import GPT_OSS_20B, GPT_OSS_120B, gpu, mac, machine


@pytest.mark.parametrize(
    ("config", "hardware", "expected"),
    [
        (GPT_OSS_20B, machine(gpu(24)), Fit.GPU),
        (GPT_OSS_20B, machine(gpu(8)), Fit.GPU_AND_HOST),
        (GPT_OSS_20B, machine(ram=32), Fit.HOST),
        (GPT_OSS_20B, machine(ram=12), Fit.DISK),
        (GPT_OSS_20B, machine(ram=2, available=0.5), Fit.NONE),
        (GPT_OSS_20B, mac(64), Fit.GPU),
        (GPT_OSS_120B, machine(gpu(24), ram=96), Fit.GPU_AND_HOST),
        (GPT_OSS_120B, machine(ram=32), Fit.DISK),
    ],
)
def test_a_model_fits_as_it_would_be_placed(config: ModelConfig, hardware: Hardware, expected: Fit) -> None:
    assert fit(config, hardware) is expected
    assert expected.is_good == (expected not in (Fit.DISK, Fit.NONE))
