"""The Harmony vocabulary: shipped with the package, unpacked once, verified at every use; no network access."""

import base64
import binascii
import hashlib
import lzma
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final

from openai_harmony import HarmonyEncoding, HarmonyEncodingName, HarmonyError, load_harmony_encoding

from gptoss_cli import generation
from gptoss_cli.errors import Hint, IntegrityError, ResourceError, first_line
from gptoss_cli.files import read_regular, replace_file
from gptoss_cli.harmony.events import TokenText
from gptoss_cli.settings import cache_folder

# Harmony guide, special tokens; the gaps are reserved.
START_OF_TEXT: Final = 199998
END_OF_TEXT: Final = 199999
RETURN: Final = 200002
CONSTRAIN: Final = 200003
CHANNEL: Final = 200005
START: Final = 200006
END: Final = 200007
MESSAGE: Final = 200008
CALL: Final = 200012

# The ordinary ids of which headers consist.
ASSISTANT: Final = 173781
ANALYSIS: Final = (35644,)
COMMENTARY: Final = (12606, 815)
FINAL: Final = (17196,)

ANSWER_HEADER: Final = (START, ASSISTANT, CHANNEL, *FINAL, MESSAGE)
# Harmony guide. After `<|end|>` alone the model would start another analysis message.
ANSWER_NOW: Final = (END, *ANSWER_HEADER)

FIRST_SPECIAL_ID: Final = 199998
VOCABULARY_SIZE: Final = generation.VOCABULARY_SIZE

STOP_IDS: Final = frozenset({RETURN, CALL, END_OF_TEXT})
_FORMAT_IDS: Final = frozenset({END_OF_TEXT, RETURN, CONSTRAIN, CHANNEL, START, END, MESSAGE, CALL})
# The model has logits for these ids but was not trained on them; they are banned in sampling.
RESERVED_IDS: Final = frozenset(range(FIRST_SPECIAL_ID, VOCABULARY_SIZE)) - _FORMAT_IDS

_FILE_NAME: Final = "o200k_base.tiktoken"
_SHIPPED_NAME: Final = "o200k_base.tokens.xz"  # the same tokens in a quarter of the bytes
_FILE_BYTES: Final = 3_613_922
_FILE_SHA256: Final = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
_BASE_VARIABLE: Final = "TIKTOKEN_ENCODINGS_BASE"
# More would have thousands of spellings.
_LONGEST_SPELLED_BYTES: Final = 16
_MOST_SPELLED_IDS: Final = 6
_LOAD_LOCK = threading.Lock()


@cache
def load_encoding() -> HarmonyEncoding:
    """Return the encoding of gpt-oss, loaded once per process.

    Sets TIKTOKEN_ENCODINGS_BASE in this process, in place of any value from the user: with it openai_harmony reads
    our file, verifies its digest and makes no request. Raises IntegrityError if the shipped vocabulary is damaged,
    ResourceError if it cannot be unpacked.
    """
    with _LOAD_LOCK, ExitStack() as temporary:
        folder = vocabulary_folder(temporary)
        os.environ[_BASE_VARIABLE] = str(folder)
        try:
            return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
        except HarmonyError as exc:
            message = f"{folder}: the vocabulary cannot be loaded ({first_line(exc)})"
            raise IntegrityError(message, Hint.DELETE_FOLDER, subject=str(folder)) from exc


def vocabulary_folder(temporary: ExitStack) -> Path:
    """Return a folder with an intact vocabulary file: in the cache, or a private one that `temporary` deletes.

    A missing or damaged file is replaced atomically, so several processes may do it at once. Raises IntegrityError if
    the shipped vocabulary is damaged, ResourceError if it cannot be unpacked.
    """
    folder = cache_folder() / "vocabulary"
    if _is_intact(folder / _FILE_NAME):
        return folder
    content = _unpack()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / _FILE_NAME, content)
    except OSError as cache_error:
        return _write_privately(content, temporary, folder, cache_error)
    return folder


def read_vocabulary(temporary: ExitStack) -> bytes:
    """Return the vocabulary file: a line per ordinary id, in order, with its bytes in base64 and the id."""
    return read_regular(vocabulary_folder(temporary) / _FILE_NAME)


def without_surrogates(text: str) -> str:
    """Return `text` with surrogate pairs joined and lone surrogates replaced by U+FFFD, as openai_harmony requires."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def token_text(token: int) -> TokenText:
    """Return the text and the bytes of an id. An id outside the vocabulary is shown as the first one after it."""
    token = token if 0 <= token < VOCABULARY_SIZE else VOCABULARY_SIZE
    text = load_encoding().decode([token])
    # openai_harmony returns text alone, so the bytes of an incomplete character are read from the vocabulary.
    data = text.encode() if "\ufffd" not in text else base64.b64decode(_vocabulary_lines()[token].split()[0])
    return TokenText(token, text, data)


def spellings(text: str, count: int) -> list[tuple[int, ...]]:
    """Return every sequence of `count` ordinary ids whose bytes are those of `text`; none for long ones.

    There are many more of them than the one that the encoding makes of it.
    """
    data = text.encode("utf-8", "replace")
    if not 0 < count <= _MOST_SPELLED_IDS or len(data) > _LONGEST_SPELLED_BYTES:
        return []
    ids = _ids_of_bytes()
    found: list[list[tuple[int, ...]]] = [[] for _ in range(len(data) + 1)]  # of each first part of the bytes
    found[0].append(())
    for end in range(1, len(data) + 1):
        for start in range(end):
            token = ids.get(data[start:end])
            if token is not None:
                found[end] += [(*spelled, token) for spelled in found[start] if len(spelled) < count]
    return [spelled for spelled in found[len(data)] if len(spelled) == count]


@cache
def partial_ids() -> frozenset[int]:
    """Return the ordinary ids whose bytes end within a character."""
    return frozenset(token for data, token in _ids_of_bytes().items() if ends_within_character(data))


def ends_within_character(data: bytes) -> bool:
    """Return True if the last character of UTF-8 bytes has begun and lacks bytes."""
    for back, byte in enumerate(reversed(data[-3:]), start=1):
        if byte >= 0b1100_0000:
            return back < (2 if byte < 0b1110_0000 else 3 if byte < 0b1111_0000 else 4)
    return False


@cache
def _ids_of_bytes() -> dict[bytes, int]:
    return {base64.b64decode(line.split()[0]): token for token, line in enumerate(_vocabulary_lines())}


@cache
def _vocabulary_lines() -> list[bytes]:
    with ExitStack() as temporary:
        return read_vocabulary(temporary).splitlines()


def _is_intact(path: Path) -> bool:
    try:
        if path.stat().st_size != _FILE_BYTES:
            return False
        return hashlib.sha256(read_regular(path)).hexdigest() == _FILE_SHA256
    except OSError:
        return False


def _unpack() -> bytes:
    shipped = resources.files("gptoss_cli.harmony") / "data" / _SHIPPED_NAME
    try:
        content = b"".join(_lines_of(lzma.decompress(shipped.read_bytes())))
    except (OSError, lzma.LZMAError) as exc:
        raise IntegrityError(f"The vocabulary in the package cannot be read ({exc})", Hint.REINSTALL) from exc
    if hashlib.sha256(content).hexdigest() != _FILE_SHA256:
        raise IntegrityError("The vocabulary in the package is damaged", Hint.REINSTALL)
    return content


def _lines_of(packed: bytes) -> Iterator[bytes]:
    """Yield the lines of tiktoken's format from tokens in the order of their ids, each after its length in a byte."""
    start, id_ = 0, 0
    while start < len(packed):
        end = start + 1 + packed[start]
        yield b"%b %d\n" % (binascii.b2a_base64(packed[start + 1 : end], newline=False), id_)
        start, id_ = end, id_ + 1


def _write_privately(content: bytes, temporary: ExitStack, folder: Path, cache_error: OSError) -> Path:
    try:
        private = Path(temporary.enter_context(tempfile.TemporaryDirectory(prefix="gptoss-vocabulary-")))
        replace_file(private / _FILE_NAME, content)
    except OSError as exc:
        raise ResourceError(
            f"The vocabulary ({_FILE_BYTES / 1e6:.1f} MB) cannot be written to {folder} ({cache_error.strerror}) "
            f"or to a temporary folder ({exc.strerror})",
            Hint.FREE_DISK_SPACE,
            Hint.ANOTHER_DATA_FOLDER,
        ) from exc
    return private
