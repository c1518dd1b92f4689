"""Screens of a chat as text, which tests/golden/ holds. To write them again: GOLDEN=write pytest FILE."""

import os
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Script, turn
from tests.cli.terminal_driver import ForkedTerminal

_GOLDEN = Path(__file__).parents[1] / "golden"
_ANSWER = """\
# Sorting in Python

Use `sorted` for a **new** list and `list.sort` to change the one you have. Both are stable, and both take a *key*; see
[the guide](https://docs.python.org/3/howto/sorting.html).

1. Small lists:
   ```python
   names = sorted(["b", "a"], key=str.lower)  # ['a', 'b']
   ```
2. Large ones:
   - sort once
   - then use `bisect`

| function | new list | in place |
|---|:-:|---:|
| sorted | yes | no |
| list.sort | no | yes |

> Timsort takes O(n log n) steps.

漢字も並べ替えられます。
"""


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (200, 50), (32, 30)])
def test_a_conversation_looks_as_it_did(script: Script, columns: int, rows: int) -> None:
    played = script(turn(_ANSWER, reasoning="The user wants to sort."), turn("You are welcome."))
    with ForkedTerminal("chat", "-m", "demo", script=played, columns=columns, rows=rows) as terminal:
        terminal.wait_for("131,072")
        terminal.type("How do I sort?\r")
        terminal.wait_for("Timsort")
        terminal.wait_for_prompt()
        terminal.type("Thank you\r")
        terminal.wait_for("welcome")
        terminal.wait_for_prompt()
        terminal.type("/re\t")
        terminal.wait_for("/retry")
        seen = re.sub(r"[\d.]+ tokens/s", "N tokens/s", terminal.everything) + "\n"
        terminal.type("\x03\x04")
        assert terminal.wait() == 0
        assert terminal.restored()
    file = _GOLDEN / f"chat-{columns}x{rows}.txt"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(seen, "utf-8")
    assert seen == file.read_text("utf-8")
