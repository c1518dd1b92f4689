"""Answers as gpt-oss writes them, by name: formulas, CJK, tables, lists, addresses and code."""

import re
from pathlib import Path

_FILE = Path(__file__).with_name("answers.txt")


def _answers() -> dict[str, str]:
    _, *parts = re.split(r"^=== (.*)\n", _FILE.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


ANSWERS = _answers()
