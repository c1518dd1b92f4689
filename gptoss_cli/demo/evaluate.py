"""Asks the demo model what it was never trained on: `python -m gptoss_cli.demo.evaluate`. About ten minutes.

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

from gptoss_cli.demo.conversations import Turn, held_out_turns
from gptoss_cli.demo.layout import demo_checkpoint
from gptoss_cli.engine.generator import Generator
from gptoss_cli.harmony.events import AnswerDelta, TurnEnd
from gptoss_cli.session import ChatSession
from gptoss_cli.settings import ReasoningEffort

NAMES = "Zofia Mateusz Priya Aleksander Nguyen Oluwaseun Bjarne Saoirse Tim Anna Li Fatima Giuseppe Xochitl Ravi Tom Ingrid Kwame Yuki Dmitri Chloe Hans Maria Leo".split()
VALUES = {
    "colour": "teal crimson green ultramarine ochre",
    "color": "magenta blue turquoise ivory",
    "food": "lasagna pierogi ramen curry",
    "animal": "otter axolotl hedgehog dog",
    "city": "Lisbon Kyoto Gdansk Nairobi",
    "number": "7 42 13 99",
    "season": "autumn spring winter",
    "day": "Friday Sunday",
    "sport": "badminton judo curling",
    "drink": "lemonade kombucha espresso",
}
ANYTHING = "Zanzibar marzipan Casablanca bluebells saxophone tiramisu Solitaire Portuguese mango Dune".split()


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
    for turns in list(held_out_turns(rng, effort, lambda category: _value(rng, category)))[::every]:
        for turn, answer, end in _play(generator, turns, effort, seed=seed):
            report.asked[turn.kind] += 1
            report.reasoning_tokens.append(end.reasoning_tokens)
            if turn.proof in answer:
                report.right[turn.kind] += 1
            else:
                report.wrong.append((turn, answer))
    return report


def _value(rng: random.Random, category: str) -> str:
    return rng.choice(NAMES if category == "name" else VALUES[category].split() if category in VALUES else ANYTHING)


def _play(generator: Generator, turns: list[Turn], effort: ReasoningEffort, *, seed: int) -> Iterator[tuple[Turn, str, TurnEnd]]:
    session = ChatSession(generator, instructions=None, effort=effort, date=datetime.date(2027, 3, 9), seed=seed, max_tokens=400)
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
    parser.add_argument("--wrong", action="store_true", help="print the wrong answers")
    arguments = parser.parse_args()
    generator = Generator.open(arguments.checkpoint or demo_checkpoint())
    for effort in ReasoningEffort:
        report = evaluate(generator, effort, seed=1, every=arguments.every)
        scores = "  ".join(f"{kind} {report.right[kind]}/{asked}" for kind, asked in sorted(report.asked.items()))
        print(f"{effort:7}{scores}  mean reasoning {report.mean_reasoning_tokens:.1f} tokens", flush=True)
        for turn, answer in report.wrong if arguments.wrong else ():
            print(f"    {turn.kind}: {turn.user!r}: {answer!r}")


if __name__ == "__main__":
    main()
