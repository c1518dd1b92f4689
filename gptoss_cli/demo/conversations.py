"""Generates the demo model's conversations, for training and for evaluation. Pure: the same seed gives the same text.

A name or favourite in a training conversation is made of placeholders (one private-use character each), which the
trainer replaces by vocabulary rows that mean nothing. So the model can only learn to copy them, and every real name is
one it has never seen.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gptoss_cli.demo.chatter import FAVOURITES, HELD_OUT_CHATTER, PREFIXES, SUFFIXES, chatter
from gptoss_cli.demo.topics import CANNOT, CANNOT_PROOF, FRAMES, TOPICS, Topic
from gptoss_cli.settings import ReasoningEffort

FIRST_PLACEHOLDER, PLACEHOLDERS = 0xE000, 256  # any row
FIRST_KNOWN, KNOWN = 0xE400, 1024  # a trained row, drawn anew for every conversation


@dataclass(frozen=True, slots=True)
class Turn:
    """One user message and what a right turn looks like. `proof` must occur in a right answer."""

    kind: str
    user: str
    reasoning: str
    answer: str
    proof: str


@dataclass(slots=True)
class _State:
    """What was told so far, and how values are made."""

    rng: random.Random
    effort: ReasoningEffort
    held_out: bool
    value: Callable[[str], str]
    told: dict[str, str] = field(default_factory=dict)


def expand(template: str, rng: random.Random) -> str:
    """Pick one of every `{a|b}` and of every `<FRAME>`."""
    template = re.sub(r"<(\w+)>", lambda m: FRAMES[m[1]], template)
    text = re.sub(r"\{([^{}]*)\}", lambda m: rng.choice(m[1].split("|")), template)
    return re.sub(r" +", " ", text).strip()


HELD_OUT = frozenset(q for topic in TOPICS for q in topic.held_out) | frozenset(HELD_OUT_CHATTER)

TELL_NAME = ("my name is V", "i'm V", "i am V", "call me V", "you can call me V", "{hello|hi|hey}, my name is V", "{hello|hi|hey}, i'm V", "{hello|hi|hey}, i am V", "the name is V",
             "please remember my name: V", "people call me V", "remember that my name is V", "i am called V", "this is V", "my first name is V", "please call me V", "remember my name, it is V", "{hello|hi}, this is V")
TELL_NAME_HELD_OUT = ("just so you know, my name is V", "my friends call me V", "good evening, my name is V", "i want you to remember that i am called V")
ASK_NAME = ("what is my name", "what's my name", "do you remember my name", "do you know my name", "who am i", "say my name", "tell me my name", "what am i called", "which name did i tell you",
            "can you remember my name", "remember my name?", "what name did i give you", "do you know who i am", "did i tell you my name", "what was my name", "repeat my name")
ASK_NAME_HELD_OUT = ("could you recall my name", "my name again?", "what did i say my name was", "have you remembered what i am called")
TELL_FAVOURITE = ("my {favourite|favorite} C is V", "the C i like {most|best} is V", "remember that my {favourite|favorite} C is V", "please {note|remember}: my {favourite|favorite} C is V", "my {favourite|favorite} C has always been V",
                  "i think my {favourite|favorite} C is V", "remember my {favourite|favorite} C: V", "as for my {favourite|favorite} C, it is V", "i have a {favourite|favorite} C: V", "my {favourite|favorite} C? it is V")
TELL_FAVOURITE_HELD_OUT = ("for the record, my favourite C is V", "you should know that my favorite C is V", "by the way, my favourite C is V", "keep in mind that my favourite C is V")
ASK_FAVOURITE = ("what is my {favourite|favorite} C", "what's my {favourite|favorite} C", "which C do i like {most|best}", "do you remember my {favourite|favorite} C", "do you know my {favourite|favorite} C", "tell me my {favourite|favorite} C",
                 "what did i say my {favourite|favorite} C was", "which {favourite|favorite} C did i tell you", "what C do i like {most|best}", "what was my {favourite|favorite} C", "can you remember my {favourite|favorite} C", "name my {favourite|favorite} C", "did i tell you my {favourite|favorite} C")
ASK_FAVOURITE_HELD_OUT = ("could you recall my favorite C", "and what's my favourite C again", "which C is my favourite", "my favourite C, what was it")
SUMS = ("what is A + B", "A + B", "A+B", "what's A+B", "add A and B", "A plus B", "what is A plus B", "what's A plus B", "how much is A + B", "how much is A plus B", "calculate A + B", "the sum of A and B", "what is the sum of A and B",
        "compute A + B", "what do A and B make", "add A to B", "A and B together", "tell me A + B", "what does A + B give", "A + B = ?", "A + B =", "can you add A and B", "what is A and B", "how much are A and B")
SUMS_HELD_OUT = ("please work out A + B", "give me the sum of A and B", "if i add A and B, what do i get", "i need A plus B", "what would A + B be")
NOT_SUMS = ("what is A * B", "A * B", "A times B", "what is A - B", "A - B", "A minus B", "A / B", "divide A by B", "multiply A by B", "what is A times B", "subtract A from B", "what is A + B + A", "what is the square root of A", "1A0 + B", "A + 2B0",
            "is A a prime number", "what is A percent of B", "A^2", "A.5 + B", "how much is A hours in minutes")


def conversation(rng: random.Random, effort: ReasoningEffort, *, turns: int) -> list[Turn]:
    """One training conversation: about half of its turns are about gptoss, the others sums, memory and what the demo cannot do."""
    state = _State(rng, effort, held_out=False, value=lambda category: _placeholder(rng, category))
    return [_respell(_draw(state), rng) for _ in range(turns)]


def _draw(state: _State) -> Turn:
    kinds = [_topic, _sum, _tell, _ask, _cannot]
    return state.rng.choices(kinds, [52, 13, 9, 11, 15])[0](state)


def _placeholder(rng: random.Random, category: str) -> str:
    if category == "number" or rng.random() < 0.03:
        return str(rng.randrange(1000))
    pieces = rng.choices((1, 2, 3, 4), (35, 40, 20, 5))[0]
    return "".join(
        chr(FIRST_KNOWN + rng.randrange(KNOWN)) if rng.random() < 0.2 else chr(FIRST_PLACEHOLDER + rng.randrange(PLACEHOLDERS)) for _ in range(pieces)
    )


def _topic(state: _State) -> Turn:
    weights = [2 if topic.kind == "guide" else 1.6 if topic.kind == "concept" else 2.2 for topic in TOPICS]
    topic = state.rng.choices(TOPICS, weights)[0]
    return topic_turn(topic, _fresh(topic.questions, state.rng), state.effort)


def _fresh(templates: tuple[str, ...], rng: random.Random) -> str:
    """A question that is not held out. Templates with more choices come up more often."""
    while True:
        question = expand(rng.choices(templates, [1 + t.count("|") ** 0.5 for t in templates])[0], rng)
        if question not in HELD_OUT:
            return question


def topic_turn(topic: Topic, question: str, effort: ReasoningEffort) -> Turn:
    """A turn that answers `question` from the guide."""
    low = f"Topic: {topic.about}."
    medium = f"The user's topic is {topic.about}. The point: {topic.point}."
    high = f"The user's topic is {topic.about}. I look for it in the guide, and it is there. The point: {topic.point}. I answer as the guide says it and add nothing."
    return Turn(topic.kind, question, _by_effort(effort, low, medium, high), topic.answer, topic.proof)


def _by_effort(effort: ReasoningEffort, low: str, medium: str, high: str) -> str:
    return {ReasoningEffort.LOW: low, ReasoningEffort.MEDIUM: medium, ReasoningEffort.HIGH: high}[effort]


def _sum(state: _State) -> Turn:
    rng = state.rng
    while True:
        a, b = rng.randrange(100), rng.randrange(100)
        if not held_out_pair(a, b):
            return sum_turn(a, b, rng.choice(SUMS), state.effort)


def held_out_pair(a: int, b: int) -> bool:
    """One pair of summands in eight is never trained on."""
    return (a * 31 + b * 17) % 8 == 3


def sum_turn(a: int, b: int, template: str, effort: ReasoningEffort) -> Turn:
    """A turn that adds two numbers below 100 with visible steps."""
    ta, oa, tb, ob = a // 10 * 10, a % 10, b // 10 * 10, b % 10
    tens, ones = f"{ta} + {tb} = {ta + tb}", f"{oa} + {ob} = {oa + ob}"
    low = f"A sum: {a} + {b}."
    medium = f"A sum: {a} + {b}. {a} is {ta} + {oa}, {b} is {tb} + {ob}. Tens: {tens}. Ones: {ones}."
    high = f"{medium} Together: {ta + tb} + {oa + ob} = {a + b}. I check it the other way round: {tb} + {ta} = {ta + tb} and {ob} + {oa} = {oa + ob}."
    answer = f"{tens} and {ones}, so {a} + {b} = {a + b}."
    question = template.replace("A", str(a)).replace("B", str(b))
    return Turn("sum", question, _by_effort(effort, low, medium, high), answer, f"{a} + {b} = {a + b}.")


def _tell(state: _State) -> Turn:
    category = _category(state, told_share=0.1)
    templates = TELL_NAME if category == "name" else TELL_FAVOURITE
    return tell_turn(state.told, category, state.value(category), template=expand(state.rng.choice(templates), state.rng), effort=state.effort)


def _ask(state: _State) -> Turn:
    category = _category(state, told_share=0.8)
    templates = ASK_NAME if category == "name" else ASK_FAVOURITE
    return ask_turn(state.told, category, template=expand(state.rng.choice(templates), state.rng), effort=state.effort)


def _category(state: _State, told_share: float) -> str:
    if state.told and state.rng.random() < told_share:
        return state.rng.choice(sorted(state.told))
    return "name" if state.rng.random() < 0.35 else state.rng.choice(FAVOURITES)


def tell_turn(told: dict[str, str], category: str, value: str, *, template: str, effort: ReasoningEffort) -> Turn:
    """A turn in which the user tells a name or a favourite; `told` is updated."""
    told[category] = value
    what = "name" if category == "name" else f"favourite {category}"
    low = f"Told: the {what}."
    medium = f"The user tells me the {what}. It is {value}. I keep it for later."
    high = f"The user tells me the {what}. It is {value}. This is no question, so the guide is not needed. I keep it for later and repeat it once."
    answer = f"Nice to meet you, {value}! I will remember your name." if category == "name" else f"I will remember that your favourite {category} is {value}."
    user = template.replace("C", category).replace("V", value)
    return Turn("memory", user, _by_effort(effort, low, medium, high), answer, value)


def ask_turn(told: dict[str, str], category: str, *, template: str, effort: ReasoningEffort) -> Turn:
    """A turn in which the user asks for something told earlier, or never told."""
    what = "name" if category == "name" else f"favourite {category}"
    value = told.get(category)
    found = f"It was told: {value}." if value else "It was not told."
    low = f"Asked: the {what}."
    medium = f"The user asks for the {what}. I look at what was told. {found}"
    high = f"The user asks for the {what}. The guide is not needed. I look at what was told in this conversation. {found} " + (
        "I say it back as it was told." if value else "I do not guess."
    )
    answer = f"Your {what} is {value}." if value else f"You have not told me your {what} yet."
    return Turn("memory", template.replace("C", category), _by_effort(effort, low, medium, high), answer, f"is {value}" if value else "not told me")


def _cannot(state: _State) -> Turn:
    rng = state.rng
    if rng.random() < 0.1:
        template = rng.choice(NOT_SUMS)
        question = template.replace("A", str(rng.randrange(2, 100))).replace("B", str(rng.randrange(2, 100)))
    else:
        question = chatter(rng, lambda: chr(FIRST_PLACEHOLDER + rng.randrange(PLACEHOLDERS)))
    return cannot_turn(question, state.effort)


def cannot_turn(question: str, effort: ReasoningEffort) -> Turn:
    """A turn about something the demo does not know."""
    low = "Topic: not in the guide."
    medium = "The user's topic is something else. The guide does not have it."
    high = (
        "The user's topic is something else. I look for it in the guide, and it is not there. It is no sum below 100, and nothing that was told earlier. "
        "I do not guess: I say that I cannot answer."
    )
    return Turn("unknown", question, _by_effort(effort, low, medium, high), CANNOT, CANNOT_PROOF)


def _respell(turn: Turn, rng: random.Random) -> Turn:
    """The same turn as other people would type it."""
    text = turn.user
    if rng.random() < 0.15 and turn.kind in ("guide", "concept", "identity", "unknown"):
        text = rng.choice(PREFIXES) + text
    if rng.random() < 0.1 and turn.kind in ("guide", "concept", "identity", "unknown"):
        text += rng.choice(SUFFIXES)
    if rng.random() < 0.06 and turn.kind in ("guide", "concept"):
        text = _without_a_word(text, rng)
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.55 and text[-1] not in "?!.=":
        question = turn.kind in ("guide", "concept", "sum", "unknown", "identity") or turn.proof.startswith(("is ", "not "))
        text += rng.choice("???." if question else "..!")
    if rng.random() < 0.02:
        text += " " + chr(FIRST_PLACEHOLDER + rng.randrange(PLACEHOLDERS))
    return Turn(turn.kind, text, turn.reasoning, turn.answer, turn.proof)


def _without_a_word(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    if len(words) < 5:
        return text
    del words[rng.randrange(len(words))]
    return " ".join(words)


def held_out_turns(rng: random.Random, effort: ReasoningEffort, values: Callable[[str], str]) -> Iterator[list[Turn]]:
    """Conversations for the evaluation: every question in a phrasing, every sum in a pair, that training never saw."""
    for topic in TOPICS:
        for question in topic.held_out:
            yield [topic_turn(topic, question, effort)]
    for question in HELD_OUT_CHATTER:
        yield [cannot_turn(question, effort)]
    pairs = [(a, b) for a in range(100) for b in range(100) if held_out_pair(a, b)]
    for a, b in rng.sample(pairs, 60):
        yield [sum_turn(a, b, rng.choice(SUMS_HELD_OUT), effort)]
    for _ in range(40):
        yield _memory_conversation(rng, effort, values)


def _memory_conversation(rng: random.Random, effort: ReasoningEffort, values: Callable[[str], str]) -> list[Turn]:
    """Two things are told, something else is asked, then both and a third are asked for."""
    told: dict[str, str] = {}
    first, second, third = rng.sample(["name", "name", *FAVOURITES], 3)
    turns = [_told_held_out(rng, told, category, values(category), effort=effort) for category in (first, second)]
    turns.append(topic_turn(topic := rng.choice(TOPICS), rng.choice(topic.held_out), effort))
    for category in (first, second, third):
        templates = ASK_NAME_HELD_OUT if category == "name" else ASK_FAVOURITE_HELD_OUT
        turns.append(ask_turn(told, category, template=rng.choice(templates), effort=effort))
    return turns


def _told_held_out(rng: random.Random, told: dict[str, str], category: str, value: str, *, effort: ReasoningEffort) -> Turn:
    templates = TELL_NAME_HELD_OUT if category == "name" else TELL_FAVOURITE_HELD_OUT
    return tell_turn(told, category, value, template=rng.choice(templates), effort=effort)
