"""Questions with expected answers, judging, the file of results, and the figures of `gptoss evaluate`."""

import hashlib
import json
import math
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from gptoss_cli.cli.prompt_input import printable_path, valid_text
from gptoss_cli.errors import ResourceError, UsageError
from gptoss_cli.files import open_to_append, read_regular
from gptoss_cli.settings import ReasoningEffort

_KINDS: Final = ("answer", "number", "choice", "pattern", "command")
_KEYS: Final = frozenset({"question", "tolerance", "choices", *_KINDS})
# A minus after a digit or a letter is a dash, as in 10-12.
_NUMBER: Final = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,3})?")
_COMMAND_SECONDS: Final = 60
_NORMAL_95: Final = 1.959963984540054  # the 97.5 % quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class Question:
    """A line of the file: a question, and one way to judge the answer. `values` is the line as it was read."""

    text: str
    values: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """A digest of the line, whatever the order of its keys."""
        return _digest(self.values)

    def accepts(self, answer: str) -> bool:
        """Return whether `answer` is right. Runs the shell command of the line, if it has one."""
        values, answer = self.values, answer.strip()
        if "answer" in values:
            return bool(answer == values["answer"].strip())
        if "number" in values:
            return _is_number(answer, float(values["number"]), float(values.get("tolerance", 0)))
        if "choice" in values:
            return bool(_last_choice(answer, values["choices"]) == values["choice"])
        if "pattern" in values:
            return re.search(values["pattern"], answer) is not None
        return _command_accepts(values["command"], answer)


def read_questions(path: Path) -> list[Question]:
    """Read a JSON Lines file. Raises UsageError, with the number of the line that is wrong."""
    try:
        lines = read_regular(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as exc:
        raise UsageError(f"{printable_path(path)} cannot be read: {exc.strerror or exc}") from exc
    questions = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                questions.append(_question(json.loads(line.decode("utf-8"))))
            except (json.JSONDecodeError, UnicodeDecodeError) as exc:
                raise UsageError(f"{printable_path(path)}, line {number}: it is not JSON") from exc
            except (ValueError, OverflowError, RecursionError) as exc:
                raise UsageError(f"{printable_path(path)}, line {number}: {exc}") from exc
    if not questions:
        raise UsageError(f"{printable_path(path)} has no questions. Write one per line, as a JSON object.")
    return questions


def _question(values: Any) -> Question:
    """Return the question of a line. Raises ValueError."""
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    unknown = sorted(values.keys() - _KEYS)
    if unknown:
        raise ValueError(f"there is no key {unknown[0]!r}. Keys are: question, {', '.join(_KINDS)}, choices, tolerance")
    kinds = [kind for kind in _KINDS if kind in values]
    if len(kinds) != 1:
        raise ValueError(f"it needs exactly one of {', '.join(_KINDS)}, and has {len(kinds)}")
    for key in ("question", *kinds):
        if key != "number" and not (isinstance(values.get(key), str) and values[key].strip()):
            raise ValueError(f"{key!r} should be a text that is not empty")
    for key in {"number", "tolerance"} & values.keys():
        value = values[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{key!r} should be a number")
    _check_details(values, kinds[0])
    return Question(valid_text(values["question"]), values)


def _check_details(values: Mapping[str, Any], kind: str) -> None:
    if "tolerance" in values and (kind != "number" or values["tolerance"] < 0):
        raise ValueError("'tolerance' goes with 'number', and is not negative")
    if (kind == "choice") != ("choices" in values):
        raise ValueError("'choice' and 'choices' go together")
    if kind == "choice":
        choices = values["choices"]
        if not isinstance(choices, list) or not all(isinstance(each, str) and each.strip() for each in choices):
            raise ValueError("'choices' should be a list of texts")
        if values["choice"] not in choices:
            raise ValueError("'choice' should be one of 'choices'")
    if kind == "pattern":
        try:
            re.compile(values["pattern"])
        except re.error as exc:
            raise ValueError(f"'pattern' is not a regular expression: {exc}") from exc


def _is_number(answer: str, expected: float, tolerance: float) -> bool:
    """Compare the last number of the answer. Commas may separate thousands."""
    found = _NUMBER.findall(answer.replace("\N{MINUS SIGN}", "-"))
    return bool(found) and math.isclose(
        float(found[-1].replace(",", "")), expected, rel_tol=1e-9 if not tolerance else 0, abs_tol=tolerance
    )


def _last_choice(answer: str, choices: Sequence[str]) -> str | None:
    """Return the choice whose last occurrence as a word, in any case, ends last; of several, the longest."""
    found = []
    for choice in choices:
        for match in re.finditer(rf"(?<!\w){re.escape(choice.strip())}(?!\w)", answer, re.IGNORECASE):
            found.append((match.end(), len(choice), choice))
    return max(found)[2] if found else None


def _command_accepts(command: str, answer: str) -> bool:
    """Run a shell command with the answer on its stdin: status 0 is right. A command that takes too long is wrong."""
    try:
        done = subprocess.run(
            command,
            shell=True,
            input=answer.encode("utf-8", "replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer: a line of the results. `key` identifies question, effort, repetition, model and settings."""

    key: str
    question: str
    effort: ReasoningEffort
    repetition: int
    model: str
    seed: int
    correct: bool
    answer: str
    ended: str
    reasoning_tokens: int
    answer_tokens: int
    seconds: float

    @property
    def tokens(self) -> int:
        return self.reasoning_tokens + self.answer_tokens


def answer_key(question: Question, effort: ReasoningEffort, repetition: int, settings: Mapping[str, Any]) -> str:
    """Return the digest by which an answer is found again."""
    return _digest([question.digest, effort, repetition, dict(settings)])


def answer_seed(question: Question, repetition: int, base: int) -> int:
    """Return the seed of an answer: the same at every effort, and again after an interruption."""
    return int(_digest([question.digest, repetition, base])[:8], 16)


def _digest(value: Any) -> str:
    if isinstance(value, Mapping):
        value = dict(value)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


class Results:
    """A file with one answer per line. Each line is on the disk before the next question is asked."""

    def __init__(self, path: Path) -> None:
        """Read the file if it exists. A last line without its newline, which a kill may leave, is cut off.

        Raises UsageError for another line that is wrong, ResourceError if the file cannot be written.
        """
        self.path = path
        self.answers: dict[str, Answered] = {}
        self._file = self._open()

    def add(self, answered: Answered) -> None:
        """Write an answer. Raises ResourceError."""
        line = json.dumps(asdict(answered), ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as exc:
            raise self._unwritable(exc) from exc
        self.answers[answered.key] = answered

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> BinaryIO:
        try:
            file = open_to_append(self.path)
            file.seek(0)
            data = file.read()
            whole = data.rfind(b"\n") + 1
            for number, line in enumerate(data[:whole].splitlines(), start=1):
                self._read(number, line)
            if whole < len(data):
                file.truncate(whole)
        except OSError as exc:
            raise self._unwritable(exc) from exc
        return file

    def _read(self, number: int, line: bytes) -> None:
        try:
            values = json.loads(line)
            answered = Answered(**values | {"effort": ReasoningEffort(values["effort"])})
            self.answers[answered.key] = answered
            _ = answered.tokens + answered.seconds + answered.correct
        except (ValueError, TypeError, KeyError) as exc:
            where = f"{printable_path(self.path)}, line {number}"
            raise UsageError(f"{where}: it is not an answer of gptoss evaluate. Name another -o FILE.") from exc

    def _unwritable(self, exc: OSError) -> ResourceError:
        return ResourceError(f"{printable_path(self.path)} cannot be written: {exc.strerror or exc}. Check -o FILE.")


@dataclass(frozen=True, slots=True)
class EffortFigures:
    """The figures of one effort. `low` and `high` are the bounds of the 95 % Wilson interval of the accuracy."""

    effort: ReasoningEffort
    answers: int
    correct: int
    accuracy: float
    low: float
    high: float
    mean_tokens: float
    mean_seconds: float


def figures_of(effort: ReasoningEffort, answers: Sequence[Answered]) -> EffortFigures:
    """Return the figures of at least one answer."""
    count, correct = len(answers), sum(answer.correct for answer in answers)
    low, high = wilson_interval(correct, count)
    return EffortFigures(
        effort=effort,
        answers=count,
        correct=correct,
        accuracy=correct / count,
        low=low,
        high=high,
        mean_tokens=sum(answer.tokens for answer in answers) / count,
        mean_seconds=sum(answer.seconds for answer in answers) / count,
    )


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927, doi:10.2307/2276774)."""
    share, square = correct / count, _NORMAL_95**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = _NORMAL_95 * math.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return max(0.0, centre - half), min(1.0, centre + half)
