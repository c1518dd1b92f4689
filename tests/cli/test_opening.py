"""The whole chain, from the command line to the engine, over a small random checkpoint with the real vocabulary."""

import json
import re
from pathlib import Path

import pytest

from gptoss_cli.demo import unpack
from tests.cli.conftest import Run
from tests.cli.terminal_driver import Terminal
from tests.engine.checkpoints import Shape, write_checkpoint

_DEMO_DATA = Path(unpack.__file__).parent / "data" / "demo.safetensors"
needs_demo = pytest.mark.skipif(not _DEMO_DATA.exists(), reason="the demo model is not in this copy")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "checkpoint"
    write_checkpoint(
        folder,
        Shape(hidden=32, intermediate=96, vocabulary=201_088, layer_types=("sliding_attention", "full_attention")),
    )
    return folder


def test_a_random_checkpoint_gives_the_same_answer_for_the_same_seed(checkpoint: Path, run: Run) -> None:
    arguments = ("ask", "-m", str(checkpoint), "--seed", "7", "--max-tokens", "12", "hello")
    status, answer, asides = run(*arguments)
    assert status == 7, asides
    assert "max-tokens is used up" in asides
    assert "demo" not in asides
    assert run(*arguments) == (status, answer, asides)


def test_a_prompt_over_the_context_exits_6(checkpoint: Path, run: Run) -> None:
    status, answer, asides = run("ask", "-m", str(checkpoint), "--context", "100", "word " * 200)
    assert (status, answer, asides.count("\n")) == (6, "", 1)


def test_a_context_the_model_does_not_have_exits_2(checkpoint: Path, run: Run) -> None:
    status, answer, asides = run("ask", "-m", str(checkpoint), "--context", "131072", "x")
    assert (status, answer, asides.count("\n")) == (2, "", 1)


def test_the_checkpoint_may_be_named_in_the_environment(
    checkpoint: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_MODEL", str(checkpoint))
    assert run("ask", "--max-tokens", "3", "x")[0] == 7


def test_a_shard_that_is_cut_off_exits_4_and_is_named(checkpoint: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:-1])
    status, answer, asides = run("ask", "-m", str(tmp_path), "x")
    assert (status, answer, asides.count("\n")) == (4, "", 1)
    assert "model.safetensors" in asides


def test_chat_on_a_terminal_runs_the_whole_chain(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["-m", "gptoss_cli", "chat", "-m", str(checkpoint), "--max-tokens", "5"]
    with Terminal(arguments, cwd=tmp_path) as terminal:
        terminal.wait_for(">")
        for word in ("first", "second"):
            terminal.type(f"{word}\r")
            terminal.wait_for(f"> {word}")
            terminal.wait_for("max-tokens changes it.\n\n>")
        terminal.type("/exit\r")
        assert terminal.wait() == 0
        assert terminal.restored()


@needs_demo
def test_without_any_model_the_demo_answers_and_says_so(run: Run) -> None:
    status, answer, asides = run("ask", "--seed", "1", "What is gptoss?")
    assert status == 0, asides
    assert answer.strip()
    notice = (
        r"No model is installed: the built-in demo answers\. On this machine 20b .+, 120b .+\. Run: gptoss download "
    )
    assert re.match(notice, asides.splitlines()[0])


@needs_demo
def test_the_demo_is_not_announced_if_it_was_requested(run: Run) -> None:
    status, _, asides = run("ask", "-m", "demo", "--reasoning", "hide", "--seed", "1", "What is gptoss?")
    assert (status, asides) == (0, "")


@needs_demo
def test_a_post_is_judged_by_a_policy_and_the_verdict_has_the_form_of_the_schema(run: Run, tmp_path: Path) -> None:
    (tmp_path / "policy.md").write_text("Label each post. VIOLATES: asks for medical advice.")
    (tmp_path / "post.txt").write_text("What should I take for a headache?")
    verdict = {"violates": {"type": "boolean"}, "category": {"enum": ["none", "medical"]}}
    schema = {"type": "object", "properties": verdict, "required": list(verdict), "additionalProperties": False}
    (tmp_path / "verdict.json").write_text(json.dumps(schema))
    files = ("-s", f"@{tmp_path}/policy.md", "--schema", f"{tmp_path}/verdict.json", "-f", f"{tmp_path}/post.txt")
    status, answer, _ = run("ask", "-m", "demo", "--seed", "1", *files)
    assert status == 0
    assert json.loads(answer).keys() == verdict.keys()
