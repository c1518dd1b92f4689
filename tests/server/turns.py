"""Turns that the tests of the server play, and the parts of what it answers."""

import datetime
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gptoss_cli.harmony.vocabulary import load_encoding
from gptoss_cli.server.exchange import Exchange, ServerEvent
from gptoss_cli.server.fields import parse_body
from gptoss_cli.server.job import OneSequence
from gptoss_cli.server.served import Served
from gptoss_cli.settings import ReasoningEffort
from tests.scripted_generator import ScriptedGenerator

_GOLDEN = Path(__file__).parents[1] / "golden"
NEXT = "<|start|>assistant"
THINK = f"<|channel|>analysis<|message|>Grüße 🙂!<|end|>{NEXT}"
ANSWER = f"{THINK}<|channel|>final<|message|>Hello 🙂, you\n\nall.<|return|>"
CALL = (
    f"{THINK}<|channel|>commentary<|message|>One moment.<|end|>{NEXT}"
    ' to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{"city": "Zürich 🙂"}<|call|>'
)
WEATHER = {
    "name": "get-weather",
    "description": "Get the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SERVED = Served("gpt-oss-20b", 4096, ReasoningEffort.LOW, date=datetime.date(2025, 8, 5))


def ids_of(text: str) -> list[int]:
    return load_encoding().encode(text, allowed_special="all")


def body(**fields: Any) -> Any:
    return parse_body(json.dumps(fields).encode())


def run(exchange: Exchange, turn: str | Iterable[int]) -> Iterator[object]:
    """Yield the events of the job of an exchange, whose model plays `turn`."""
    ids = ids_of(turn) if isinstance(turn, str) else list(turn)
    generator = ScriptedGenerator([ids], context_tokens=SERVED.context_tokens, chunk_tokens=64)
    return exchange.job.run(OneSequence(generator), lambda stop: None)


def streamed(exchange: Exchange, turn: str | Iterable[int]) -> list[ServerEvent]:
    """Return the events of the stream of an exchange."""
    events = list(exchange.writer.begin())
    for event in run(exchange, turn):
        events += exchange.writer.feed(event)
    return events


def data(events: Iterable[ServerEvent]) -> list[Any]:
    """Return the JSON of events, without `[DONE]`."""
    return [json.loads(json.dumps(event.data)) for event in events if not isinstance(event.data, str)]


def stable(value: Any, names: dict[str, str] | None = None) -> Any:
    """Return JSON with its random ids numbered, and without times."""
    names = {} if names is None else names
    if isinstance(value, dict):
        return {key: 0 if key in ("created", "created_at") else stable(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [stable(each, names) for each in value]
    prefix = value.partition("_" if "_" in value else "-")[0] if isinstance(value, str) else ""
    if prefix in ("chatcmpl", "cmpl", "resp", "rs", "msg", "fc", "ctc", "call") and len(value) > 32:
        return names.setdefault(value, f"{prefix}_{len(names)}")
    return value


def check_golden(name: str, events: Iterable[ServerEvent]) -> None:
    """Compare a stream with the file that holds it; GOLDEN=write writes it anew."""
    names: dict[str, str] = {}
    text = "".join(json.dumps(stable(each, names), ensure_ascii=False) + "\n" for each in data(events))
    golden = _GOLDEN / f"{name}.jsonl"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


def merged_kinds(kinds: Iterable[str]) -> list[str]:
    """Return the kinds of events in order, repetitions left out."""
    return [kind for kind, _ in itertools.groupby(kinds)]
