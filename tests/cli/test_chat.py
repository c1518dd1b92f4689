"""`gptoss chat` on a pseudo-terminal, as a user meets it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Script, turn
from tests.cli.terminal_driver import ForkedTerminal, Terminal

_CTRL_C, _CTRL_D, _CTRL_N, _CTRL_O = "\x03", "\x04", "\x0e", "\x0f"


def _chat(script: str, *arguments: str) -> Terminal:
    return ForkedTerminal("chat", *arguments, script=script)


def test_a_conversation_of_two_turns(script: Script) -> None:
    with _chat(script(turn("Blue.", reasoning="Light."), turn("Red.")), "--reasoning", "show") as terminal:
        terminal.wait_for(">")
        terminal.type("Sky?\r")
        terminal.wait_for("Blue.\n\n>")
        terminal.type("Evening?\r")
        terminal.wait_for("Red.\n\n>")
        terminal.type(_CTRL_D)
        assert terminal.wait() == 0
        conversation = "> Sky?\nLight.\nReasoned 0 s (2 tokens)\n\nBlue.\n\n> Evening?\nRed.\n\n>"
        shown, _, farewell = terminal.text.rpartition("\n")
        assert shown == conversation
        assert re.fullmatch(r"gptoss chat --resume \w{6,26} continues this\.", farewell)
        assert terminal.restored()


def test_a_prompt_on_the_command_line_is_sent_first(script: Script) -> None:
    with _chat(script(turn("Blue.")), "Sky?") as terminal:
        terminal.wait_for("Blue.\n\n>")
        terminal.type("/exit\r")
        assert terminal.wait() == 0


def test_ctrl_c_stops_an_answer_and_the_next_one_comes(script: Script) -> None:
    slow: list[str | float] = ["<|channel|>final<|message|>one two", 1.0, " three", " four<|return|>"]
    with _chat(script(slow, turn("Again.")), "Count") as terminal:
        terminal.wait_for("one two")
        terminal.type(_CTRL_C)
        terminal.wait_for("Stopped.")
        terminal.wait_for("\n\n>")
        terminal.type("more\r")
        terminal.wait_for("Again.")
        assert "four" not in terminal.text
        assert "Traceback" not in terminal.text


def test_ctrl_c_ten_times_is_as_good_as_once(script: Script) -> None:
    slow: list[str | float] = ["<|channel|>final<|message|>one", 1.0, " two", " three<|return|>"]
    with _chat(script(slow), "Count") as terminal:
        terminal.wait_for("one")
        for _ in range(10):
            terminal.type(_CTRL_C)
        terminal.wait_for("\n\n>")
        terminal.type(_CTRL_D)
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.text


def test_the_effort_can_be_changed_and_its_cost_is_told(script: Script) -> None:
    with _chat(script(turn("Blue.", reasoning="Light."), ["Red.<|return|>"]), "Sky?") as terminal:
        terminal.wait_for("Blue.\n\n>")
        terminal.type("/effort high\r")
        terminal.wait_for("The effort is high from now on. The next turn reads")
        terminal.type("/effort none\r")
        terminal.wait_for("The effort is none from now on.\n")
        terminal.type("Evening?\r")
        terminal.wait_for("Evening?\nRed.\n")
        terminal.type("/effort hgh\r")
        terminal.wait_for("There is no effort 'hgh'. Choose none, low, medium or high.")


def test_the_reasoning_can_be_given_a_budget(script: Script) -> None:
    endless: list[str | float] = ["<|channel|>analysis<|message|>" + " ".join(str(n * n) for n in range(300))]
    with _chat(script(endless), "--max-tokens", "120") as terminal:
        terminal.wait_for(">")
        terminal.type("/set think-budget 20\r")
        terminal.wait_for("think-budget is 20 from now on.")
        terminal.type("/set think-budget x\r")
        terminal.wait_for("think-budget is a whole number, at least 0, or off; not x.")
        terminal.type("Count\r")
        terminal.wait_for("The reasoning has used up its budget")


def test_raw_shows_the_last_turn_as_it_was_written(script: Script) -> None:
    with _chat(script(turn("Blue.", reasoning="Light.")), "Sky?") as terminal:
        terminal.wait_for("Blue.\n\n>")
        terminal.type("/raw\r")
        terminal.wait_for("<|channel|>analysis<|message|>Light.<|end|><|start|>assistant<|channel|>final")


def test_ctrl_c_at_the_prompt_clears_the_line(script: Script) -> None:
    with _chat(script(turn("Heard."))) as terminal:
        terminal.wait_for(">")
        terminal.type("wrong")
        terminal.wait_for("wrong")
        terminal.type(f"{_CTRL_C}right\r")
        terminal.wait_for("Heard.")
        assert terminal.text.startswith("> right\nHeard.")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("/hlp", "There is no command /hlp. Did you mean /help?"),
        ("/help", "Ctrl-D"),
        ("/etc/passwd is what", "There is no command /etc/passwd."),
    ],
)
def test_a_slash_line_is_never_sent(line: str, shown: str, script: Script) -> None:
    with _chat(script(turn("SENT"))) as terminal:
        terminal.wait_for(">")
        terminal.type(f"{line}\r")
        terminal.wait_for(shown)
        terminal.type("/exit\r")
        assert terminal.wait() == 0
        assert "SENT" not in terminal.text


def test_what_is_typed_ahead_is_sent_next_and_not_echoed_into_the_answer(script: Script) -> None:
    slow: list[str | float] = ["<|channel|>final<|message|>one", 0.7, " two<|return|>"]
    with _chat(script(slow, turn("Heard.")), "Count") as terminal:
        terminal.wait_for("one")
        terminal.type("early\r")
        terminal.wait_for("Heard.\n\n>")
        assert terminal.text.startswith("> Count\none two\n\n> early\nHeard.")


_SLOW = """
import sys, time
from gptoss_cli.cli import main
from tests.cli.scripted_program import scripted_opener
def opener(request, **options):
    time.sleep(1.5)
    return scripted_opener(sys.argv[1])(request, **options)
sys.exit(main.run(sys.argv[2:], open_model=opener))
"""


def test_lines_typed_while_the_model_loads_are_sent_one_after_another(script: Script) -> None:
    with Terminal(["-c", _SLOW, script(turn("One."), turn("Two.")), "chat", "first"]) as terminal:
        terminal.wait_for("Loading the model.")
        terminal.type("/effort high\rsecond\r")
        terminal.wait_for("Two.\n\n>")
        assert "> first\nOne.\n\n> /effort high\nThe effort is high from now on." in terminal.text
        assert "> second\nTwo." in terminal.text


def test_what_was_typed_before_ctrl_c_is_not_added_to_the_message_that_comes_back(script: Script) -> None:
    with Terminal(["-c", _SLOW, script(turn("One."), turn("Two.")), "chat", "first"]) as terminal:
        terminal.wait_for("Loading the model.")
        terminal.type("second\r")
        terminal.look(0.1)
        terminal.type(_CTRL_C)
        terminal.wait_for("One.\n\n>")
        assert "The message was not sent. The Up key recalls it.\n> second\nOne." in terminal.text
        terminal.type("\x1b[A\x1b[A\r")
        terminal.wait_for("> first\nTwo.\n\n>")


def test_pasted_code_is_sent_with_every_character(script: Script) -> None:
    with _chat(script(turn("One."), turn("Two."))) as terminal:
        terminal.wait_for(">")
        terminal.type("\x1b[200~// not a command\x1b[201~\r")
        terminal.wait_for("> // not a command\nOne.\n\n>")
        terminal.type("\x1b[200~/*\ta */\r/undo\x1b[201~\r")
        terminal.wait_for("> /*  a */\n  /undo\nTwo.\n\n>")
        terminal.type("\x1b[A\x1b[A\x1b[A\r")
        terminal.wait_for("> /// not a command\n")


def test_the_first_prompt_is_shown_with_all_its_lines(script: Script) -> None:
    with _chat(script(turn("Blue.")), "Sky?\nHere?") as terminal:
        terminal.wait_for("> Sky?\n  Here?\nBlue.\n\n>")


def test_verbose_shows_the_tokens_of_each_turn(script: Script) -> None:
    with _chat(script(turn("Blue.")), "-v", "Sky?") as terminal:
        terminal.wait_for("Blue.\nTokens: ")


def test_two_slashes_send_a_line_that_begins_with_one(script: Script) -> None:
    with _chat(script(turn("SENT"))) as terminal:
        terminal.wait_for(">")
        terminal.type("//etc\r")
        terminal.wait_for("SENT")


def test_what_the_model_prints_cannot_move_the_cursor(script: Script) -> None:
    attack = turn("a\x1b[2J\x1b]0;owned\x07b", reasoning="\x1b[5;5Hx")
    with _chat(script(attack), "--reasoning", "show", "x") as terminal:
        terminal.wait_for("a␛[2J␛]0;owned␇b")
        assert b"\x1b[2J" not in terminal.raw
        assert b"\x1b]0;" not in terminal.raw
        assert "␛[5;5Hx" in terminal.text


def test_sigterm_ends_the_chat_with_143(script: Script) -> None:
    with _chat(script(["<|channel|>final<|message|>one", 0.5, " two<|return|>"]), "x") as terminal:
        terminal.wait_for("one")
        terminal.signal(signal.SIGTERM)
        assert terminal.wait() == 143
        assert terminal.restored()


def test_sigterm_at_the_prompt_restores_the_terminal(script: Script) -> None:
    with _chat(script(turn("Blue."))) as terminal:
        terminal.wait_for(">")
        terminal.signal(signal.SIGTERM)
        assert terminal.wait() == 143
        assert "Traceback" not in terminal.text
        assert terminal.restored()


def test_an_interrupt_from_outside_clears_the_line_as_ctrl_c_does(script: Script) -> None:
    with _chat(script(turn("Heard."))) as terminal:
        terminal.wait_for(">")
        terminal.type("wrong")
        terminal.wait_for("wrong")
        terminal.signal(signal.SIGINT)
        terminal.wait_without("wrong")
        terminal.type("right\r")
        terminal.wait_for("Heard.")
        assert terminal.text.startswith("> right\nHeard.")


def test_a_history_that_cannot_be_kept_is_said_and_the_chat_goes_on(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_HOME", "/dev/null")
    with _chat(script(turn("Blue.")), "Sky?") as terminal:
        terminal.wait_for("history will not be saved")
        terminal.wait_for("Blue.")


def test_without_a_terminal_on_stdin_it_points_to_ask(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gptoss_cli", "chat"], input="hello", capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gptoss: gptoss chat needs a terminal on stdin. For pipes and files use: gptoss ask\n"


def test_ctrl_o_unfolds_the_reasoning_and_ctrl_n_answers_now(script: Script) -> None:
    going_on: list[str | float] = [0.2, " and on"]
    with _chat(
        script(["<|channel|>analysis<|message|>one two", *going_on * 40]), "--max-tokens", "200", "Think"
    ) as terminal:
        terminal.wait_for("Ctrl-O shows it · Ctrl-N answers now")
        assert "one two" not in terminal.text
        terminal.type(_CTRL_O)
        terminal.wait_for("one two and on")
        terminal.type(_CTRL_N)
        terminal.wait_for("The reasoning was stopped: the answer follows.")
        terminal.type(_CTRL_C)
        terminal.wait_for("\n\n>")


def test_folded_reasoning_can_be_seen_at_the_prompt(script: Script) -> None:
    with _chat(script(turn("Blue.", reasoning="Light\x1b[2J is scattered.")), "Sky?") as terminal:
        terminal.wait_for("Reasoned 0 s (")
        terminal.wait_for("Blue.\n\n>")
        assert "scattered" not in terminal.text
        terminal.type(_CTRL_O)
        terminal.wait_for("Light␛[2J is scattered.\n")


def test_what_is_pasted_while_it_answers_is_one_message(script: Script) -> None:
    slow: list[str | float] = ["<|channel|>final<|message|>one", 1.0, " two<|return|>"]
    with _chat(script(slow, turn("Heard."), turn("TWICE")), "Count") as terminal:
        terminal.wait_for("one")
        terminal.type("\x1b[200~first\rsecond\x1b[201~\r")
        terminal.wait_for("Heard.\n\n>")
        assert "> first\n  second\nHeard." in terminal.text
        assert "TWICE" not in terminal.text


def test_after_a_stop_by_the_shell_what_is_typed_is_still_not_echoed(script: Script) -> None:
    slow: list[str | float] = ["<|channel|>final<|message|>one", 1.5, " two<|return|>"]
    with _chat(script(slow, turn("Heard.")), "Count") as terminal:
        terminal.wait_for("one")
        terminal.suspend()
        terminal.type("early\r")
        terminal.wait_for("Heard.\n\n>")
        assert terminal.text.startswith("> Count\none two\n\n> early\nHeard.")


def test_three_quotes_and_a_backslash_make_lines(script: Script) -> None:
    with _chat(script(turn("Heard."))) as terminal:
        terminal.wait_for(">")
        terminal.type('"""one\rtwo')
        terminal.wait_for("two")
        terminal.type("\x03a\\\rb\r")
        terminal.wait_for("> a\n  b\nHeard.")
