"""Neutralising control characters in untrusted text, one by one, so that a split sequence is harmless too."""

# Embeddings, overrides and isolates, which change the order of what follows.
_BIDI_CONTROLS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
# Marks without a width, which terminals ignore or draw as boxes. The joiners U+200C and U+200D are not among them: they
# change the letters and emoji beside them.
_MARKS = (0x00AD, 0x061C, 0x180E, 0x200B, 0x200E, 0x200F, *range(0x2060, 0x2065), *range(0x206A, 0x2070), 0xFEFF)


def _replacements() -> dict[int, str | None]:
    table: dict[int, str | None] = {code: chr(0x2400 + code) for code in range(0x20)}
    table |= {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
    table |= {code: f"\\u{code:04x}" for code in _BIDI_CONTROLS}
    table |= dict.fromkeys(_MARKS)
    table[0x7F] = "\u2421"
    # Dropped, since a carriage return before a newline is harmless and the next character may be in the next piece.
    table[ord("\r")] = None
    del table[ord("\n")], table[ord("\t")]
    return table


_TABLE = _replacements()


def neutralize(text: str) -> str:
    """Return `text` with control characters made visible: C0 except newline and tab, DEL, C1, and bidi controls.

    Carriage returns and marks without a width are dropped. neutralize(a) + neutralize(b) == neutralize(a + b).
    """
    # All that is replaced is not printable, and translating takes ten times as long.
    return text if text.isprintable() else text.translate(_TABLE)


def one_line(text: str) -> str:
    """Return `text` neutralised and on one line, for messages."""
    return neutralize(" ".join(text.split()))
