"""A full-screen list to choose from: typing searches, arrows move, and a preview shows what is selected."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import FormattedTextControl, Layout, Window
from prompt_toolkit.output import ColorDepth, Output, create_output
from prompt_toolkit.styles import Style

from gptoss_cli.terminal.cells import Span, cells, fold, text_of, wrap

_SIDE_BY_SIDE_COLUMNS: Final = 120
# The longest of these that fits is shown.
_KEYS: Final = (
    "type to search · ↑ ↓ move · Enter continues it · Esc leaves",
    "type · ↑ ↓ · Enter takes · Esc leaves",
    "Enter takes · Esc leaves",
)
_STYLE: Final = Style.from_dict({"selected": "reverse", "faint": "ansibrightblack", "name": "ansigreen bold"})


@dataclass(frozen=True, slots=True)
class Choice:
    """An entry of the list: what `Picker.run` returns, one line, and details at its right. All text must be clean."""

    value: str
    label: str
    details: str


class Picker:
    """A list of `choices`. `preview` returns the clean text about one of them, by its value.

    Below 120 columns the preview stands under the list, else beside it.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        preview: Callable[[str], str],
        *,
        colored: bool = True,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._choices = choices
        self._searched: list[str] = []  # the texts of the choices, from the first search on
        self._preview = preview
        self._previews: dict[str, str] = {}
        self._query = ""
        self._found: Sequence[int] = range(len(choices))
        self._selected = 0
        self._app: Application[str | None] = Application(
            layout=Layout(Window(FormattedTextControl(self._screen, show_cursor=False), wrap_lines=False)),
            key_bindings=self._keys(),
            full_screen=True,
            style=_STYLE,
            color_depth=None if colored else ColorDepth.DEPTH_1_BIT,
            input=input,
            # Not stdout, which may be redirected to a file.
            output=output or create_output(always_prefer_tty=True),
        )
        # An Esc alone should not wait for the rest of a key sequence as long as usual.
        self._app.ttimeoutlen = self._app.timeoutlen = 0.05

    def run(self) -> str | None:
        """Show the list until the user chooses; return the value of the choice, or None if there is none."""
        return self._app.run()

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        for names, step in ((("up", "c-p"), -1), (("down", "c-n"), 1), (("pageup",), -10), (("pagedown",), 10)):
            for name in names:
                keys.add(name)(lambda event, step=step: self._move(step))
        keys.add("home")(lambda event: self._move(-len(self._found)))
        keys.add("end")(lambda event: self._move(len(self._found)))
        keys.add("backspace")(lambda event: self._search(self._query[:-1]))
        keys.add("c-u")(lambda event: self._search(""))
        keys.add("c-w")(lambda event: self._search(self._query.rstrip().rpartition(" ")[0]))

        @keys.add(Keys.Any)
        @keys.add(Keys.BracketedPaste)
        def insert(event: KeyPressEvent) -> None:
            typed = " ".join(event.data.splitlines())
            self._search(self._query + "".join(each for each in typed if each.isprintable()))

        @keys.add("enter")
        def choose(event: KeyPressEvent) -> None:
            if self._found:
                event.app.exit(result=self._choices[self._found[self._selected]].value)

        @keys.add("escape")
        @keys.add("c-c")
        @keys.add("c-d")
        def leave(event: KeyPressEvent) -> None:
            event.app.exit(result=None)

        return keys

    def _move(self, step: int) -> None:
        self._selected = max(0, min(len(self._found) - 1, self._selected + step))

    def _search(self, query: str) -> None:
        """Keep the choices that have every word of the query."""
        self._query, self._selected = query, 0
        words = query.casefold().split()
        if not self._searched:
            self._searched = [f"{each.label} {each.details}".casefold() for each in self._choices]
        self._found = [number for number, text in enumerate(self._searched) if all(word in text for word in words)]

    def _screen(self) -> StyleAndTextTuples:
        size = self._app.output.get_size()
        columns, rows = size.columns, size.rows
        count = f"{len(self._found):,} of {len(self._choices):,}"
        query = f"> {self._query}"
        head: StyleAndTextTuples = [("class:name", query), ("class:faint", f"{_gap(query, count, columns)}{count}\n")]
        rule: StyleAndTextTuples = [("class:faint", "─" * columns + "\n")]
        if columns >= _SIDE_BY_SIDE_COLUMNS:
            body = self._beside(columns, rows - 3)
        else:
            half = (rows - 4) // 2
            body = [*self._list(columns, half), *rule]
            for line in self._preview_lines(columns, rows - 4 - half):
                body.append(("", f"{line}\n"))
        keys = next((each for each in _KEYS if cells(each) < columns), _KEYS[-1][:columns])
        return [*head, *rule, *body, ("class:faint", keys)]

    def _beside(self, columns: int, height: int) -> StyleAndTextTuples:
        """Return the list at the left and the preview at the right."""
        left = columns // 2
        lines = self._preview_lines(columns - left - 3, height)
        body: StyleAndTextTuples = []
        for row, line in zip(self._rows(left, height), lines, strict=True):
            body += [row, ("class:faint", " │ "), ("", f"{line}\n")]
        return body

    def _list(self, columns: int, height: int) -> StyleAndTextTuples:
        return [(style, f"{text}\n") for style, text in self._rows(columns, height)]

    def _rows(self, columns: int, height: int) -> list[tuple[str, str]]:
        """Return `height` lines of the list, each `columns` wide, with the selected one among them."""
        first = max(0, min(self._selected - height // 2, len(self._found) - height))
        rows = []
        for number, index in enumerate(self._found[first : first + height], start=first):
            choice, is_selected = self._choices[index], number == self._selected
            label = f"{'> ' if is_selected else '  '}{choice.label}"
            room = columns - cells(choice.details) - 1
            text = f"{_cropped(label, room)} "
            text += " " * (columns - cells(text) - cells(choice.details)) + choice.details
            rows.append(("class:selected" if is_selected else "", text))
        if not self._found:
            rows.append(("class:faint", "  Nothing found.".ljust(columns)))
        return rows + [("", " " * columns)] * (height - len(rows))

    def _preview_lines(self, columns: int, height: int) -> list[str]:
        lines: list[str] = []
        if self._found:
            value = self._choices[self._found[self._selected]].value
            if value not in self._previews:
                self._previews[value] = self._preview(value)
            for line in self._previews[value].splitlines():
                lines += [text_of(each) for part in wrap([Span(line)], columns) for each in fold(part, columns)]
                if len(lines) >= height:
                    break
        return [*lines, *[""] * height][:height]


def _gap(before: str, after: str, columns: int) -> str:
    return " " * max(1, columns - cells(before) - cells(after))


def _cropped(text: str, width: int) -> str:
    """Return the beginning of `text` in at most `width` columns."""
    if cells(text) <= width:
        return text
    kept = text[: max(0, width - 1)]
    while kept and cells(kept) > width - 1:
        kept = kept[:-1]
    return f"{kept}…"
