"""Generates the conversations the demo model is trained on. Pure: the same seed gives the same text.

A name or favourite is made of placeholders (one private-use character each), which the trainer replaces by vocabulary
rows that mean nothing. So the model can only learn to copy them, and every real name is one it has never seen.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

from gptoss_cli.demo.phrases import NOT_IN_THE_GUIDE, expand, held_out_questions, messages, phrases, synonyms, topics
from gptoss_cli.demo.turns import Turn, ask_turn, cannot_turn, sum_turn, tell_turn, topic_turn
from gptoss_cli.settings import ReasoningEffort

FIRST_PLACEHOLDER, PLACEHOLDERS = 0xE000, 256  # any row
FIRST_KNOWN, KNOWN = 0xE400, 1024  # a trained row, drawn anew for every conversation

_TOPIC_WEIGHTS = {"guide": 2.4, "concept": 1.8, "identity": 7, "greeting": 4}
_WHOLE = 0.72  # share of lookups that somebody wrote as a whole; the others are made of templates
# Share of lookups whose words are changed: less where there are many messages to a topic.
_ALTERED = {"guide": 0.6, "concept": 0.6, "identity": 0.3, "greeting": 0.3, "unknown": 0.3}
_HIDDEN = 0.1  # share of words that are hidden, in every other one of these
# Weights of guide, sums, telling, asking, unknown: in turns, in asides, and in asides where much was told.
_OF_TURNS, _OF_ASIDES, _OF_RECALL = (38, 14, 16, 20, 12), (56, 10, 5, 8, 21), (14, 3, 3, 68, 12)
_OF_LOOKUPS = (70, 6, 0, 0, 24)
_ASIDES = (0, 4, 8, 12, 16)  # turns that hang off every turn of a conversation: one of these
_LOOKING_UP, _LOOKED_UP = 0.55, 24  # share of conversations with so many lookups before every turn
_RECALLING, _TOLD_FIRST, _RECALLED = 0.32, (2, 3, 4), 10  # share of conversations that begin with so many told things


@dataclass(slots=True)
class _State:
    """What was told so far in a conversation."""

    rng: random.Random
    effort: ReasoningEffort
    told: dict[str, str] = field(default_factory=dict)


def conversation(rng: random.Random, effort: ReasoningEffort, *, turns: int) -> list[Turn]:
    """One conversation: about half its turns are from the guide, the others sums, memory and what it cannot do.

    `turns` counts those that are kept; before each come asides, which teach the model many questions cheaply. Some
    conversations are about memory: which of several told things is asked for, or none, is hard to learn. Others are
    little more than lookups, the cheapest of all.
    """
    state, made = _State(rng, effort), list[Turn]()
    told, asides, weights = 0, rng.choice(_ASIDES), _OF_ASIDES
    if (chance := rng.random()) < _LOOKING_UP:
        told, asides, weights = rng.choice((0, *_TOLD_FIRST)), _LOOKED_UP, _OF_LOOKUPS
    elif chance < _LOOKING_UP + _RECALLING:
        told, asides, weights = rng.choice(_TOLD_FIRST), _RECALLED, _OF_RECALL
    made += (_respell(_tell(state), rng) for _ in range(told))
    while len(made) < turns * (asides + 1):
        for _ in range(asides):
            made.append(replace(_phrased(replace(state, told=dict(state.told)), weights), aside=True))
        made.append(_phrased(state, _OF_TURNS))
    return made


def lone_turn(rng: random.Random) -> Turn:
    """One turn of a conversation of which nothing else is known, at low effort."""
    return _phrased(_State(rng, ReasoningEffort.LOW), _OF_ASIDES)


def plain(question: str) -> str:
    """`question` as far as its spelling does not matter."""
    return question.lower().rstrip("?.! ")


def held_out_pair(a: int, b: int) -> bool:
    """One pair of summands in eight is never trained on."""
    return (a * 31 + b * 17) % 8 == 3


def _phrased(state: _State, weights: tuple[int, ...]) -> Turn:
    """A turn whose question is not, in any spelling, one of those that are held out."""
    while True:
        told = dict(state.told)
        turn = _respell(_draw(state, weights), state.rng)
        if plain(turn.user) not in held_out():
            return turn
        state.told = told


@cache
def held_out() -> frozenset[str]:
    """The questions that must never be trained on, as far as their spelling does not matter."""
    return frozenset(map(plain, held_out_questions()))


def _draw(state: _State, weights: tuple[int, ...]) -> Turn:
    kinds: list[Callable[[_State], Turn]] = [_topic, _sum, _tell, _ask, _cannot]
    return state.rng.choices(kinds, weights)[0](state)


def _topic(state: _State) -> Turn:
    topic = state.rng.choices(topics(), [_TOPIC_WEIGHTS[topic.kind] for topic in topics()])[0]
    if state.rng.random() < _WHOLE:
        return topic_turn(topic, state.rng.choice(messages()[topic.about]), state.effort)
    weights = [_weight(template) for template in topic.questions]
    question = expand(state.rng.choices(topic.questions, weights)[0], state.rng)
    return topic_turn(topic, question, state.effort)


def _weight(template: str) -> float:
    """How often a template comes up: more often if it has more choices, a frame above all."""
    return max(2, 1 + math.sqrt(template.count("|"))) * (4 if template.startswith("<") else 1)


def _sum(state: _State) -> Turn:
    rng = state.rng
    while True:
        a, b = rng.randrange(100), rng.randrange(100)
        if not held_out_pair(a, b):
            return sum_turn(a, b, expand(rng.choice(phrases("sums")["sums"]), rng), state.effort)


def _tell(state: _State) -> Turn:
    category = _category(state, told_share=0.1)
    value = _value(state.rng, category)
    templates = phrases("memory")["tell_name" if category == "name" else "tell_favourite"]
    template = expand(state.rng.choice(templates), state.rng)
    return tell_turn(state.told, category, value, template=template, effort=state.effort)


def _ask(state: _State) -> Turn:
    category = _category(state, told_share=0.65)
    templates = phrases("memory")["ask_name" if category == "name" else "ask_favourite"]
    template = expand(state.rng.choice(templates), state.rng)
    return ask_turn(state.told, category, template=template, effort=state.effort)


def _category(state: _State, told_share: float) -> str:
    if state.told and state.rng.random() < told_share:
        return state.rng.choice(sorted(state.told))
    return "name" if state.rng.random() < 0.35 else state.rng.choice(phrases("memory")["favourites"])


def _value(rng: random.Random, category: str) -> str:
    if category == "number" or rng.random() < 0.03:
        return str(rng.randrange(1000))
    return "".join(
        chr(FIRST_KNOWN + rng.randrange(KNOWN)) if rng.random() < 0.3 else _placeholder(rng)
        for _ in range(rng.choices((1, 2, 3, 4, 5), (32, 30, 20, 12, 6))[0])
    )


def _placeholder(rng: random.Random) -> str:
    return chr(FIRST_PLACEHOLDER + rng.randrange(PLACEHOLDERS))


def _cannot(state: _State) -> Turn:
    rng = state.rng
    if rng.random() < _WHOLE:
        return cannot_turn(rng.choice(messages()[NOT_IN_THE_GUIDE]), state.effort)
    if rng.random() < 0.1:
        template = expand(rng.choice(phrases("sums")["others"]), rng)
        question = template.replace("A", str(rng.randrange(2, 100))).replace("B", str(rng.randrange(2, 100)))
        return cannot_turn(question, state.effort)
    return cannot_turn(_chatter(rng), state.effort)


def _chatter(rng: random.Random) -> str:
    """Something the demo cannot answer, often with words it has never seen."""
    data = phrases("chatter")
    if rng.random() < 0.06:
        count = rng.randrange(1, 24)
        return " ".join(_placeholder(rng) if rng.random() < 0.7 else rng.choice(data["things"]) for _ in range(count))
    # The ways to ask that fit any topic must not be a sign of one.
    framed = expand(rng.choice(data["framed"]), rng) if rng.random() < 0.25 else ""
    text = framed or expand(rng.choice(data["frames"]), rng)
    for name, words in (("THING", data["things"]), ("PERSON", data["people"]), ("PLACE", data["places"])):
        while name in text:
            text = text.replace(name, _unseen(rng) if rng.random() < 0.45 else rng.choice(words), 1)
    return text


def _unseen(rng: random.Random) -> str:
    article = rng.choice(("", "", "", "a ", "the ", "my "))
    return article + " ".join(_placeholder(rng) for _ in range(rng.choice((1, 1, 1, 2, 2, 3))))


def _respell(turn: Turn, rng: random.Random) -> Turn:
    """The same turn as other people would type it."""
    text, decorations = turn.user, phrases("decorations")
    if turn.kind in _ALTERED:
        if rng.random() < _ALTERED[turn.kind]:
            text = _altered(text, turn.kind, rng)
        if rng.random() < 0.2:
            text = rng.choice(decorations["prefixes"]) + text
        if rng.random() < 0.15:
            text += rng.choice(decorations["suffixes"])
    elif rng.random() < 0.1:
        text = rng.choice(decorations["prefixes"]) + text
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.55 and text[-1] not in "?!.=":
        is_question = turn.kind in ("sum", *_ALTERED) or turn.proof.startswith(("is ", "not "))
        text += rng.choice("???." if is_question else "..!")
    return replace(turn, user=text)


def _altered(text: str, kind: str, rng: random.Random) -> str:
    """`text` with other words, fewer of them or hidden ones: close to what was asked, but now and then not it."""
    text = _in_other_words(text, rng)
    if kind in ("guide", "concept", "identity"):
        text = _loosely(text, rng)
    return _partly(text, rng)


def _in_other_words(text: str, rng: random.Random) -> str:
    """`text`, often with some of its words replaced by others that are used alike."""
    if rng.random() > 0.25:
        return text
    return re.sub(r"\b[a-z]+\b", lambda m: _other_word(m[0], rng), text)


def _other_word(word: str, rng: random.Random) -> str:
    return rng.choice(synonyms().get(word, [word])) if rng.random() < 0.5 else word


def _loosely(text: str, rng: random.Random) -> str:
    """`text`, sometimes with a word that nobody knows put in or a common one left out."""
    words = text.split(" ")
    common = [n for n, word in enumerate(words) if word in common_words()]
    if (chance := rng.random()) < 0.1:
        words.insert(rng.randrange(len(words) + 1), _placeholder(rng))
    elif chance < 0.2 and len(words) >= 4 and common:
        del words[rng.choice(common)]
    return " ".join(words)


def _partly(text: str, rng: random.Random) -> str:
    """`text`, often with words that nobody knows in the place of any of its own: no word alone may decide."""
    words = text.split(" ")
    if rng.random() > 0.5 or len(words) < 3:
        return text
    return " ".join(_placeholder(rng) if rng.random() < _HIDDEN else word for word in words)


@cache
def common_words() -> frozenset[str]:
    """Words that say nothing about what is asked: those in the questions of half the topics."""
    spread = Counter(word for topic in topics() for word in set(re.findall(r"[\w']+", " ".join(topic.questions))))
    return frozenset(word for word, count in spread.items() if count >= len(topics()) / 2)
