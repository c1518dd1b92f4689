"""Output of one turn outside of a chat: rendered on the streams that are terminals, plain on the others."""

from collections.abc import Iterable, Iterator

from gptoss_cli.errors import GptossError
from gptoss_cli.harmony.events import (
    AnswerDelta,
    Event,
    MessageEnd,
    PrefillProgress,
    ReasoningCut,
    TurnEnd,
)
from gptoss_cli.settings import ReasoningDisplay
from gptoss_cli.terminal.console import Console, Output
from gptoss_cli.terminal.live_region import LiveRegion
from gptoss_cli.terminal.turn_live import TurnView
from gptoss_cli.terminal.turn_plain import PlainView, show_turn


def show_rendered_turn(events: Iterable[Event], console: Console, *, reasoning: ReasoningDisplay) -> TurnEnd:
    """Show the events of a turn like show_turn(), but Markdown and whole words on a terminal.

    Raises what `events` raises, and what Console.out raises.
    """
    out = console.renders_on(console.stdout)
    if not out and not console.renders_on(console.stderr):
        return show_turn(events, console, reasoning=reasoning)
    screen = _screen(console, console.stdout if out else console.stderr)
    view = TurnView(screen, reasoning, has_keys=False, has_status=not console.quiet)
    if console.quiet:
        events = (event for event in events if not isinstance(event, PrefillProgress | ReasoningCut))
    if not out or not console.stderr.is_terminal:
        events = _divert(events, view, PlainView(console, None, reasoning), answers=not out)
    try:
        return view.follow(events)
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise GptossError(f"stdout cannot be written: {exc.strerror or exc}; the output is incomplete") from exc


def show_rendered_answer(text: str, console: Console) -> None:
    """Show a whole answer on stdout, which is a terminal."""
    view = TurnView(_screen(console, console.stdout), ReasoningDisplay.HIDE, has_keys=False)
    view.show(AnswerDelta(text))
    view.end()


def _screen(console: Console, output: Output) -> LiveRegion:
    assert output.stream is not None
    return LiveRegion(output.stream, console.environment, colored=console.colors_on(output))


def _divert(events: Iterable[Event], view: TurnView, plain: PlainView, *, answers: bool) -> Iterator[Event]:
    """Show the answer, or else everything but the answer, with `plain`, and yield the other events for `view`."""
    try:
        for event in events:
            if isinstance(event, MessageEnd | TurnEnd):
                plain.show(event)
                yield event
            elif isinstance(event, AnswerDelta) is not answers:
                yield event
            else:
                # Both may be the same terminal, so the line that is redrawn has to be gone.
                view.end()
                plain.show(event)
    except BrokenPipeError:
        raise
    except BaseException:
        plain.end_part()
        raise
