"""What the demo model knows and how people ask for it, read from the files in `data/`. Computes nothing else."""

import random
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

NOT_IN_THE_GUIDE = "not in the guide"


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing the demo can say. `about` and `point` make its reasoning; `proof` is in every right answer."""

    kind: str
    about: str
    answer: str
    point: str
    proof: str
    questions: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cannot:
    """What the demo says to everything else."""

    answer: str
    proof: str


@cache
def topics() -> tuple[Topic, ...]:
    """Every topic, in the order of the file."""
    return tuple(_topic(entry) for entry in _knowledge()["topics"])


@cache
def cannot() -> Cannot:
    """The answer to what is not in the guide."""
    return Cannot(**_knowledge()["cannot"])


@cache
def phrases(section: str) -> Mapping[str, tuple[str, ...]]:
    """The lists of one section of phrases.toml."""
    return {name: tuple(items) for name, items in _read("phrases.toml")[section].items()}


@cache
def messages() -> Mapping[str, tuple[str, ...]]:
    """Whole messages as people type them, by what their topic is about; `NOT_IN_THE_GUIDE` for all others."""
    return {about: tuple(lines) for about, lines in _read("messages.toml").items()}


@cache
def held_out_questions() -> frozenset[str]:
    """Whole questions that must never be trained on."""
    return frozenset(q for topic in topics() for q in topic.held_out) | frozenset(phrases("held_out")["chatter"])


@cache
def synonyms() -> Mapping[str, list[str]]:
    """Words that may stand for a word in a question."""
    return {word: others.split() for word, others in _read("synonyms.toml").items()}


def expand(template: str, rng: random.Random) -> str:
    """Pick one of every `{a|b}` and of every `<FRAME>`. A frame's `_` is where all that follows the frame goes."""
    frames = _knowledge()["frames"]
    while found := re.search(r"<(\w+)>(.*)", template):
        frame, rest = rng.choice(frames[found[1]]), found[2].strip()
        template = template[: found.start()] + (frame.replace("_", rest) if "_" in frame else f"{frame} {rest}")
    text = re.sub(r"\{([^{}]*)\}", lambda m: rng.choice(m[1].split("|")), template)
    return re.sub(r" +", " ", text).strip()


def _topic(entry: dict[str, Any]) -> Topic:
    lists = {name: tuple(entry[name]) for name in ("questions", "held_out")}
    return Topic(**(entry | lists))


@cache
def _knowledge() -> dict[str, Any]:
    return _read("topics.toml")


@cache
def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files("gptoss_cli.demo").joinpath("data", name).read_text("utf-8"))
