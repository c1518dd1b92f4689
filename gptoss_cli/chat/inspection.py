"""The tokens of a turn with their log probabilities and experts: while it runs, or afterwards, by reading it again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from gptoss_cli.generation import Forced, Sampling, TokenGenerator, TokenInfo
from gptoss_cli.harmony.events import Channel, Token
from gptoss_cli.harmony.parser import TurnParser
from gptoss_cli.harmony.vocabulary import CHANNEL, END, START, STOP_IDS, token_text

# These end a message or begin a header wherever they occur.
_MARKUP_IDS: Final = STOP_IDS | {START, CHANNEL, END}


@dataclass(slots=True)
class DecodedTurn:
    """The ids of a turn and of its prompt. `forced` and `restricted` are positions in `ids`; see TokenInfo.

    `answering`: the prompt ends with the header of the answer.
    """

    prompt: list[int]
    answering: bool
    ids: list[int] = field(default_factory=list)
    forced: set[int] = field(default_factory=set)
    restricted: set[int] = field(default_factory=set)


def token_event(info: TokenInfo, parser: TurnParser) -> Token:
    """Return the event of an id that `parser` is fed next."""
    message = parser.open_message
    is_content = message is not None and info.id not in _MARKUP_IDS
    channel = (message.channel or Channel.FINAL) if message is not None and is_content else None
    top = tuple((token_text(id_), logprob) for id_, logprob in info.top)
    return Token(token_text(info.id), channel, info, top)


def read_again(
    generator: TokenGenerator, turn: DecodedTurn, is_stopped: Callable[[], bool], *, top: int
) -> Iterator[Token]:
    """Force the ids of a finished turn after its prompt, and yield its tokens until `is_stopped`.

    This computes what the turn computed. It takes about as long as the turn took, and normal turns need not keep
    anything for it but their ids. Closing the iterator stops the reading.
    """
    parser = TurnParser(answering=turn.answering)
    seen: list[TokenInfo] = []
    for _ in generator.prefill(turn.prompt):
        if is_stopped():
            return
    ids = generator.decode(
        Sampling(seed=0),
        stop_ids=(),
        banned_ids=(),
        max_tokens=len(turn.ids),
        constraint=_Replay(turn.ids),
        observer=seen.append,
        top=top,
    )
    for position, id_ in enumerate(ids):
        forced, restricted = position in turn.forced, position in turn.restricted
        yield token_event(replace(seen.pop(), forced=forced, restricted=restricted), parser)
        parser.feed(id_)
        if is_stopped():
            return


class _Replay:
    """A TokenConstraint that forces given ids."""

    def __init__(self, ids: list[int]) -> None:
        self._rule = Forced(tuple(ids))

    def next(self) -> Forced:
        return self._rule
