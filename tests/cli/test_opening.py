"""Choosing a model, and the whole chain over a small random checkpoint with the real vocabulary."""

import json
import os
from pathlib import Path

import pytest

from gptoss_cli.chat import opening
from gptoss_cli.chat.opening import instructions_text
from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest, Manifest, write_manifest
from gptoss_cli.checkpoint.store import find_location
from gptoss_cli.cli.definition import TurnOptions
from gptoss_cli.errors import UsageError
from tests.cli.conftest import Run
from tests.cli.terminal_driver import Terminal
from tests.engine.checkpoints import Shape, write_checkpoint
from tests.harmony.malformed import MALFORMED
from tests.scripted_generator import ScriptedGenerator
from tests.terminal.streams import Streams

_DEMO_DATA = Path(opening.__file__).parents[1] / "demo" / "data" / "demo.safetensors"
needs_demo = pytest.mark.skipif(not _DEMO_DATA.exists(), reason="the demo model is not in this copy")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "checkpoint"
    write_checkpoint(
        folder,
        Shape(hidden=32, intermediate=96, vocabulary=201_088, layer_types=("sliding_attention", "full_attention")),
    )
    return folder


def test_a_random_checkpoint_speaks_the_same_words_for_the_same_seed(checkpoint: Path, run: Run) -> None:
    arguments = ("ask", "-m", str(checkpoint), "--seed", "7", "--max-tokens", "12", "hello")
    status, answer, asides = run(*arguments)
    assert status == 7, asides
    assert "--max-tokens is used up" in asides
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
            terminal.wait_for("--max-tokens is used up.\n\n>")
        terminal.type("/exit\r")
        assert terminal.wait() == 0
        assert terminal.restored()


def test_without_a_model_that_is_wished_for_the_installed_one_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    for name, layers, experts in (("gpt-oss-120b", 36, 128), ("gpt-oss-20b", 24, 32)):
        folder = tmp_path / "data" / "checkpoints" / name
        folder.mkdir(parents=True)
        config = {"num_hidden_layers": layers, "num_local_experts": experts}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").touch()
        files = tuple(
            CheckpointFile(path.name, path.stat().st_size, Digest("sha256", "0" * 64)) for path in folder.iterdir()
        )
        write_manifest(folder / "manifest.json", Manifest(f"openai/{name}", "main", "a" * 40, files))
    streams = Streams()
    assert opening.choose_checkpoint(None, streams.console) == ("gpt-oss-20b", folder)
    assert streams.asides == ""


@needs_demo
def test_without_any_model_the_demo_answers_and_says_so(run: Run) -> None:
    status, answer, asides = run("ask", "--seed", "1", "What is gptoss?")
    assert status == 0, asides
    assert answer.strip()
    notice = "The built-in demo model answers. Get the real one with: gptoss download 20b"
    assert asides.splitlines()[0] == notice


@needs_demo
def test_a_demo_that_was_asked_for_is_not_announced(run: Run) -> None:
    status, _, asides = run("ask", "-m", "demo", "--reasoning", "hide", "--seed", "1", "What is gptoss?")
    assert (status, asides) == (0, "")


def test_plain_instructions_are_taken_as_they_are() -> None:
    assert instructions_text("Be brief.") == "Be brief."
    assert instructions_text(None) is None


def test_instructions_from_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("absent", "pipe", "."):
        with pytest.raises(UsageError, match="There is no file"):
            instructions_text(f"@{tmp_path / name}")


def test_instructions_that_are_too_long_are_refused(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * (2 << 20))
    with pytest.raises(UsageError, match="too long"):
        instructions_text(f"@{tmp_path / 'long'}")


def test_options_have_the_model_cards_defaults() -> None:
    options = TurnOptions()
    assert (options.temperature, options.top_p, options.top_k, options.seed) == (1.0, 1.0, None, None)


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_turn_ends_in_an_answer_or_a_plain_statement(name: str) -> None:
    session = opening.begin(ScriptedGenerator([MALFORMED[name].ids]), None, TurnOptions(free_headers=True))
    for _ in session.turn("x"):
        pass
    assert session.last_end is not None
    told = opening.incompleteness(session.last_end)
    answered = bool(MALFORMED[name].answer.strip())
    assert session.last_end.answered == answered
    assert answered or (told is not None and told.message.endswith("."))


def test_the_revision_is_what_manifest_or_cache_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    place = find_location("20b")
    place.folder.mkdir(parents=True)
    files = (CheckpointFile("config.json", 2, Digest("sha256", "0" * 64)),)
    write_manifest(place.manifest_path, Manifest(place.repository, "main", "c0ffee" + "0" * 34, files))
    assert opening.revision_of(place.folder) == "c0ffee" + "0" * 34
    assert opening.revision_of(tmp_path / "snapshots" / ("ab" * 20)) == "ab" * 20
    assert opening.revision_of(tmp_path / "elsewhere") is None
