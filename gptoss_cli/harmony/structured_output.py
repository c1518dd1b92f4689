"""Constrained decoding of answers: one of several choices, or JSON that matches a schema. Works on ids, not on logits.

The masks are computed by llguidance, which the extra `structured` installs.
"""

import base64
import json
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any, Final, Protocol, Self

from gptoss_cli.errors import Hint, UsageError
from gptoss_cli.harmony.encoding import encode
from gptoss_cli.harmony.vocabulary import FIRST_SPECIAL_ID, RETURN, VOCABULARY_SIZE, read_vocabulary

# One spelling of each value: if whitespace were free, a model at a high temperature might write nothing else.
_JSON_STYLE: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LONGEST_REASON: Final = 200


class LibraryMatcher(Protocol):
    """The methods of llguidance.LLMatcher that are used here."""

    def is_error(self) -> bool: ...

    def get_error(self) -> str: ...

    def is_stopped(self) -> bool: ...

    def is_accepting(self) -> bool: ...

    def compute_bitmask(self) -> bytes: ...

    def consume_token(self, token: int) -> bool: ...

    def try_consume_tokens(self, tokens: list[int]) -> int: ...


class OutputMatcher:
    """The state of one answer that must match an OutputFormat."""

    def __init__(self, matcher: LibraryMatcher) -> None:
        self._matcher = matcher

    def mask(self) -> bytes | None:
        """Return one bit per id, lowest first, set for the ids that may come next.

        They include `<|return|>` if the answer may end here. None if the answer no longer matches.
        """
        if self._matcher.is_error():
            return None
        if self._matcher.is_stopped():
            return _only(RETURN)
        return self._matcher.compute_bitmask()

    def feed(self, *ids: int) -> None:
        """Take the next ids of the answer."""
        for token in ids:
            if not self._matcher.is_error() and not self._matcher.is_stopped():
                self._matcher.consume_token(token)


class OutputFormat:
    """A format that a whole answer must have. `description` is the part of the prompt that explains it to the model."""

    def __init__(self, grammar: str, description: str) -> None:
        """Raises UsageError for a grammar that llguidance does not support."""
        self.description = description
        self._grammar = grammar
        matcher = self._matcher()
        if matcher.is_error():
            raise _unsupported(matcher.get_error())

    @classmethod
    def of_choices(cls, choices: Sequence[str]) -> Self:
        """Return the format of an answer that is exactly one of `choices`."""
        grammar = _library().grammar_from("choice", json.dumps(list(choices)))
        listed = "\n".join(f"- {choice}" for choice in choices)
        return cls(grammar, f"Answer with exactly one of these, and with nothing else:\n{listed}")

    @classmethod
    def of_schema(cls, schema: dict[str, Any]) -> Self:
        """Return the format of JSON that is valid under `schema`, a JSON Schema.

        Raises UsageError for a schema that llguidance does not support.
        """
        library = _library()
        try:
            # json.dumps escapes lone surrogates, which JSON may contain and UTF-8 may not.
            grammar = library.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_JSON_STYLE)
        except (ValueError, RecursionError) as exc:
            raise _unsupported(str(exc)) from exc
        # Harmony guide, structured output.
        return cls(grammar, f"# Response Formats\n\n## answer\n\n{json.dumps(schema, ensure_ascii=False)}")

    def begin(self) -> OutputMatcher:
        """Return a matcher for one answer."""
        return OutputMatcher(self._matcher())

    def accepts(self, text: str) -> bool:
        """Return True if `text` is a complete answer of this format."""
        matcher = self._matcher()
        ids = encode(text)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    def _matcher(self) -> LibraryMatcher:
        matcher: LibraryMatcher = _library().LLMatcher(_tokenizer(), self._grammar, log_level=0)
        return matcher


def _unsupported(reason: str) -> UsageError:
    return UsageError(f"The output format is not supported: {' '.join(reason.split())[:_LONGEST_REASON].rstrip('.')}")


def _only(token: int) -> bytes:
    mask = bytearray(-(-VOCABULARY_SIZE // 8))
    mask[token // 8] = 1 << token % 8
    return bytes(mask)


def _library() -> Any:
    try:
        import llguidance  # here, because it is optional
    except ImportError as exc:
        raise UsageError("Structured output needs llguidance, which is not installed", Hint.INSTALL_STRUCTURED) from exc
    return llguidance


class _Vocabulary:
    """The Harmony vocabulary with the attributes that llguidance.TokenizerWrapper reads."""

    def __init__(self) -> None:
        with ExitStack() as temporary:
            lines = read_vocabulary(temporary).splitlines()
        self.tokens = [base64.b64decode(line.split(b" ")[0]) for line in lines]
        self.special_token_ids = list(range(len(self.tokens), VOCABULARY_SIZE))
        self.tokens += [b"<|%d|>" % token for token in self.special_token_ids]
        self.eos_token_id = RETURN
        self.bos_token_id = None
        assert self.special_token_ids[0] == FIRST_SPECIAL_ID, "ids are consecutive"

    def __call__(self, text: str | bytes) -> list[int]:
        decoded = text if isinstance(text, str) else text.decode("utf-8", "replace")
        return encode(decoded)


@cache
def _tokenizer() -> Any:
    library = _library()
    wrapped = library.TokenizerWrapper(_Vocabulary())
    return library.LLTokenizer(wrapped, n_vocab=VOCABULARY_SIZE, eos_token=RETURN)
