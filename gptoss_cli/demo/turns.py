"""One turn of the demo model: what the user says, the reasoning at each effort, the answer. Pure text."""

from dataclasses import dataclass

from gptoss_cli.demo.phrases import NOT_IN_THE_GUIDE, Topic, cannot
from gptoss_cli.settings import ReasoningEffort


@dataclass(frozen=True, slots=True)
class Turn:
    """One user message and what a right turn looks like. `proof` must occur in a right answer.

    An `aside` is a turn of which later ones know nothing.
    """

    kind: str
    user: str
    reasoning: str
    answer: str
    proof: str
    aside: bool = False

    @property
    def is_lookup(self) -> bool:
        """Whether what is asked for follows from its subject alone, whichever words and numbers are in it."""
        return self.kind not in ("sum", "memory")


def topic_turn(topic: Topic, question: str, effort: ReasoningEffort) -> Turn:
    """A turn that answers `question` from the guide."""
    low = f"Topic: {topic.about}."
    medium = f"The user's topic is {topic.about}. The point: {topic.point}."
    high = (
        f"The user's topic is {topic.about}. I look for it in the guide, and it is there. "
        f"The point: {topic.point}. I answer as the guide says it and add nothing."
    )
    return Turn(topic.kind, question, _by_effort(effort, low, medium, high), topic.answer, topic.proof)


def sum_turn(a: int, b: int, template: str, effort: ReasoningEffort) -> Turn:
    """A turn that adds two numbers below 100 with visible steps."""
    tens_a, ones_a, tens_b, ones_b = a // 10 * 10, a % 10, b // 10 * 10, b % 10
    tens, ones = f"{tens_a} + {tens_b} = {tens_a + tens_b}", f"{ones_a} + {ones_b} = {ones_a + ones_b}"
    low = f"A sum: {a} + {b}."
    parts = f"{a} is {tens_a} + {ones_a}, {b} is {tens_b} + {ones_b}."
    medium = f"A sum: {a} + {b}. {parts} Tens: {tens}. Ones: {ones}."
    high = (
        f"{medium} Together: {tens_a + tens_b} + {ones_a + ones_b} = {a + b}. I check it the other way round: "
        f"{tens_b} + {tens_a} = {tens_a + tens_b} and {ones_b} + {ones_a} = {ones_a + ones_b}."
    )
    answer = f"{tens} and {ones}, so {a} + {b} = {a + b}."
    question = template.replace("A", str(a)).replace("B", str(b))
    return Turn("sum", question, _by_effort(effort, low, medium, high), answer, f"{a} + {b} = {a + b}.")


def tell_turn(told: dict[str, str], category: str, value: str, *, template: str, effort: ReasoningEffort) -> Turn:
    """A turn in which the user tells a name or a favourite; `told` is updated."""
    told[category] = value
    what = _what(category)
    low = f"Told: the {what}."
    medium = f"The user tells me the {what}. It is {value}. I keep it for later."
    high = (
        f"The user tells me the {what}. It is {value}. This is no question, so the guide is not needed. "
        "I keep it for later and repeat it once."
    )
    answer = f"I will remember that your {what} is {value}."
    if category == "name":
        answer = f"Nice to meet you, {value}! I will remember your name."
    user = template.replace("C", category).replace("V", value)
    return Turn("memory", user, _by_effort(effort, low, medium, high), answer, value)


def ask_turn(told: dict[str, str], category: str, *, template: str, effort: ReasoningEffort) -> Turn:
    """A turn in which the user asks for something told earlier, or never told."""
    what, value = _what(category), told.get(category)
    # Whether it was told is decided where it would be copied: there is either something to look at or nothing.
    found = f"It was told: {value or 'nothing'}."
    low = f"Asked: the {what}. {found}"
    medium = f"The user asks for the {what}. I look at what was told. {found}"
    high = (
        f"The user asks for the {what}. The guide is not needed. I look at what was told in this conversation. {found} "
        + ("I say it back as it was told." if value else "I do not guess.")
    )
    reasoning = _by_effort(effort, low, medium, high)
    user = template.replace("C", category)
    if value:
        return Turn("memory", user, reasoning, f"Your {what} is {value}.", f"is {value}")
    return Turn("memory", user, reasoning, f"You have not told me your {what} yet.", "not told me")


def cannot_turn(question: str, effort: ReasoningEffort) -> Turn:
    """A turn about something the demo does not know."""
    low = f"Topic: {NOT_IN_THE_GUIDE}."
    medium = "The user's topic is something else. The guide does not have it."
    high = (
        "The user's topic is something else. I look for it in the guide, and it is not there. "
        "It is no sum below 100, and nothing that was told earlier. I do not guess: I say that I cannot answer."
    )
    return Turn("unknown", question, _by_effort(effort, low, medium, high), cannot().answer, cannot().proof)


def _what(category: str) -> str:
    return "name" if category == "name" else f"favourite {category}"


def _by_effort(effort: ReasoningEffort, low: str, medium: str, high: str) -> str:
    return {ReasoningEffort.LOW: low, ReasoningEffort.MEDIUM: medium, ReasoningEffort.HIGH: high}[effort]
