"""Real clients against the server: OpenAI's SDK, and the Codex command line where it is installed."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from tests.server.running import Running, scripted
from tests.server.turns import ANSWER, CALL, WEATHER, ids_of

openai = pytest.importorskip("openai", reason="the SDK of OpenAI is not installed")
pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed")

TEXT = "Hello 🙂, you\n\nall."
USER = {"role": "user", "content": "Hi"}
FUNCTION = {"type": "function", "function": WEATHER}
JSON_ANSWER = '<|channel|>final<|message|>{"ok": true, "kind": "b"}<|return|>'


class Kind(pydantic.BaseModel):  # type: ignore[misc,name-defined]
    """A format of an answer."""

    ok: bool
    kind: Literal["a", "b"]


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Yield an SDK whose server plays the turns of the test's parameter."""
    with Running(scripted(*request.param)) as running:
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("client", [(ANSWER, ANSWER)], indirect=True)
def test_the_sdk_reads_a_chat_completion_whole_and_streamed(client: Any) -> None:
    whole = client.chat.completions.create(model="scripted", messages=[USER])
    assert whole.choices[0].message.content == TEXT
    assert whole.choices[0].message.reasoning == "Grüße 🙂!"
    assert whole.usage.completion_tokens == len(ids_of(ANSWER))
    with client.chat.completions.stream(model="scripted", messages=[USER]) as stream:
        assert stream.get_final_completion().choices[0].message.content == TEXT


@pytest.mark.parametrize("client", [(CALL, ANSWER, CALL, ANSWER)], indirect=True)
def test_the_sdk_makes_a_tool_loop_in_both_endpoints(client: Any) -> None:
    message = client.chat.completions.create(model="scripted", messages=[USER], tools=[FUNCTION]).choices[0].message
    (call,) = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get-weather", {"city": "Zürich 🙂"})
    result = {"role": "tool", "tool_call_id": call.id, "content": "sun"}
    loop = [USER, message.model_dump(exclude_none=True), result]
    again = client.chat.completions.create(model="scripted", messages=loop, tools=[FUNCTION])
    assert again.choices[0].message.content == TEXT

    tools = [{"type": "function", **WEATHER}]
    first = client.responses.create(model="scripted", input="Hi", tools=tools)
    *_, asked = first.output
    assert (asked.type, asked.name) == ("function_call", "get-weather")
    answer = {"type": "function_call_output", "call_id": asked.call_id, "output": "sun"}
    second = client.responses.create(model="scripted", input=[answer], previous_response_id=first.id, tools=tools)
    assert second.output_text == TEXT


@pytest.mark.parametrize("client", [(ANSWER, CALL)], indirect=True)
def test_the_sdk_reads_a_stream_of_responses(client: Any) -> None:
    for tools in ([], [{"type": "function", **WEATHER}]):
        with client.responses.stream(model="scripted", input="Hi", tools=tools) as stream:
            final = stream.get_final_response()
        assert final.status == "completed"
    assert final.output[-1].arguments == '{"city": "Zürich 🙂"}'


@pytest.mark.parametrize("client", [(JSON_ANSWER, JSON_ANSWER)], indirect=True)
def test_the_sdk_parses_a_format(client: Any) -> None:
    pytest.importorskip("llguidance")
    chat = client.chat.completions.parse(model="scripted", messages=[USER], response_format=Kind)
    assert chat.choices[0].message.parsed == Kind(ok=True, kind="b")
    assert client.responses.parse(model="scripted", input="Hi", text_format=Kind).output_parsed == Kind(
        ok=True, kind="b"
    )


@pytest.mark.parametrize("client", [()], indirect=True)
def test_the_sdk_raises_what_its_users_catch(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        client.responses.create(model="gpt-4", input="Hi")
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.responses.create(model="scripted", input="a " * 9_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["OpenAIResponsesModel", "OpenAIChatCompletionsModel"])
def test_the_agents_sdk_runs_two_tools(name: str) -> None:
    agents = pytest.importorskip("agents", reason="openai-agents is not installed")
    agents.set_tracing_disabled(disabled=True)
    called: list[object] = []

    @agents.function_tool  # type: ignore[untyped-decorator]
    def add(a: int, b: int) -> int:
        """Add."""
        called.append((a, b))
        return a + b

    @agents.function_tool  # type: ignore[untyped-decorator]
    def greet(name: str | None = None) -> str:
        """Greet."""
        called.append(name)
        return "Hello"

    header = "<|channel|>commentary <|constrain|>json<|message|>"
    calls = (
        f' to=functions.add{header}{{"a": 2, "b": 3}}<|call|>',
        f' to=functions.greet{header}{{"name": null}}<|call|>',
    )
    with Running(scripted(*calls, ANSWER)) as running:
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key="none")
        model = getattr(agents, name)(model="scripted", openai_client=client)
        agent = agents.Agent(name="tester", tools=[add, greet], model=model)
        result = agents.Runner.run_sync(agent, "Hi")
    assert (called, result.final_output) == ([(2, 3), None], TEXT)


LLM = shutil.which("llm")


@pytest.mark.slow
@pytest.mark.skipif(LLM is None, reason="llm is not installed")
def test_llm_asks_streams_and_calls_a_tool(tmp_path: Path) -> None:
    assert LLM is not None
    call = " to=functions.llm_version<|channel|>commentary <|constrain|>json<|message|>{}<|call|>"
    with Running(scripted(ANSWER, ANSWER, call, ANSWER)) as running:
        (tmp_path / "extra-openai-models.yaml").write_text(
            f'- {{model_id: local, model_name: scripted, api_base: "http://127.0.0.1:{running.port}/v1",'
            " supports_tools: true, reasoning: true}\n"
        )
        said = [
            subprocess.run(
                [LLM, "prompt", "-m", "local", "Hi", *options],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
                env=os.environ | {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"},
            )
            for options in ((), ("--no-stream",), ("-T", "llm_version", "--td"))
        ]
    assert [done.stdout.strip() for done in said] == [TEXT] * 3
    assert "Tool call: llm_version({})" in said[2].stderr


CODEX = shutil.which("codex")


@pytest.mark.slow
@pytest.mark.skipif(CODEX is None, reason="codex is not installed")
def test_codex_runs_a_function_call_and_finishes(tmp_path: Path) -> None:
    assert CODEX is not None
    command = json.dumps({"cmd": "echo hello-$((40+2))"})
    call = (
        f"{CALL.partition(' to=')[0]} to=functions.exec_command<|channel|>commentary json<|message|>{command}<|call|>"
    )
    (tmp_path / "home").mkdir()
    with Running(scripted(call, ANSWER, context_tokens=131_072)) as running:
        provider = f'name = "gptoss"\nbase_url = "http://127.0.0.1:{running.port}/v1"\nwire_api = "responses"\n'
        (tmp_path / "home" / "config.toml").write_text(
            f'model = "scripted"\nmodel_provider = "gptoss"\n[model_providers.gptoss]\n{provider}', "utf-8"
        )
        done = subprocess.run(
            [CODEX, "exec", "--json", "--skip-git-repo-check", "Say hi"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            cwd=tmp_path,
            env=os.environ | {"CODEX_HOME": str(tmp_path / "home")},
        )
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    assert "hello-42" in next(item for item in items if item["type"] == "command_execution")["aggregated_output"]
    assert [item["text"] for item in items if item["type"] == "agent_message"] == ["One moment.", TEXT]
    assert events[-1]["type"] == "turn.completed"
