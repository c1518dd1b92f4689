"""The Harmony vocabulary: shipped with the program, unpacked once, checked at every use. Never touches the network."""

import hashlib
import lzma
import os
import tempfile
import threading
from contextlib import ExitStack, suppress
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final

from openai_harmony import HarmonyEncoding, HarmonyEncodingName, HarmonyError, load_harmony_encoding

from gptoss_cli.errors import IntegrityError, ResourceError
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

# The ordinary ids that headers are made of.
ASSISTANT: Final = 173781
ANALYSIS: Final = (35644,)
COMMENTARY: Final = (12606, 815)
FINAL: Final = (17196,)

ANSWER_HEADER: Final = (START, ASSISTANT, CHANNEL, *FINAL, MESSAGE)
# Harmony guide; after a mere `<|end|>` the model opens analysis again.
ANSWER_NOW: Final = (END, *ANSWER_HEADER)

FIRST_SPECIAL_ID: Final = 199998
VOCABULARY_SIZE: Final = 201088

STOP_IDS: Final = frozenset({RETURN, CALL, END_OF_TEXT})
_FORMAT_IDS: Final = frozenset({END_OF_TEXT, RETURN, CONSTRAIN, CHANNEL, START, END, MESSAGE, CALL})
# The model has rows for these but was never trained to say them; sampling masks them.
RESERVED_IDS: Final = frozenset(range(FIRST_SPECIAL_ID, VOCABULARY_SIZE)) - _FORMAT_IDS

_FILE_NAME: Final = "o200k_base.tiktoken"
_FILE_BYTES: Final = 3_613_922
_FILE_SHA256: Final = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
_BASE_VARIABLE: Final = "TIKTOKEN_ENCODINGS_BASE"
_LOADING = threading.Lock()


@cache
def load_encoding() -> HarmonyEncoding:
    """The encoding of gpt-oss, loaded once per process.

    Sets TIKTOKEN_ENCODINGS_BASE in this process, over whatever the user had there: with it the library reads our
    file, checks its digest again and makes no request. Raises IntegrityError when the shipped vocabulary is damaged,
    ResourceError when it can be unpacked nowhere.
    """
    with _LOADING, ExitStack() as temporary:
        folder = vocabulary_folder(temporary)
        os.environ[_BASE_VARIABLE] = str(folder)
        try:
            return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
        except HarmonyError as exc:
            message = f"The vocabulary in {folder} cannot be loaded ({exc}). Delete it and try again."
            raise IntegrityError(message) from exc


def vocabulary_folder(temporary: ExitStack) -> Path:
    """A folder with an intact vocabulary file: in the cache, or private and gone when `temporary` closes.

    A file that is missing or wrong is written again, complete or not at all, so two processes may do it at once.
    """
    folder = cache_folder() / "vocabulary"
    if _is_intact(folder / _FILE_NAME):
        return folder
    content = _unpack()
    try:
        _write(folder, content)
    except OSError as cache_error:
        return _write_privately(content, temporary, folder, cache_error)
    return folder


def read_vocabulary(temporary: ExitStack) -> bytes:
    """The vocabulary file: a line for each ordinary id, in order, with its bytes in base64 and the id."""
    return (vocabulary_folder(temporary) / _FILE_NAME).read_bytes()


def _is_intact(path: Path) -> bool:
    try:
        if path.stat().st_size != _FILE_BYTES:
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == _FILE_SHA256
    except OSError:
        return False


def _unpack() -> bytes:
    shipped = resources.files("gptoss_cli.harmony") / "data" / f"{_FILE_NAME}.xz"
    try:
        content = lzma.decompress(shipped.read_bytes())
    except (OSError, lzma.LZMAError) as exc:
        raise IntegrityError(f"The vocabulary shipped with gptoss cannot be read ({exc}). Reinstall gptoss.") from exc
    if hashlib.sha256(content).hexdigest() != _FILE_SHA256:
        raise IntegrityError("The vocabulary shipped with gptoss is damaged. Reinstall gptoss.")
    return content


def _write(folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{_FILE_NAME}.", dir=folder)
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(name, folder / _FILE_NAME)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _write_privately(content: bytes, temporary: ExitStack, folder: Path, cache_error: OSError) -> Path:
    try:
        private = Path(temporary.enter_context(tempfile.TemporaryDirectory(prefix="gptoss-vocabulary-")))
        _write(private, content)
    except OSError as exc:
        raise ResourceError(
            f"The vocabulary ({_FILE_BYTES / 1e6:.1f} MB) can be written neither to {folder} ({cache_error.strerror}) "
            f"nor to a temporary folder ({exc.strerror}). Free some space or set GPTOSS_HOME to a folder with room."
        ) from exc
    return private
