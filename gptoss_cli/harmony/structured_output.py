"""Constrained decoding of answers: one of several choices, or JSON that matches a schema. Works on ids, not on logits.

The masks are computed by llguidance, which the extra `structured` installs.
"""

import base64
import importlib.util
import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any, Final, Protocol, Self

from gptoss_cli.errors import Hint, UsageError
from gptoss_cli.harmony.vocabulary import FIRST_SPECIAL_ID, RETURN, VOCABULARY_SIZE, load_encoding, read_vocabulary

# One spelling of each value: if whitespace were free, a model at a high temperature might write nothing else.
_JSON_STYLE: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# The model was trained to call functions with both spellings.
_ARGUMENTS_STYLE: Final = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
# Keywords by which other parts of a schema may name properties too.
_COMPOSED: Final = frozenset({"$ref", "allOf", "anyOf", "oneOf", "patternProperties", "if", "dependentSchemas"})
_LONGEST_REASON: Final = 200
_LONGEST_LOGGED: Final = 120
_LOGGER = logging.getLogger(__name__)


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
    """The state of one answer, or of the arguments of one call, that must match an OutputFormat.

    `end` is the id that ends it: `<|return|>` or `<|call|>`.
    """

    def __init__(self, matcher: LibraryMatcher, end: int = RETURN) -> None:
        self._matcher = matcher
        self._end = end

    def mask(self) -> bytes | None:
        """Return one bit per id, lowest first, set for the ids that may come next.

        They include the end if the text may end here. None if the text no longer matches.
        """
        if self._matcher.is_error():
            return None
        if self._matcher.is_stopped():
            return _only(self._end)
        mask = self._matcher.compute_bitmask()
        return mask if self._end == RETURN else _moved(mask, RETURN, self._end)

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

    @classmethod
    def of_arguments(cls, schema: dict[str, Any]) -> Self:
        """Return the format of the arguments of a function, a JSON object that is valid under `schema`.

        Properties that the schema does not name are left out: a function would reject them. `oneOf` is taken for
        `anyOf`. Of a schema that llguidance does not support, the parts that it supports are kept; if there are none,
        the arguments are any object. A line in the log says so.
        """
        wanted = {**schema, "type": "object"}
        if "properties" in schema and not _COMPOSED & schema.keys():
            wanted.setdefault("additionalProperties", False)
        try:
            return cls._of_arguments(wanted, coerce_one_of=True)
        except UsageError as exc:
            _LOGGER.warning("arguments of a function are not held to the whole schema: %s", str(exc)[:_LONGEST_LOGGED])
        try:
            return cls._of_arguments(wanted, coerce_one_of=True, lenient=True)
        except UsageError:
            return cls._of_arguments({"type": "object"})

    @classmethod
    def _of_arguments(cls, schema: dict[str, Any], **options: bool) -> Self:
        try:
            style = {**_ARGUMENTS_STYLE, **options}
            return cls(_library().LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=style), "")
        except (ValueError, RecursionError) as exc:
            raise _unsupported(str(exc)) from exc

    def begin(self, end: int = RETURN) -> OutputMatcher:
        """Return a matcher for one answer, or for the text of a message that ends with `end`."""
        return OutputMatcher(self._matcher(), end)

    def accepts(self, text: str) -> bool:
        """Return True if `text` is a complete answer of this format."""
        matcher = self._matcher()
        ids = load_encoding().encode(text, disallowed_special=())
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


def _moved(mask: bytes, bit: int, to: int) -> bytes:
    """Return `mask` with the value of `bit` moved to the bit `to`."""
    if not mask[bit // 8] >> bit % 8 & 1:
        return mask
    moved = bytearray(mask)
    moved[bit // 8] &= ~(1 << bit % 8)
    moved[to // 8] |= 1 << to % 8
    return bytes(moved)


def is_available() -> bool:
    """Return True if llguidance is installed."""
    return importlib.util.find_spec("llguidance") is not None


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
        return load_encoding().encode(decoded, disallowed_special=())


@cache
def _tokenizer() -> Any:
    library = _library()
    wrapped = library.TokenizerWrapper(_Vocabulary())
    return library.LLTokenizer(wrapped, n_vocab=VOCABULARY_SIZE, eos_token=RETURN)


def warm_up() -> None:
    """Build what the first constrained message would wait for, which takes a second; nothing without llguidance."""
    if is_available():
        _tokenizer()
