"""The reasons for a placement are shown when a model is opened."""

import json
from pathlib import Path

import pytest

from gptoss_cli.chat.opening import open_model
from gptoss_cli.chat.request import ChatRequest
from gptoss_cli.errors import Hint, IntegrityError
from gptoss_cli.placement.reasons import Code
from gptoss_cli.placement.request import PlacementRequest
from tests.cli.conftest import Run
from tests.cli.reason_machines import REQUESTS, put_on_machine
from tests.engine.checkpoints import REAL_20B


def _write_model(folder: Path, model: str) -> None:
    """Write a config and empty weights, so that opening the model fails where it would load them."""
    sizes = {} if model == "20b" else {"num_hidden_layers": 36, "num_local_experts": 128, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(REAL_20B | sizes))
    (folder / "model.safetensors").touch()


@pytest.mark.parametrize("code", list(Code))
def test_every_reason_is_shown_if_requested(code: Code, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, _, words = put_on_machine(code, monkeypatch)
    _write_model(tmp_path, model)
    notices: list[str] = []

    def notice(text: str, *hints: Hint, subject: str = "") -> None:
        notices.append(text)

    placement = REQUESTS.get(code, PlacementRequest())
    request = ChatRequest(model=str(tmp_path), placement=placement, every_reason=True)
    with pytest.raises(IntegrityError):
        open_model(request, progress=lambda text: None, notice=notice)
    (first,) = notices
    assert "runs on " in first
    assert words in first


def test_ask_in_a_pipe_shows_warnings_only(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _write_model(tmp_path, "20b")
    lines = {}
    for code in (Code.NO_GPU, Code.TORCH_WITHOUT_CUDA):
        put_on_machine(code, monkeypatch)
        lines[code] = run("ask", "-m", str(tmp_path), "Hi")[2].splitlines()
    assert {code: len(shown) for code, shown in lines.items()} == {Code.NO_GPU: 1, Code.TORCH_WITHOUT_CUDA: 2}
    assert "build without CUDA" in lines[Code.TORCH_WITHOUT_CUDA][0]


def test_an_impossible_placement_exits_6(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _write_model(tmp_path, "20b")
    put_on_machine(Code.GPU_TOO_SMALL, monkeypatch)
    status, out, err = run("ask", "-m", str(tmp_path), "--execution", "mxfp4", "Hi")
    assert (status, out, err.count("\n")) == (6, "", 1)
    assert "execution mxfp4" in err
