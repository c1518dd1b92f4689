"""Constrained decoding of answers: one of several choices, or JSON that matches a schema. Works on ids, not on logits.

The masks are computed by llguidance, which the extra `structured` installs.
"""

import base64
import importlib.util
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any, Final, Protocol, Self

from gptoss_cli.errors import Hint, UsageError, first_line
from gptoss_cli.harmony.encoding import encode
from gptoss_cli.harmony.json_schema import checked_schema, unsupported, without_format
from gptoss_cli.harmony.vocabulary import FIRST_SPECIAL_ID, RETURN, VOCABULARY_SIZE, read_vocabulary

# One spelling of each value: if whitespace were free, a model at a high temperature might write nothing else.
_JSON_STYLE: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# The model was trained to call functions with both spellings.
_ARGUMENTS_STYLE: Final = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
# Keywords by which other parts of a schema may name properties too.
_COMPOSED: Final = frozenset({"$ref", "allOf", "anyOf", "oneOf", "patternProperties", "if", "dependentSchemas"})
_LOGGER: Final = logging.getLogger(__name__)
_TOKENIZER_LOCK: Final = threading.Lock()
_UNKNOWN_FORMAT: Final = "Unknown format: "
_DIGITS: Final = b"0123456789"
_MOST_DIGITS: Final = 15


class LibraryMatcher(Protocol):
    """The methods of llguidance.LLMatcher that are used here."""

    def is_error(self) -> bool: ...

    def get_error(self) -> str: ...

    def is_stopped(self) -> bool: ...

    def is_accepting(self) -> bool: ...

    def compute_bitmask(self) -> bytes: ...

    def consume_token(self, token: int) -> bool: ...

    def try_consume_tokens(self, tokens: list[int]) -> int: ...


class DigitLimit:
    """Counts the digits of a number in JSON, and bans the tokens that would make them more than 15 in a row."""

    def __init__(self) -> None:
        self._run = 0
        self._in_string = self._is_escaped = False

    def feed(self, token: int) -> None:
        """Take the next id of the answer."""
        for byte in _vocabulary().tokens[token]:
            self._run = self._run + 1 if byte in _DIGITS and not self._in_string else 0
            if self._is_escaped:
                self._is_escaped = False
            elif byte == ord('"'):
                self._in_string = not self._in_string
            else:
                self._is_escaped = self._in_string and byte == ord("\\")

    def limited(self, mask: bytes) -> bytes:
        """Return `mask` without the ids that are too many digits, or `mask` itself if nothing would be left.

        No id is more than three digits, so none can be too many within itself.
        """
        room = max(0, _MOST_DIGITS - self._run)
        digits = _ids_of_digits()
        if room >= len(digits):
            return mask
        bits = int.from_bytes(mask, "little")
        rest = bits & ~digits[room]
        return rest.to_bytes(len(mask), "little") if rest else mask


class OutputMatcher:
    """The state of one answer, or of the arguments of one call, that must match an OutputFormat.

    `end` is the id that ends it: `<|return|>` or `<|call|>`.
    """

    def __init__(self, matcher: LibraryMatcher, digits: DigitLimit | None = None, *, end: int = RETURN) -> None:
        self._matcher = matcher
        self._end = end
        self._digits = digits

    def mask(self) -> bytes | None:
        """Return one bit per id, lowest first, set for the ids that may come next.

        They include the end if the text may end here. None if the text no longer matches.
        """
        if self._matcher.is_error():
            return None
        if self._matcher.is_stopped():
            return _only(self._end)
        mask = self._matcher.compute_bitmask()
        mask = mask if self._digits is None else self._digits.limited(mask)
        return mask if self._end == RETURN else _moved(mask, RETURN, self._end)

    def feed(self, *ids: int) -> None:
        """Take the next ids of the answer."""
        for token in ids:
            if not self._matcher.is_error() and not self._matcher.is_stopped():
                self._matcher.consume_token(token)
                if self._digits is not None:
                    self._digits.feed(token)


class OutputFormat:
    """A format that a whole answer must have. `description` is the part of the prompt that explains it to the model.

    With `limits_digits` it is JSON, and a number has at most 15 digits before the point and 15 after it, unless no
    other number is valid: a model that is unsure of a number might write digits without end.
    """

    def __init__(self, grammar: str, description: str, *, limits_digits: bool = False) -> None:
        """Raises UsageError for a grammar that llguidance does not support."""
        self.description = description
        self.ignored_formats: tuple[str, ...] = ()
        self._grammar = grammar
        self._limits_digits = limits_digits
        matcher = self._matcher()
        if matcher.is_error():
            raise _GrammarError(matcher.get_error())

    @classmethod
    def of_choices(cls, choices: Sequence[str]) -> Self:
        """Return the format of an answer that is exactly one of `choices`."""
        grammar = _library().grammar_from("choice", json.dumps(list(choices)))
        listed = "\n".join(f"- {choice}" for choice in choices)
        return cls(grammar, f"Answer with exactly one of these, and with nothing else:\n{listed}")

    @classmethod
    def of_schema(cls, schema: dict[str, Any]) -> Self:
        """Return the format of JSON that is valid under `schema`, a JSON Schema.

        Formats that are not known are left out of it: they are `ignored_formats`. Raises SchemaError for a schema that
        is not supported.
        """
        schema = checked_schema(schema)
        # Harmony guide, structured output.
        description = f"# Response Formats\n\n## answer\n\n{json.dumps(schema, ensure_ascii=False)}"
        return cls._of_json(schema, description, _JSON_STYLE)

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
        for lenient in (False, True):
            try:
                style = {**_ARGUMENTS_STYLE, "coerce_one_of": True, "lenient": lenient}
                return cls._of_json(checked_schema(wanted), "", style)
            except UsageError as exc:
                _LOGGER.warning("the arguments of a function are not held to its whole schema: %s", exc)
        return cls._of_json({"type": "object"}, "", _ARGUMENTS_STYLE)

    @classmethod
    def _of_json(cls, schema: dict[str, Any], description: str, style: Mapping[str, object]) -> Self:
        ignored: list[str] = []
        while True:
            try:
                # json.dumps escapes lone surrogates, which JSON may contain and UTF-8 may not.
                text = json.dumps(schema)
                grammar = _library().LLMatcher.grammar_from_json_schema(text, overrides=style)
                made = cls(grammar, description, limits_digits=True)
            except _GrammarError as exc:
                name = exc.reason.removeprefix(_UNKNOWN_FORMAT)
                if name == exc.reason or name in ignored:
                    raise unsupported(exc.reason) from exc
                ignored.append(name)
                schema = without_format(schema, name)
            except ValueError as exc:
                raise unsupported(str(exc)) from exc
            else:
                made.ignored_formats = tuple(ignored)
                return made

    def begin(self, end: int = RETURN) -> OutputMatcher:
        """Return a matcher for one answer, or for the text of a message that ends with `end`."""
        return OutputMatcher(self._matcher(), DigitLimit() if self._limits_digits else None, end=end)

    def accepts(self, text: str) -> bool:
        """Return True if `text` is a complete answer of this format."""
        matcher = self._matcher()
        ids = encode(text)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    def _matcher(self) -> LibraryMatcher:
        matcher: LibraryMatcher = _library().LLMatcher(_tokenizer(), self._grammar, log_level=0)
        return matcher


class _GrammarError(UsageError):
    """A grammar that llguidance does not support. `reason` is its own message."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The output format is not supported: {first_line(ValueError(reason))}")
        self.reason = " ".join(reason.split())


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
        return encode(decoded)


@cache
def _vocabulary() -> _Vocabulary:
    return _Vocabulary()


@cache
def _ids_of_digits() -> tuple[int, ...]:
    """Return for n = 0, 1, 2 the ids that begin with more than n digits, as a number with a bit for each."""
    masks = [0, 0, 0]
    for id_, data in enumerate(_vocabulary().tokens):
        for n in range(min(3, len(data) - len(data.lstrip(_DIGITS)))):
            masks[n] |= 1 << id_
    return tuple(masks)


def _tokenizer() -> Any:
    with _TOKENIZER_LOCK:  # a second thread waits instead of building another one
        return _built_tokenizer()


@cache
def _built_tokenizer() -> Any:
    library = _library()
    wrapped = library.TokenizerWrapper(_vocabulary())
    return library.LLTokenizer(wrapped, n_vocab=VOCABULARY_SIZE, eos_token=RETURN)


def warm_up() -> None:
    """Build what the first constrained message would wait for, which takes a second; nothing without llguidance."""
    if is_available():
        _tokenizer()
