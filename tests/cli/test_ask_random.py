"""`gptoss ask` under random arguments, input and answers: nothing it is given makes it lie about what happened."""

import json
import os
import random
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_cli.chat.request import ChatRequest, Notify, OpenedModel, OpenModel, Say
from gptoss_cli.cli import main
from gptoss_cli.errors import ExitStatus
from gptoss_cli.harmony.vocabulary import load_encoding, read_vocabulary
from tests.cli.conftest import Run
from tests.cli.scripted_program import opened_with
from tests.harmony.test_structured_output import SCHEMAS
from tests.scripted_generator import ScriptedGenerator
from tests.terminal.streams import KeptStream

_HEADER = "<|channel|>final<|message|>"
_TURNS = (
    f"{_HEADER}Blue.<|return|>",
    f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{_HEADER}```sh\nls\n```<|return|>",
    f"{_HEADER}yes<|return|>",
    f'{_HEADER}{{"a": 1}}<|return|>',
    f"{_HEADER}\x1b[2J \r\n\x00<|return|>",
    "<|channel|>analysis<|message|>Hm.<|return|>",
    "<|channel|>commentary to=functions.f<|message|>{}<|call|>",
    "<|return|>",
    _HEADER,
)
_FLAGS = (
    *("--json", "--stream-json", "--no-stream", "-x", "-xsh", "--extract=", "-q", "-v", "--free-headers", "--", "-"),
    *("-o", "-f", "--timeout", "--stop", "--schema", "--choice", "--efforts", "-e", "-t", "-s", "-m", "--seed"),
    *("--max-tokens", "--think-budget", "--top-p", "--top-k", "--reasoning", "--color", "--context", "--dtype"),
)
_VALUES = (
    *("0", "1", "-1", "7", "1e9", "nan", "low", "low,high", "none", "hgh", "yes,no", "a,,b", "always", "hide", "show"),
    *('{"type": "object", "properties": {"a": {"type": "integer"}}}', '{"type": 3}', "{", "@absent", "absent"),
    *("/dev/null", "/dev/full", "/dev/zero", ".", "answer.txt", "demo", "a\udcffb", "Why is the sky blue?"),
)
# Without a slash no word can name a file outside the folder the test runs in.
_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), max_size=6)
_ARGUMENTS = st.lists(st.sampled_from(_FLAGS) | st.sampled_from(_VALUES) | _TEXT, max_size=7)
_STDIN = st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass"))
_DOCUMENTED = {status.value for status in ExitStatus}

Ask = Callable[[list[str], bytes], tuple[int, bytes, str]]


@pytest.fixture
def ask(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """Asks in this process, in a folder of its own; each call plays the turns that its input chooses."""
    monkeypatch.chdir(tmp_path)

    def ask_in_process(arguments: list[str], stdin: bytes) -> tuple[int, bytes, str]:
        chance = random.Random(repr((arguments, stdin)))
        played = [_ids(chance.choice(_TURNS)) for _ in range(6)]
        stdout, stderr = KeptStream(), KeptStream()
        for name, stream in (("stdin", KeptStream(text=stdin)), ("stdout", stdout), ("stderr", stderr)):
            monkeypatch.setattr(sys, name, stream)
        status = main.run(["ask", *arguments], open_model=_playing(played))
        return status, stdout.written, stderr.written.decode("utf-8", "replace")

    return ask_in_process


def _playing(turns: list[list[int]]) -> OpenModel:
    """Return an opener whose model plays `turns`."""

    def open_playing(request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
        return opened_with(ScriptedGenerator(turns), request)

    return open_playing


@cache
def _ids(turn: str) -> list[int]:
    return load_encoding().encode(turn, allowed_special="all")


def _check(ask: Ask, arguments: list[str], stdin: bytes) -> None:
    status, stdout, stderr = ask(arguments, stdin)
    assert status in _DOCUMENTED
    assert "Traceback" not in stderr
    assert "An error in gptoss itself" not in stderr
    # A table of several answers is shown even if one of them is missing.
    if status not in (ExitStatus.DONE, ExitStatus.CUT_SHORT) and "--efforts" not in arguments:
        assert stderr.strip(), "an error says what is wrong"
        if "--json" in arguments and "--stream-json" not in arguments:
            assert stdout == b""


_ONE_FOLDER = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=100, deadline=None, suppress_health_check=_ONE_FOLDER)
@given(arguments=_ARGUMENTS, stdin=_STDIN)
def test_random_arguments_end_in_a_documented_status(ask: Ask, arguments: list[str], stdin: bytes) -> None:
    _check(ask, arguments, stdin)


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None, suppress_health_check=_ONE_FOLDER)
@given(arguments=_ARGUMENTS, stdin=_STDIN)
def test_five_thousand_random_arguments_end_in_a_documented_status(
    ask: Ask, arguments: list[str], stdin: bytes
) -> None:
    _check(ask, arguments, stdin)


@cache
def _id_of_byte() -> dict[bytes, int]:
    import base64

    with ExitStack() as temporary:
        lines = read_vocabulary(temporary).splitlines()[:256]
    return {base64.b64decode(line.split(b" ")[0]): id_ for id_, line in enumerate(lines)}


def _random_answer(chance: random.Random) -> tuple[bytes, list[int]]:
    """The bytes of an answer with all that is awkward, and ids that say it."""
    encoding, said, ids = load_encoding(), b"", []
    awkward = (
        "\x1b[31m",
        "\r\n",
        "\n",
        "\0",
        "\x9b2J",
        "\u202e",
        "über ",
        "漢字",
        "🙂",
        "[/x]",
        "<|end|>",
        "plain ",
        "\t",
    )
    for _ in range(chance.randrange(1, 12)):
        if chance.random() < 0.3:
            data = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 4)))
            ids += [_id_of_byte()[data[i : i + 1]] for i in range(len(data))]
        else:
            text = chance.choice(awkward)
            data = text.encode()
            ids += encoding.encode(text, disallowed_special=())
        said += data
    return said, ids


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("count", [30, pytest.param(250, marks=pytest.mark.slow)])
def test_stdout_is_the_answers_own_bytes(
    forced: bool, count: int, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if forced:
        monkeypatch.setenv("FORCE_COLOR", "1")
    chance = random.Random(17)
    header, end = _ids(_HEADER), _ids("<|return|>")
    for _ in range(count):
        said, ids = _random_answer(chance)
        stdout = KeptStream()
        monkeypatch.setattr(sys, "stdout", stdout)
        arguments = ["ask", "--color", "always" if forced else "never", "x"]
        assert main.run(arguments, open_model=_playing([[*header, *ids, *end]])) in (0, 1)
        assert stdout.written == said.decode("utf-8", "replace").encode() + b"\n"
        assert os.environ.get("FORCE_COLOR") == ("1" if forced else None)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SCHEMAS)))
def test_the_demo_as_hot_as_2_always_gives_what_the_schema_allows(number: int, run: Run) -> None:
    schema = json.dumps(SCHEMAS[number])
    for seed in range(30):
        thinking = ["-e", "none"] if seed % 2 else ["--think-budget", "40"]
        options = ["-m", "demo", "-t", "2", "--seed", str(seed), *thinking, "--schema", schema]
        status, out, err = run("ask", *options, f"Question {seed}")
        assert status == 0, err
        jsonschema.validate(json.loads(out), SCHEMAS[number])
