"""`--server` on the command line: answers, the archive, what plan and doctor say, and the secret of the key."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptoss_cli.cli.model_opener import open_model
from gptoss_cli.generation import TokenGenerator
from tests.cli.conftest import Run
from tests.cli.terminal_driver import Terminal
from tests.remote.fake_servers import FakeLlama, FakeVllm, Faults
from tests.remote.table_model import TableModel
from tests.remote.turns import speaking, wait_until

_REASONED = "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant"
_TURN = f"{_REASONED}<|channel|>final<|message|>It is 4.<|return|>"
_HEAVY = {"torch", "triton", "safetensors", "huggingface_hub", "gptoss_cli.engine.loader"}
_KEY = "sk-very-secret-0123456789"
_PROGRAM = "import sys; from gptoss_cli.cli.main import run; sys.exit(run(sys.argv[1:]))"


@pytest.fixture
def server() -> Iterator[FakeVllm]:
    with FakeVllm(speaking(_TURN)) as running:
        yield running


def _gptoss(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        timeout=60,
    )


def test_an_answer_of_a_server_goes_to_stdout_and_the_server_is_told_only_ids(server: FakeVllm) -> None:
    done = _gptoss("ask", "--server", server.url, "2 + 2?")
    assert (done.returncode, done.stdout, done.stderr) == (0, "It is 4.\n", "Let me see.\n")
    assert all("messages" not in body for body in server.seen.bodies)


def test_torch_is_not_imported(server: FakeVllm) -> None:
    program = f"{_PROGRAM.replace('sys.exit(', '(')}; print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", program, "ask", "--server", server.url, "2 + 2?"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert done.stdout == "It is 4.\n"
    assert _HEAVY.isdisjoint(done.stderr.split())


def test_the_json_names_the_server(server: FakeVllm, run: Run) -> None:
    status, out, _ = run("ask", "--server", server.url, "--json", "2 + 2?", open_model=open_model)
    record = json.loads(out)
    assert (status, record["answer"]) == (0, "It is 4.")
    assert (record["execution"], record["device"]) == ("remote vllm", f"127.0.0.1:{server.port}")
    assert (record["model"], record["server"]) == ("gpt-oss-20b", server.url)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--server", "http://"], 2, "The address of the server should be like http://localhost:8000"),
        (["--server", "http://me:pw@a"], 2, "The address of the server should have no user and no password"),
        (["--server", "a", "--api-key-file", "/nowhere"], 2, "/nowhere cannot be read: No such file or directory"),
        (["--server", "a", "-m", "demo"], 2, "A model of this machine and --server do not go together"),
        (["--server", "a", "--logprobs", "2", "--json"], 2, "--logprobs and --server do not go together"),
        (["--server", "http://127.0.0.1:9"], 5, "Nothing answers at http://127.0.0.1:9. Check the address, and that"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], status: int, message: str, run: Run) -> None:
    found, out, err = run("ask", *arguments, "2 + 2?", open_model=open_model)
    assert (found, out) == (status, "")
    assert err.startswith(f"gptoss: {message}")
    assert err.count("\n") == 1


def test_a_model_on_the_command_line_beats_a_server_of_the_settings(
    server: FakeVllm, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_SERVER_URL", server.url)
    assert run("ask", "2 + 2?", open_model=open_model)[1] == "It is 4.\n"
    asked = len(server.seen.paths)
    assert run("plan", "20b", "--json")[0] == 0
    assert len(server.seen.paths) == asked


def test_the_settings_file_has_a_table_for_the_server(server: FakeVllm, run: Run) -> None:
    config = Path(os.environ["GPTOSS_HOME"]) / "config" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(f'[server]\nurl = "{server.url}"\n', "utf-8")
    try:
        assert run("ask", "2 + 2?", open_model=open_model)[1] == "It is 4.\n"
    finally:
        config.unlink()


def test_the_key_is_in_no_message_and_no_log(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{_KEY}\n", "utf-8")
    with FakeVllm(speaking(_TURN), faults=Faults(key=_KEY)) as server:
        good = _gptoss("ask", "--debug", "--server", server.url, "--api-key-file", str(tmp_path / "key"), "2 + 2?")
        assert set(server.seen.keys) == {f"Bearer {_KEY}"}
    assert (good.returncode, good.stdout) == (0, "It is 4.\n")
    with FakeVllm(speaking(_TURN), faults=Faults(key="another")) as server:
        bad = _gptoss("ask", "--debug", "--server", server.url, "2 + 2?", GPTOSS_SERVER_KEY=_KEY)
    assert bad.returncode == 5
    assert "does not accept the key" in bad.stderr
    assert "Traceback" in bad.stderr
    assert _KEY not in good.stderr + bad.stderr
    assert _KEY[3:] not in good.stderr + bad.stderr


def test_ctrl_c_ends_an_answer_that_does_not_come_and_frees_the_server() -> None:
    with FakeVllm(speaking(_TURN), faults=Faults(hangs_after=0)) as server:
        arguments = [sys.executable, "-c", _PROGRAM, "ask", "--server", server.url, "2 + 2?"]
        program = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_until(lambda: server.seen.running == 1)
        program.send_signal(signal.SIGINT)
        assert wait_until(lambda: server.seen.running == 0) < 1
        assert program.communicate(timeout=10)[0] == b""
        assert program.returncode == 130


def test_an_answer_that_breaks_off_twice_exits_5_and_keeps_what_came() -> None:
    with FakeVllm(speaking(_TURN), faults=Faults(dies_after=5, times=9)) as server:
        done = _gptoss("ask", "--server", server.url, "--save", "2 + 2?")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("Let\nThe answer broke off. The server is asked to go on from there.\n me see.\n")


def test_a_conversation_is_saved_with_the_server_and_goes_on_there(server: FakeVllm, run: Run) -> None:
    assert run("ask", "--server", server.url, "--save", "2 + 2?", open_model=open_model)[0] == 0
    status, out, err = run("ask", "--server", server.url, "-c", "And 2 + 2?", open_model=open_model)
    assert (status, out) == (0, "It is 4.\n")
    assert "Continuing “2 + 2?”" in err
    _, exported, _ = run("conversations", "export", "--all", "-f", "json", "-o", "-")
    assert server.url in exported


def test_plan_and_doctor_say_what_answers(run: Run) -> None:
    with FakeLlama(speaking(_TURN)) as server:
        name = f"llama-server b11434-abc at 127.0.0.1:{server.port}"
        _, planned, _ = run("plan", "--server", server.url)
        assert planned.startswith(f"gpt-oss-20b: computed by {name}\n\nContext: 4,096 tokens.")
        _, checked, _ = run("doctor", "--server", server.url)
        assert f"{name} serves gpt-oss-20b, 4,096 tokens of context" in checked
    status, checked, _ = run("doctor", "--server", server.url)
    assert status == 0
    assert f"Nothing answers at {server.url}" in checked


def test_bench_measures_a_server(run: Run) -> None:
    def numbers() -> TokenGenerator:
        return TableModel()

    with FakeVllm(numbers) as server:
        status, out, _ = run("bench", "--server", server.url, "--repeat", "2", "--generate", "8")
        assert status == 0
        assert json.loads(out)["generated_tokens"] == [8, 8]


def test_a_chat_shows_the_server_in_its_toolbar(server: FakeVllm) -> None:
    with Terminal(["-c", _PROGRAM, "chat", "--server", server.url, "--no-save", "2 + 2?"], columns=100) as terminal:
        terminal.wait_for("It is 4.")
        terminal.wait_for(f"remote vllm, 127.0.0.1:{server.port}")
        terminal.type("/experts\r")
        terminal.wait_for("A server does not show the probabilities of tokens")
        terminal.type("\x04")
        assert terminal.wait() == 0


def test_a_message_that_nobody_answers_comes_back_to_the_prompt() -> None:
    with FakeVllm(speaking(_TURN)) as server, Terminal(["-c", _PROGRAM, "chat", "--server", server.url]) as terminal:
        terminal.wait_for("remote vllm")
        server.__exit__()
        terminal.type("Still there?\r")
        terminal.wait_for("The message was not sent. Nothing answers at")
        terminal.wait_for("> Still there?\n")
        terminal.type("\x03\x04")
        assert terminal.wait() == 0
