"""Tunings for each architecture, and their override by an environment variable."""

import pytest
import torch

from gptoss_cli.engine.kernels.tuning import (
    TUNING,
    VARIABLE,
    overridden,
    tuning_for,
    tuning_for_amd,
    tuning_of,
)
from gptoss_cli.errors import UsageError
from tests.engine.fake_cuda import fake_cuda


def test_the_variable_overrides_the_tuning_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuning_of("cpu") == tuning_for(None)
    monkeypatch.setenv(VARIABLE, "rows=8, pdl = 0,prefill.warps=16, prefill.tokens=16/64, prefill.stages=3")
    with fake_cuda((9, 0)):
        tuned = tuning_of("cuda:0")
    assert (tuned.rows, tuned.pdl) == (8, 0)
    assert (tuned.prefill.warps, tuned.prefill.tokens, tuned.prefill.stages) == (16, (16, 64), 3)
    assert (tuned.splits, tuned.prefill.rows) == (TUNING.splits, TUNING.prefill.rows)


@pytest.mark.parametrize(
    "text",
    ["rows", "rows=", "rows=3", "rows=-8", "rows=8/16", "lines=8", "prefill=8", "prefill.upcast=1", "prefill.rows=x",
     "keys=8", "prefill.tokens=64/16", "prefill.tokens=8", "rows=131072", "prefill.stages=9", "rows=²"],
)  # fmt: skip
def test_a_wrong_override_is_refused_and_named(text: str) -> None:
    with pytest.raises(UsageError, match=VARIABLE):
        overridden(TUNING, text)


def test_an_empty_override_changes_nothing() -> None:
    assert overridden(TUNING, "") == overridden(TUNING, " , ") == TUNING


def test_amds_gpus_have_tunings_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuning_for_amd("gfx942") == TUNING
    assert tuning_for_amd("gfx1100") != TUNING
    monkeypatch.setattr(torch.version, "hip", "7.1")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("P", (), {"gcnArchName": "gfx1201"}))
    # As a compute capability 9.0 means gfx90a to one vendor and Hopper to the other.
    assert tuning_of("cuda:0") == tuning_for_amd("gfx1201")
