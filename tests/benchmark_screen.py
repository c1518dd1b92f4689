"""CPU time of live output, in 120 columns at 500 tokens/s: `python -m tests.benchmark_screen`."""

import io
import statistics
import time

from gptoss_cli.harmony.events import AnswerDelta
from gptoss_cli.settings import ReasoningDisplay
from gptoss_cli.terminal.live_region import LiveRegion
from gptoss_cli.terminal.turn_live import TurnView

TOKENS_A_FRAME = 42  # 500 tokens and 12 frames per second
TOKEN_CHARACTERS = 4
PARAGRAPH = "Some **words** of an answer that `goes` on, and a [link](http://a.b) in it. " * 6
ITEMS = "- a point\n- another *point*\n\n```py\ndef f(x):\n    return x + 1\n```\n\n"


class WideScreen(LiveRegion):
    """A live region on a terminal of 120 columns."""

    @property
    def size(self) -> tuple[int, int]:
        return 120, 40


def seconds_per_token(size: int) -> float:
    """CPU seconds per token of one answer of `size` characters: paragraphs, lists and code."""
    text = (f"{PARAGRAPH}\n\n{ITEMS}" * (size // 500 + 1))[:size]
    pieces = [text[start : start + TOKEN_CHARACTERS] for start in range(0, size, TOKEN_CHARACTERS)]
    view = TurnView(WideScreen(io.StringIO(), {}, colored=True), ReasoningDisplay.SHOW)
    began = time.process_time()
    for number, piece in enumerate(pieces):
        view.show(AnswerDelta(piece))
        if number % TOKENS_A_FRAME == 0:
            view.draw()
    view.end()
    return (time.process_time() - began) / len(pieces)


def main() -> None:
    """Print the medians of seven answers of 20 kB and of 80 kB."""
    for size in (20_000, 80_000):
        median = statistics.median(seconds_per_token(size) for _ in range(7))
        print(f"{size:6} characters: {median * 1e6:.1f} us per token")


if __name__ == "__main__":
    main()
