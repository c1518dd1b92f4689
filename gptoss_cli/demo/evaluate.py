"""Asks the demo model what it was never trained on: `python -m gptoss_cli.demo.evaluate`. A quarter of an hour.

Every question is phrased, every sum is of a pair, and every name is one that training left out. The model runs as users
run it: through the engine and the session, at the default temperature. A turn is right when its answer holds the fact.
"""

import argparse
import datetime
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gptoss_cli.chat.session import ChatSession
from gptoss_cli.demo.conversations import held_out_pair
from gptoss_cli.demo.layout import demo_checkpoint
from gptoss_cli.demo.phrases import phrases, topics
from gptoss_cli.demo.turns import Turn, ask_turn, cannot_turn, sum_turn, tell_turn, topic_turn
from gptoss_cli.engine.generator import Generator
from gptoss_cli.harmony.events import AnswerDelta, TurnEnd
from gptoss_cli.settings import TRAINED_EFFORTS, ReasoningEffort


@dataclass(slots=True)
class Report:
    """Right and asked per kind, and the reasoning tokens of every turn, of one effort."""

    right: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    reasoning_tokens: list[int] = field(default_factory=list)
    wrong: list[tuple[Turn, str]] = field(default_factory=list)

    @property
    def mean_reasoning_tokens(self) -> float:
        """Mean over all turns."""
        return sum(self.reasoning_tokens) / len(self.reasoning_tokens)


def evaluate(generator: Generator, effort: ReasoningEffort, *, seed: int, every: int = 1) -> Report:
    """Ask every `every`-th held-out conversation at `effort`."""
    rng = random.Random(seed)
    report = Report()
    for turns in list(held_out_conversations(rng, effort))[::every]:
        for turn, answer, end in _play(generator, turns, effort, seed=seed):
            report.asked[turn.kind] += 1
            report.reasoning_tokens.append(end.reasoning_tokens)
            if turn.proof in answer:
                report.right[turn.kind] += 1
            else:
                report.wrong.append((turn, answer))
    return report


def held_out_conversations(rng: random.Random, effort: ReasoningEffort) -> Iterator[list[Turn]]:
    """Every question in a phrasing, every sum in a pair, every name and favourite that training never saw."""
    for topic in topics():
        for question in topic.held_out:
            yield [topic_turn(topic, question, effort)]
    for question in phrases("held_out")["chatter"]:
        yield [cannot_turn(question, effort)]
    pairs = [(a, b) for a in range(100) for b in range(100) if held_out_pair(a, b)]
    for a, b in rng.sample(pairs, 60):
        yield [sum_turn(a, b, rng.choice(phrases("held_out")["sums"]), effort)]
    for _ in range(40):
        yield _memory_conversation(rng, effort)


def _memory_conversation(rng: random.Random, effort: ReasoningEffort) -> list[Turn]:
    """Two things are told, something else is asked, then both and a third are asked for."""
    told: dict[str, str] = {}
    first, second, third = rng.sample(sorted({"name", *phrases("memory")["favourites"]}), 3)
    if rng.random() < 0.5:
        first = "name" if "name" not in (second, third) else first
    turns = [_tell(rng, told, category, effort) for category in (first, second)]
    topic = rng.choice(topics())
    turns.append(topic_turn(topic, rng.choice(topic.held_out), effort))
    for category in (first, second, third):
        templates = phrases("held_out")["ask_name" if category == "name" else "ask_favourite"]
        turns.append(ask_turn(told, category, template=rng.choice(templates), effort=effort))
    return turns


def _tell(rng: random.Random, told: dict[str, str], category: str, effort: ReasoningEffort) -> Turn:
    values = phrases("values")
    value = rng.choice(values.get(category, values["anything"]))
    templates = phrases("held_out")["tell_name" if category == "name" else "tell_favourite"]
    return tell_turn(told, category, value, template=rng.choice(templates), effort=effort)


def _play(
    generator: Generator, turns: list[Turn], effort: ReasoningEffort, *, seed: int
) -> Iterator[tuple[Turn, str, TurnEnd]]:
    session = ChatSession(
        generator, instructions=None, effort=effort, date=datetime.date(2027, 3, 9), seed=seed, max_tokens=400
    )
    for turn in turns:
        answer, end = "", None
        for event in session.turn(turn.user):
            if isinstance(event, AnswerDelta):
                answer += event.text
            elif isinstance(event, TurnEnd):
                end = event
        assert end is not None
        yield turn, answer, end


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint folder instead of the shipped demo")
    parser.add_argument("--every", type=int, default=1, help="ask only every Nth conversation")
    parser.add_argument("--seed", type=int, default=1, help="of the sampling, the sums and the conversations")
    parser.add_argument("--wrong", action="store_true", help="print the wrong answers")
    arguments = parser.parse_args()
    generator = Generator.open(arguments.checkpoint or demo_checkpoint())
    for effort in TRAINED_EFFORTS:
        report = evaluate(generator, effort, seed=arguments.seed, every=arguments.every)
        scores = "  ".join(f"{kind} {report.right[kind]}/{asked}" for kind, asked in sorted(report.asked.items()))
        print(f"{effort:7}{scores}  mean reasoning {report.mean_reasoning_tokens:.1f} tokens", flush=True)
        for turn, answer in report.wrong if arguments.wrong else ():
            print(f"    {turn.kind}: {turn.user!r}: {answer!r}")


if __name__ == "__main__":
    main()
