"""What each piece of text on the screen is, and how it looks. The sixteen colours only: the user's palette decides."""

from enum import StrEnum


class Role(StrEnum):
    """The value is the SGR parameters that begin it."""

    PLAIN = ""
    TITLE = "1;4"
    HEADING = "1"
    STRONG = "1"
    EMPHASIS = "3"
    STRUCK = "9"
    CODE = "36"
    LINK = "34"
    MARK = "90"  # bullets, bars, rules: what the layout adds
    DIM = "2"
    ERROR = "31"
    HARMONY = "35"
    CALL = "33"
    KEYWORD = "35"
    STRING = "32"
    NUMBER = "36"
    NAME = "34"
    COMMENT = "90"


def paint(sgr: str, text: str) -> str:
    """`text` between the codes that begin and end `sgr`."""
    return f"\x1b[{sgr}m{text}\x1b[0m" if sgr and text else text
