"""Requests of a placement: contradictions are errors, and names of devices are parsed."""

import pytest

from gptoss_cli.errors import Hint, UsageError
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.settings import Execution


@pytest.mark.parametrize(
    ("device", "execution"), [("cpu", Execution.MXFP4), ("cuda", Execution.CPU), ("mps", Execution.CPU)]
)
def test_contradictory_settings_are_named(device: str, execution: Execution) -> None:
    with pytest.raises(UsageError, match=f"^execution {execution} contradicts device {device}$") as caught:
        PlacementRequest(device=device, execution=execution)
    assert caught.value.hints == (Hint.CONSISTENT_PLACEMENT,)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "", "CPU"])
def test_an_unknown_device_is_a_usage_error(device: str) -> None:
    with pytest.raises(UsageError, match="There is no device"):
        PlacementRequest(device=device)


@pytest.mark.parametrize(
    ("request_", "setting", "number"),
    [
        (PlacementRequest(), "None", None),
        (PlacementRequest(device="cpu"), "None", None),
        (PlacementRequest(execution=Execution.CPU), "None", None),
        (PlacementRequest(device="cuda"), "device cuda", None),
        (PlacementRequest(device="cuda:12"), "device cuda:12", 12),
        (PlacementRequest(device="mps"), "device mps", None),
        (PlacementRequest(device="cuda:1", execution=Execution.OFFLOAD), "execution offload", 1),
    ],
)
def test_the_setting_that_needs_a_gpu_is_known(request_: PlacementRequest, setting: str, number: int | None) -> None:
    assert str(request_.gpu_setting) == setting
    assert request_.gpu_number == number
    assert request_.requires_cpu == ("cpu" in (request_.device, request_.execution))
