"""CPU time per token of parser, grammar and repetition detector: `python -m tests.benchmark_turn`."""

import statistics
import time

from gptoss_cli.chat.constraints import TurnConstraint
from gptoss_cli.harmony.grammar import Grammar
from gptoss_cli.harmony.parser import TurnParser
from gptoss_cli.harmony.vocabulary import STOP_IDS
from tests.harmony.malformed import ANALYSIS, ids_of

PONDER = "Let me think about what the letters are, and how many of them went to the harbour. "


def seconds_per_token(ids: list[int]) -> float:
    """CPU seconds per id of one turn of `ids`, from the question what may come next to its events."""
    parser = TurnParser()
    constraint = TurnConstraint(parser, Grammar(["functions.look"]), think_budget=1_000_000)
    began = time.process_time()
    for token in ids:
        constraint.next()
        parser.feed(token)
        constraint.feed(token)
    return (time.process_time() - began) / len(ids)


def main() -> None:
    """Print the median of nine turns, of a short one and of one ten times as long."""
    for sentences in (60, 600):
        ids = [*ids_of(ANALYSIS), *ids_of(PONDER.join(str(n * n) for n in range(sentences))), *STOP_IDS]
        median = statistics.median(seconds_per_token(ids) for _ in range(9))
        print(f"{len(ids):6} tokens: {median * 1e6:.1f} us per token")


if __name__ == "__main__":
    main()
