"""`gptoss inspect`: parts from headers, the diagram, tensors, sinks, RoPE and prompts. Golden screens: GOLDEN=write."""

import json
import os
import struct
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gptoss_cli.architecture import count
from gptoss_cli.architecture.config import read_architecture
from gptoss_cli.architecture.known import GPT_OSS_20B, KNOWN
from gptoss_cli.chat.opening import open_model
from gptoss_cli.cli.environment import Environment
from gptoss_cli.cli.inspect import run_inspect
from gptoss_cli.cli.model_options import InspectOptions
from gptoss_cli.demo.unpack import demo_checkpoint
from gptoss_cli.errors import ExitStatus
from gptoss_cli.terminal.console import Console
from tests.cli.conftest import Run
from tests.cli.emulated_console import run_on_screen
from tests.engine.checkpoints import REAL_20B, ConfigStyle, Shape, write_checkpoint
from tests.terminal.emulator import Emulator
from tests.terminal.streams import KeptStream

_GOLDEN = Path(__file__).parents[1] / "golden"
_EVEN_SHAPE = Shape(layer_types=("sliding_attention", "full_attention") * 2)


def _screen(model: str, *, columns: int, **options: Any) -> Emulator:
    return run_on_screen(
        lambda console: run_inspect(model, InspectOptions(**options), Environment(console, open_model)),
        columns=columns,
        environment={"NO_COLOR": "1"},
    )


def _json(run: Run, *arguments: str) -> dict[str, Any]:
    status, shown, asides = run("inspect", *arguments, "--json")
    assert (status, asides) == (0, "")
    values: dict[str, Any] = json.loads(shown)
    jsonschema.validate(values, json.loads((resources.files("gptoss_cli.cli") / "schemas/inspect.json").read_text()))
    return values


def test_header_sums_of_the_demo_equal_the_counts(run: Run) -> None:
    values = _json(run, "demo")
    folder = demo_checkpoint()
    model = read_architecture(json.loads((folder / "config.json").read_text()), name="demo", path="")
    assert values["from_headers"] is True
    assert sum(part["parameters"] for part in values["parts"]) == count.parameters(model) == values["parameters"]
    assert sum(part["bytes"] for part in values["parts"]) == count.mxfp4_bytes(model)


@pytest.mark.parametrize("style", list(ConfigStyle))
def test_every_layout_of_a_checkpoint_is_summed(style: ConfigStyle, run: Run, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, _EVEN_SHAPE, style=style)
    values = _json(run, str(tmp_path))
    assert values["from_headers"] is True
    assert [part["part"] for part in values["parts"]] == [
        *("embedding", "attention", "experts", "router", "norms", "unembedding"),
    ]
    assert sum(part["parameters"] for part in values["parts"]) == values["parameters"]


@pytest.mark.parametrize("model", KNOWN, ids=lambda model: model.name)
def test_a_known_model_needs_no_files(model: Any, run: Run) -> None:
    values = _json(run, model.name)
    assert values["from_headers"] is False
    assert sum(part["parameters"] for part in values["parts"]) == count.parameters(model)
    assert sum(part["bytes"] for part in values["parts"]) == count.published_bytes(model)


def test_headers_that_contradict_the_config_exit_4_with_both_numbers(run: Run, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, _EVEN_SHAPE)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_local_experts": 5}))
    status, shown, asides = run("inspect", str(tmp_path))
    assert (status, shown, asides.count("\n")) == (ExitStatus.INTEGRITY, "", 1)
    per_expert = 4 * (3 * 96 * 160 + 2 * 160 + 96)
    assert f"experts: {6 * per_expert:,} parameters in the headers, {5 * per_expert:,} by config.json" in asides
    assert "router: " in asides
    assert "attention" not in asides


def test_a_folder_without_weights_is_counted_by_its_config(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(REAL_20B))
    assert _json(run, str(tmp_path))["parameters"] == count.parameters(GPT_OSS_20B)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["20b", "--sinks"], ExitStatus.NOT_INSTALLED, "gptoss download 20b"),
        (["gpt2-xl", "--sinks"], ExitStatus.USAGE, "gpt2-xl has no sinks"),
        (["qwen3-30b", "--tensors"], ExitStatus.USAGE, "only from the files of a checkpoint"),
        (["llama"], ExitStatus.USAGE, "There is no model 'llama'"),
        (["./absent"], ExitStatus.NOT_INSTALLED, "absent"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_its_status(
    arguments: list[str], status: ExitStatus, words: str, run: Run
) -> None:
    got, shown, asides = run("inspect", *arguments)
    assert (got, shown, asides.count("\n")) == (status, "", 1)
    assert words in asides


def test_sinks_are_the_values_of_the_files(run: Run) -> None:
    layers = _json(run, "demo", "--sinks")["sinks"]
    data = (demo_checkpoint() / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert len(layers) == 4
    for entry in layers:
        start, end = header[f"model.layers.{entry['layer']}.self_attn.sinks"]["data_offsets"]
        raw = data[8 + length + start : 8 + length + end]
        expected = [struct.unpack("<f", b"\0\0" + raw[i : i + 2])[0] for i in range(0, len(raw), 2)]
        assert entry["logits"] == expected
    assert [entry["window"] for entry in layers] == [64, None, 64, None]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.layers.3.self_attn.sinks": "model.layers.9.self_attn.sinks"}, "in one of 4 layers"),
        ({"nan": "model.layers.2.self_attn.sinks"}, "values that are not finite"),
    ],
)
def test_sinks_that_are_wrong_exit_4(changes: dict[str, str], words: str, run: Run, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, _EVEN_SHAPE)
    (file,) = tmp_path.glob("*.safetensors")
    data = file.read_bytes()
    for old, new in changes.items():
        if old == "nan":
            length = int.from_bytes(data[:8], "little")
            start = 8 + length + json.loads(data[8 : 8 + length])[new]["data_offsets"][0]
            data = data[:start] + b"\xc0\x7f" + data[start + 2 :]
        else:
            data = data.replace(old.encode(), new.encode())
    file.write_bytes(data)
    status, shown, asides = run("inspect", str(tmp_path), "--sinks")
    assert (status, shown, asides.count("\n")) == (ExitStatus.INTEGRITY, "", 1)
    assert words in asides


def test_an_installed_copy_is_preferred_and_checked(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    monkeypatch.setattr("gptoss_cli.checkpoint.store.installed", lambda: {"gpt-oss-20b": tmp_path})
    write_checkpoint(tmp_path, _EVEN_SHAPE)
    values = _json(run, "20b")
    assert (values["model"], values["from_headers"], values["layers"]) == ("gpt-oss-20b", True, 4)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 332}))
    status, _, asides = run("inspect", "20b")
    assert status == ExitStatus.INTEGRITY
    assert "embedding: 31,776 parameters in the headers, 31,872 by config.json" in asides
    assert asides.endswith("gptoss download 20b\n")


def test_tensors_are_those_of_the_published_checkpoint(run: Run) -> None:
    tensors = _json(run, "120b", "--tensors")["tensors"]
    assert sum(tensor["bytes"] for tensor in tensors) == 65_248_815_744
    assert {tensor["part"] for tensor in tensors} >= {"embedding", "router"}


def test_rope_periods_are_in_the_json(run: Run) -> None:
    pairs = _json(run, "20b", "--rope")["rope"]
    assert len(pairs) == 32
    assert pairs[-1]["period"] == pytest.approx(32 * pairs[-1]["period_without_yarn"])
    assert "1,024 learned positions and no RoPE" in run("inspect", "gpt2-xl", "--rope")[1]


def test_a_prompt_is_shown_as_the_ids_that_are_rendered(run: Run) -> None:
    tokens = _json(run, "--prompt", "Hi <|end|>\x1b[2J")["prompt"]
    assert [(token["text"], token["role"]) for token in tokens[:3]] == [
        *(("<|start|>", "system"), ("system", "system"), ("<|message|>", "system")),
    ]
    assert [token["text"] for token in tokens if token["id"] >= 199_998] == [
        *("<|start|>", "<|message|>", "<|end|>", "<|start|>", "<|message|>", "<|end|>", "<|start|>"),
    ]
    user = "".join(token["text"] for token in tokens if token["role"] == "user" and token["id"] < 199_998)
    assert user == "userHi <|end|>\x1b[2J"
    shown = run("inspect", "--prompt", "\x1b[2J")[1]
    assert "\x1b" not in shown


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize(
    "options", [{}, {"diagram": True}, {"tensors": True}, {"sinks": True}, {"rope": True}, {"prompt": "Hi."}]
)
def test_no_line_is_wider_than_the_terminal(columns: int, options: dict[str, Any]) -> None:
    terminal = _screen("demo", columns=columns, **options)
    assert terminal.rows == [line.rstrip() for line in terminal.getvalue().rstrip("\n").split("\n")]


@pytest.mark.parametrize("model", [model.name for model in KNOWN])
def test_a_diagram_fits_78_columns(model: str) -> None:
    rows = _screen(model, columns=78, diagram=True).rows
    assert max(map(len, rows)) <= 78
    assert any("embedding" in row for row in rows)
    assert any("parameters" in row for row in rows)


def test_several_views_follow_each_other() -> None:
    text = "\n".join(_screen("demo", columns=80, diagram=True, rope=True, sinks=True).rows)
    assert text.index("logits\n") < text.index("sink logits") < text.index("without YaRN")


def test_a_terminal_without_unicode_gets_ascii() -> None:
    stdout = KeptStream(terminal=True, encoding="ascii")
    console = Console(None, stdout, None, {"NO_COLOR": "1"})
    run_inspect("demo", InspectOptions(diagram=True, sinks=True, prompt="Hi"), Environment(console, open_model))
    text = stdout.written.decode("ascii")
    assert "+---------+---------+" in text
    assert "?" not in text


def test_torch_is_not_imported(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom gptoss_cli.cli.main import run\n"
        "run(['inspect', 'demo', '--sinks']); run(['compare']); print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == "False\n"
    assert "sink logits" in done.stdout


@pytest.mark.parametrize(
    ("name", "model", "options"),
    [
        ("inspect-80", "20b", {}),
        ("inspect-diagram-80", "20b", {"diagram": True}),
        ("inspect-rope-80", "20b", {"rope": True}),
        ("inspect-tensors-80", "20b", {"tensors": True}),
    ],
)
def test_the_screen_looks_as_it_did(name: str, model: str, options: dict[str, Any]) -> None:
    seen = "\n".join(_screen(model, columns=80, **options).rows) + "\n"
    file = _GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(seen, "utf-8")
    assert seen == file.read_text("utf-8")


def test_sinks_with_a_prompt_have_the_mass_that_they_took(run: Run) -> None:
    values = _json(run, "demo", "--sinks", "--prompt", "Hi.")
    assert [len(layer["mass"]) for layer in values["sinks"]] == [len(layer["logits"]) for layer in values["sinks"]]
    assert "mass" not in _json(run, "demo", "--sinks")["sinks"][0]
    assert "Attention taken by the sinks" in run("inspect", "demo", "--sinks", "--prompt", "Hi.")[1]


def test_the_key_bias_moves_attention_but_not_without_rope_and_sinks(run: Run) -> None:
    layers = _json(run, "demo", "--experiment", "k-bias")["key_bias"]
    assert [layer["layer"] for layer in layers] == [0, 1, 2, 3]
    assert all(layer["shift_without_rope_and_sinks"] < 1e-4 for layer in layers)
    assert all(layer["shift"] >= 0 for layer in layers)


def test_a_model_that_cannot_be_run_has_no_experiment(run: Run) -> None:
    status, _, asides = run("inspect", "gpt2-xl", "--experiment", "k-bias")
    assert (status, "gpt2-xl cannot be run" in asides) == (ExitStatus.USAGE, True)
