"""Formulas, names, addresses, tags and CJK within a line."""

import pytest

from gptoss_cli.terminal.cells import Line, Role, text_of
from gptoss_cli.terminal.markdown.layout import inline
from gptoss_cli.terminal.markdown.parse import leaf_blocks


def _inline(source: str) -> Line:
    (block,) = leaf_blocks(source)
    return inline(block.inline)


def _shown(source: str) -> str:
    return text_of(_inline(source))


def _strong(source: str) -> list[str]:
    return [span.text for span in _inline(source) if span.sgr == Role.STRONG]


@pytest.mark.parametrize(
    "source",
    [
        r"\(x_1 * y * z_2\) and \[a_b\]",
        r"$a^*$ and $b^*$",
        r"$$x_1 * 2 * y_1$$",
        "\\[\na_1\n= b_1 * c * d\n- e\n+ f \\\\\n# g\n\\]",
        "$$\nx\n---\ny\n$$",
        "We get \\[\n- x\n\\]",
        "\\begin{aligned}\na &= b \\\\\n- c\n\\end{aligned}",
        r"\\server\share and a \\ b",
        "__init__.py, __init__, (__name__) and __MAX_SIZE__",
        "https://a.b/_next/_static_/__init__.py?x=*y*",
        "2*3*4 and 2 * 3 * 4",
        r"\(unclosed_x_ and \frac{a_1}{b_1}"[2:],
    ],
)
def test_what_is_no_markdown_stays_as_it_is(source: str) -> None:
    assert _shown(source) == source


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("$5 and *not* $6", "$5 and not $6"),
        ("**$HOME** and **$PATH**", "$HOME and $PATH"),
        ("**$5** or **$6**", "$5 or $6"),
        ("$x `$y` *z*", "$x $y z"),
        ("**https://a.b/c_d**: *e*", "https://a.b/c_d: e"),
        ("**http://a.b/c**です", "http://a.b/cです"),
        ("[https://a.b](https://c.d)", "https://a.b (https://c.d)"),
        ("__two words__ and __Bold__", "two words and Bold"),
        (r"\*not\* \_em\_", "*not* _em_"),
        (r"`\(x\)` *y*", r"\(x\) y"),
    ],
)
def test_the_rest_is_still_markdown(source: str, shown: str) -> None:
    assert _shown(source) == shown


@pytest.mark.parametrize(
    ("source", "strong"),
    [
        ("これは**「重要」**な", ["「重要」"]),
        ("这是**“重要”**的", ["“重要”"]),
        ("**重要。**次", ["重要。"]),
        ("**100%**です", ["100%"]),
        ("**중요(a)**는", ["중요(a)"]),
        ("これは **a** だ", ["a"]),
        ("a**(b)**c", []),
    ],
)
def test_a_cjk_neighbour_is_a_boundary_of_emphasis(source: str, strong: list[str]) -> None:
    assert _strong(source) == strong


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("a<br>b<BR/>c<br />\nd", "a\nb\nc\nd"),
        ("H<sub>2</sub>O, x<sub>i</sub>, log<sub>2</sub>8", "H2O, x_i, log_(2)8"),
        ("10<sup>6</sup> x<sup>n+1</sup> 1<sup>st</sup> <SUP>*a*</SUP>", "10^6 x^(n+1) 1st ^(a)"),
        ("<kbd>Ctrl</kbd> <u>u</u> <span style='x'>s</span>", "Ctrl u s"),
        ("A:<ul><li>one</li><li>two</li></ul>", "A:\n• one\n• two"),
        ('<a href="https://a.b">text</a>', "text (https://a.b)"),
        ("List<int>, <name>, <think>x</think>", "List<int>, <name>, <think>x</think>"),
        ("<b> alone, </i> too, `<br>` in code", "<b> alone, </i> too, <br> in code"),
        ("[<a href='x'>y</a>](z)", "y (x) (z)"),
    ],
)
def test_tags_that_concern_the_look_are_not_shown(source: str, shown: str) -> None:
    assert _shown(source) == shown


def test_tags_of_emphasis_have_styles() -> None:
    spans = _inline("<b>a</b> <i>b</i> <del>c</del> <code>d</code>")
    styles = {span.text: span.sgr for span in spans if span.text.strip()}
    assert styles == {"a": Role.STRONG, "b": Role.EMPHASIS, "c": Role.STRUCK, "d": Role.CODE}
