"""What the text of an answer may be: one of some choices, or JSON of a schema. Knows ids and text, no logits.

The constraint itself is computed by llguidance, which is installed by the extra `structured`.
"""

import base64
import json
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from gptoss_cli.errors import UsageError
from gptoss_cli.harmony.vocabulary import FIRST_SPECIAL_ID, RETURN, VOCABULARY_SIZE, load_encoding, read_vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# One way of writing each value: with free white space a hot model may write nothing else.
_JSON_STYLE: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class OutputFormat:
    """A form that the whole text of an answer must have; `description` tells the model of it."""

    def __init__(self, grammar: str, description: str) -> None:
        """Raises UsageError for a grammar that cannot be followed."""
        self.description = description
        self._grammar = grammar
        matcher = self._matcher()
        if matcher.is_error():
            reason = " ".join(matcher.get_error().split())[:200]
            raise UsageError(f"Answers cannot be held to that: {reason}.")

    @classmethod
    def of_choices(cls, choices: Sequence[str]) -> "OutputFormat":
        """Exactly one of `choices`."""
        library = _library()
        listed = "\n".join(f"- {choice}" for choice in choices)
        grammar = library.grammar_from("choice", json.dumps(list(choices)))
        return cls(grammar, f"Answer with exactly one of these, and with nothing else:\n{listed}")

    @classmethod
    def of_schema(cls, schema: dict[str, Any]) -> "OutputFormat":
        """JSON that `schema` (JSON Schema) allows. Raises UsageError for one that cannot be followed."""
        library = _library()
        try:
            # Escaped, since a lone surrogate may be written in JSON but in no UTF-8.
            grammar = library.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_JSON_STYLE)
        except (ValueError, RecursionError) as exc:
            raise UsageError(f"Answers cannot be held to that: {' '.join(str(exc).split())[:200]}.") from exc
        # Harmony guide, structured output.
        return cls(grammar, f"# Response Formats\n\n## answer\n\n{json.dumps(schema, ensure_ascii=False)}")

    def begin(self) -> "OutputMatcher":
        """A guide for one answer."""
        return OutputMatcher(self._matcher())

    def accepts(self, text: str) -> bool:
        """Whether `text` is a whole answer of this form."""
        matcher = self._matcher()
        ids = load_encoding().encode(text, disallowed_special=())
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    def _matcher(self) -> "LLMatcher":
        matcher: LLMatcher = _library().LLMatcher(_tokenizer(), self._grammar, log_level=0)
        return matcher


class OutputMatcher:
    """Follows one answer id by id and says what may come next."""

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher

    def mask(self) -> bytes | None:
        """One bit per id, the lowest first, set for those that may come; `<|return|>` among them where the text is
        whole. None where the text has left the form, so that nothing can be said.
        """
        if self._matcher.is_error():
            return None
        if self._matcher.is_stopped():
            return _only(RETURN)
        return self._matcher.compute_bitmask()

    def feed(self, *ids: int) -> None:
        """Take notice of the answer's next ids."""
        for token in ids:
            if not self._matcher.is_error() and not self._matcher.is_stopped():
                self._matcher.consume_token(token)


def _only(token: int) -> bytes:
    mask = bytearray(-(-VOCABULARY_SIZE // 8))
    mask[token // 8] = 1 << token % 8
    return bytes(mask)


def _library() -> Any:
    try:
        import llguidance
    except ImportError as exc:
        raise UsageError("--schema and --choice need llguidance. Run: pip install 'gptoss[structured]'") from exc
    return llguidance


class _Tokens:
    """The Harmony vocabulary as llguidance wants it."""

    def __init__(self) -> None:
        with ExitStack() as temporary:
            lines = read_vocabulary(temporary).splitlines()
        self.tokens = [base64.b64decode(line.split(b" ")[0]) for line in lines]
        self.special_token_ids = list(range(len(self.tokens), VOCABULARY_SIZE))
        self.tokens += [b"<|%d|>" % token for token in self.special_token_ids]
        self.eos_token_id = RETURN
        self.bos_token_id = None
        assert self.special_token_ids[0] == FIRST_SPECIAL_ID, "ids are in order and without a gap"

    def __call__(self, text: str | bytes) -> list[int]:
        whole = text if isinstance(text, str) else text.decode("utf-8", "replace")
        return load_encoding().encode(whole, disallowed_special=())


@cache
def _tokenizer() -> "LLTokenizer":
    library = _library()
    wrapped = library.TokenizerWrapper(_Tokens())
    tokenizer: LLTokenizer = library.LLTokenizer(wrapped, n_vocab=VOCABULARY_SIZE, eos_token=RETURN)
    return tokenizer
