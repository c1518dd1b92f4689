"""`gptoss compare` as a table, as blocks, as JSON, and its errors. To write the golden screens anew: GOLDEN=write."""

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gptoss_cli.architecture import count
from gptoss_cli.architecture.known import GPT2_XL, KNOWN
from gptoss_cli.architecture.published import benchmark_scores
from gptoss_cli.architecture.rows import FIGURES
from gptoss_cli.cli.compare import run_compare
from gptoss_cli.cli.model_options import CompareOptions
from gptoss_cli.errors import ExitStatus, GptossError
from gptoss_cli.settings import Group
from gptoss_cli.terminal.console import Console
from tests.cli.conftest import Run
from tests.cli.emulated_console import run_on_screen
from tests.engine.checkpoints import REAL_20B
from tests.terminal.emulator import Emulator
from tests.terminal.streams import KeptStream

_GOLDEN = Path(__file__).parents[1] / "golden"
_NAMES = [model.name for model in KNOWN]


def _screen(*names: str, columns: int, environment: dict[str, str] | None = None, **options: Any) -> Emulator:
    return run_on_screen(
        lambda console: run_compare(list(names), CompareOptions(**options), console),
        columns=columns,
        environment=environment,
    )


def _json(run: Run, *arguments: str) -> dict[str, Any]:
    status, shown, asides = run("compare", *arguments, "--json")
    assert (status, asides) == (0, "")
    values: dict[str, Any] = json.loads(shown)
    jsonschema.validate(values, json.loads((resources.files("gptoss_cli.cli") / "schemas/compare.json").read_text()))
    return values


def test_the_default_is_a_table_of_the_five_known_models(run: Run) -> None:
    values = _json(run)
    assert [model["name"] for model in values["models"]] == _NAMES
    assert [figure["key"] for figure in values["figures"]] == [figure.key for figure in FIGURES]
    (parameters,) = [figure["values"] for figure in values["figures"] if figure["key"] == "parameters"]
    assert parameters == [count.parameters(model) for model in KNOWN]


@pytest.mark.parametrize("group", list(Group))
def test_by_keeps_the_rows_of_one_group(group: Group, run: Run) -> None:
    assert {figure["group"] for figure in _json(run, "20b", "--by", group)["figures"]} == {group}


def test_the_context_is_that_of_the_option(run: Run) -> None:
    values = _json(run, "20b", "gpt2-xl", "--by", "memory", "--context", "4096")
    (cache,) = [figure for figure in values["figures"] if figure["key"] == "kv_at_context"]
    assert (cache["label"], cache["values"]) == ("KV at 4,096", [99 << 20, None])


def test_benchmarks_have_a_source_and_a_date(run: Run) -> None:
    assert len(_json(run, "--benchmarks")["benchmarks"]) == len(benchmark_scores())
    models = {score["model"] for score in _json(run, "20b", "--benchmarks")["benchmarks"]}
    assert models == {"gpt-oss-20b", "GPT-5", "GPT-5 mini", "GPT-5 nano", "o3", "o4-mini"}
    status, shown, _ = run("compare", "--benchmarks")
    assert status == 0
    assert "37.4 / 53.2 / 60.7" in shown
    assert "https://arxiv.org/abs/2508.10925" in shown


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("options", [{}, {"benchmarks": True}, {"explain": "kv"}])
def test_no_line_but_an_address_is_wider_than_the_terminal(columns: int, options: dict[str, Any]) -> None:
    terminal = _screen(columns=columns, environment={"NO_COLOR": "1"}, **options)
    for line in terminal.getvalue().split("\n"):
        assert len(line.rstrip()) <= columns or line.strip().startswith("https://"), line


@pytest.mark.parametrize(("columns", "header"), [(120, _NAMES), (80, _NAMES[:1]), (40, _NAMES[:1])])
def test_a_table_that_is_too_wide_becomes_a_block_per_model(columns: int, header: list[str]) -> None:
    rows = _screen(columns=columns).rows
    assert rows[0].split() == header
    assert [row for row in rows if row.strip() in _NAMES] == ([] if columns == 120 else _NAMES)


def test_cells_equal_to_the_first_are_dim() -> None:
    shown = _screen("20b", "120b", columns=80, by=Group.EXPERTS).getvalue()
    dim = [line for line in shown.split("\n") if "\x1b[2m" in line]
    assert [line.split("  ")[0] for line in dim][:2] == ["feed-forward", "active experts"]
    assert all("experts per layer" not in line for line in dim)
    assert "=" not in shown


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colours_equal_cells_are_marked(environment: dict[str, str]) -> None:
    shown = _screen("20b", "120b", columns=80, by=Group.EXPERTS, environment=environment).getvalue()
    assert "\x1b" not in shown
    marked = [line.split("  ")[0] for line in shown.split("\n") if line.endswith(" =")]
    assert marked[:2] == ["feed-forward", "active experts"]


def test_a_terminal_without_unicode_gets_ascii() -> None:
    stdout = KeptStream(terminal=True, encoding="ascii")
    console = Console(None, stdout, None, {"NO_COLOR": "1"})
    run_compare(["20b"], CompareOptions(by=Group.DEPTH), console)
    run_compare(["20b"], CompareOptions(explain="kv"), console)
    text = stdout.written.decode("ascii")
    assert "x32 of 4,096" in text
    assert "?" not in text


def test_explain_shows_formula_operands_and_value(run: Run) -> None:
    status, shown, _ = run("compare", "20b", "gpt2-xl", "--explain", "Active parameters")
    assert status == 0
    words = " ".join(shown.split()).replace("\N{MULTIPLICATION SIGN}", "x")
    assert "= active, embedding too - u x embedding" in words
    assert "gpt-oss-20b: 4,187,440,704 - 1 x 579,133,440 = 3,608,307,264" in words
    assert "gpt2-xl: 1,557,611,200 - 0 x 80,411,200 = 1,557,611,200" in words


def test_a_folder_with_a_config_is_a_column(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/config.json").write_text(json.dumps(REAL_20B | {"quantization_config": None}))
    values = _json(run, "20b", str(tmp_path / "tuned"), "--by", "memory")
    assert [model["name"] for model in values["models"]] == ["gpt-oss-20b", "tuned"]
    figures = {figure["key"]: figure["values"] for figure in values["figures"]}
    assert figures["bits"] == [pytest.approx(5.26, abs=0.01), 16]
    assert figures["kv_full"][0] == figures["kv_full"][1]
    assert _json(run, str(tmp_path / "tuned/config.json"))["models"][0]["name"] == "tuned"


def test_a_name_cannot_control_the_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "a\x1b[2Jb"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(REAL_20B))
    assert "\x1b[2J" not in _screen(str(folder), columns=80).getvalue()


@pytest.mark.parametrize(
    ("values", "status", "words"),
    [
        (REAL_20B | {"model_type": "llama"}, ExitStatus.USAGE, "known are gpt2, gpt_oss, qwen3_moe"),
        (REAL_20B | {"num_key_value_heads": 7}, ExitStatus.INTEGRITY, "not a multiple of the 7 kv heads"),
        (None, ExitStatus.NOT_INSTALLED, "holds no config.json"),
    ],
)
def test_a_wrong_config_is_one_line_and_its_status(
    values: dict[str, Any] | None, status: ExitStatus, words: str, run: Run, tmp_path: Path
) -> None:
    if values is not None:
        (tmp_path / "config.json").write_text(json.dumps(values))
    got, shown, asides = run("compare", str(tmp_path))
    assert (got, shown, asides.count("\n")) == (status, "", 1)
    assert words in asides


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["llama"], "There is no model 'llama'. Known are gpt2-xl, "),
        (["--explain", "nonsense"], "No figure is called 'nonsense'"),
        (["--by", "price"], "Choose depth, experts, size, memory or compute"),
        (["--context", "0"], "--context"),
    ],
)
def test_wrong_arguments_exit_2(arguments: list[str], words: str, run: Run) -> None:
    got, shown, asides = run("compare", *arguments)
    assert (got, shown, asides.count("\n")) == (ExitStatus.USAGE, "", 1)
    assert words in asides


def test_a_closed_terminal_is_an_error_and_no_traceback() -> None:
    console = Console(None, None, None, {})
    with pytest.raises(GptossError, match="stdout cannot be written"):
        run_compare([GPT2_XL.name], CompareOptions(), console)


@pytest.mark.parametrize(
    ("names", "columns", "options"),
    [
        ([], 120, {}),
        (["20b", "120b"], 80, {}),
        (["20b", "qwen3-30b"], 40, {"by": Group.EXPERTS}),
        ([], 80, {"benchmarks": True}),
    ],
)
def test_the_screen_looks_as_it_did(names: list[str], columns: int, options: dict[str, Any]) -> None:
    seen = "\n".join(_screen(*names, columns=columns, environment={"NO_COLOR": "1"}, **options).rows) + "\n"
    kind = "benchmarks" if "benchmarks" in options else "compare"
    file = _GOLDEN / f"{kind}-{columns}.txt"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(seen, "utf-8")
    assert seen == file.read_text("utf-8")
