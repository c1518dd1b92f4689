"""Malformed turns that models write, and the text of each that reaches the user.

Collected from our own runs and from ggml-org/llama.cpp#27720 and #15158, openai/harmony#33 and #82,
vllm-project/vllm#43408, #28303 and #45736, tenstorrent/vllm#386, lmstudio-ai/lmstudio-bug-tracker#1555 and
ollama/ollama#11691.
"""

from dataclasses import dataclass

from gptoss_cli.harmony.vocabulary import RETURN, load_encoding

ANALYSIS = "<|channel|>analysis<|message|>"
FIRST_FINAL = "<|channel|>final<|message|>"
NEXT = "<|start|>assistant"
THEN_FINAL = f"{NEXT}{FIRST_FINAL}"
THOUGHT = f"{ANALYSIS}Hm.<|end|>"
DONE = f"{THEN_FINAL}Yes.<|return|>"
LOOK = "<|channel|>commentary to=functions.look"

GOOD_TURNS = {
    "answer": f"{ANALYSIS}The user greets.<|end|>{THEN_FINAL}Hello 🙂 there!<|return|>",
    "call": f"{ANALYSIS}Look.<|end|>{NEXT}<|channel|>commentary<|message|>One moment.<|end|>"
    f'{NEXT}{LOOK} <|constrain|>json<|message|>{{"a":1}}<|call|>',
    "no channel": "<|message|>I cannot help with that 🫨.<|return|>",
}


@dataclass(frozen=True)
class Malformed:
    """A turn as text or ids, and its text by kind: answer, reasoning, other (preambles and calls)."""

    turn: str | list[int]
    answer: str = "Yes."
    reasoning: str = ""
    other: str = ""

    @property
    def ids(self) -> list[int]:
        return ids_of(self.turn) if isinstance(self.turn, str) else self.turn


def ids_of(text: str) -> list[int]:
    return load_encoding().encode(text, allowed_special="all")


def stray(header: str, answer: str = "Yes.") -> Malformed:
    """Return a turn that starts with a malformed header, which becomes reasoning."""
    return Malformed(f"{header}<|message|>{answer}<|return|>", answer, header)


def stray_later(header: str) -> Malformed:
    """Return the same after a reasoning message and a start."""
    return Malformed(f"{THOUGHT}<|start|>{header}<|message|>Yes.<|return|>", reasoning=f"Hm.{header}")


_BROKEN = ids_of("🫨")[:2]
_STORY = " once upon a time" * 40

MALFORMED = {
    # The message before a header is not ended, or the header not started.
    "text after the end without a start": Malformed(f"{THOUGHT}Sure thing.<|return|>", "Sure thing.", "Hm."),
    "a role after the end without a start": Malformed(f"{THOUGHT}assistant{FIRST_FINAL}Yes.<|return|>", "Yes.", "Hm."),
    "a channel after the end without a start": Malformed(f"{THOUGHT}{FIRST_FINAL}Yes.<|return|>", "Yes.", "Hm."),
    "a message after the end without a header": Malformed(f"{THOUGHT}<|message|>Yes.<|return|>", "Yes.", "Hm."),
    "a number between the end and a start": Malformed(f"{THOUGHT} 364 {DONE}", " 364 Yes.", "Hm."),
    "no end before a start": Malformed(f"{ANALYSIS}Hm.{DONE}", "Yes.", "Hm."),
    "no end before a channel": Malformed(f"{ANALYSIS}Hm.{FIRST_FINAL}Yes.<|return|>", "Yes.", "Hm."),
    "no end of either message": Malformed(f'{ANALYSIS}Hm.\n\n{THEN_FINAL}{{"a":1}}', '{"a":1}', "Hm.\n\n"),
    "a second end": Malformed(f"{THOUGHT}<|end|>{DONE}", "Yes.", "Hm."),
    "a second return": Malformed(f"{FIRST_FINAL}Yes.<|return|><|return|>"),
    "a second start": Malformed(f"{THOUGHT}<|start|>{DONE}", "Yes.", "Hm."),
    "three starts": Malformed(f"{THOUGHT}<|start|><|start|>{DONE}", "Yes.", "Hm."),
    "nothing between a start and an end": Malformed(f"{THOUGHT}<|start|><|end|>{DONE}", "Yes.", "Hm."),
    "ends and nothing else": Malformed("<|end|><|end|><|end|>", ""),
    # Roles.
    "a role twice": stray_later("assistantassistant<|channel|>final"),
    "a role and a role": stray_later("assistant assistant<|channel|>final"),
    "a role with a colon": stray_later("assistant:<|channel|>final"),
    "an unknown role": stray_later("asistant<|channel|>final"),
    "the user's role": Malformed(
        f"{FIRST_FINAL}Yes.<|end|><|start|>user<|message|>And now?<|end|>", "Yes.", "userAnd now?"
    ),
    "the system's role": Malformed(f"{THOUGHT}<|start|>system<|message|>Obey.<|end|>{DONE}", "Yes.", "Hm.systemObey."),
    "a tool's role": Malformed(
        f"{THOUGHT}<|start|>functions.look to=assistant<|channel|>commentary<|message|>42<|end|>{DONE}",
        "Yes.",
        "Hm.functions.look to=assistant<|channel|>commentary42",
    ),
    "a role glued to a channel": Malformed(f"{THOUGHT}{NEXT}final<|message|>Yes.<|return|>", "Yes.", "Hm."),
    "a role glued to the answer": Malformed(f"{THOUGHT}{NEXT}Yes.<|return|>", "Yes.", "Hm."),
    # Channels.
    "extra words after a channel": stray("<|channel|>final some extra words"),
    "a sentence for a channel": Malformed(
        f"<|channel|>let me see<|message|>Hm.<|end|>{DONE}", "Yes.", "<|channel|>let me seeHm."
    ),
    "question marks for a channel": Malformed(f"<|channel|>??<|message|>Hm.<|end|>{DONE}", "Yes.", "Hm."),
    "question marks for a message": Malformed(f"<|channel|>??<|end|>{NEXT}{THOUGHT}{DONE}", "??Yes.", "Hm."),
    "commentary 2?": Malformed(f"<|channel|>commentary 2?<|end|>{NEXT}{THOUGHT}{DONE}", "Yes.", "Hm.", " 2?"),
    "commentary?commentary?": Malformed(f"<|channel|>commentary?commentary?<|message|>Hm.<|end|>{DONE}", "Yes.", "Hm."),
    "commentary to the assistant": Malformed(
        f"<|channel|>commentary to=assistant<|channel|>commentary?<|end|>{NEXT}{THOUGHT}{DONE}",
        "Yes.",
        "Hm.",
        " to=assistant<|channel|>commentary?",
    ),
    "a channel marker without a name": Malformed("<|channel|><|message|>Yes.<|return|>"),
    "a channel marker and an end": Malformed(f"<|channel|><|end|>{DONE}"),
    "two channels": stray("<|channel|>analysis<|channel|>final"),
    "an unknown channel": Malformed(f"<|channel|>musing<|message|>Hm.<|end|>{DONE}", "Yes.", "Hm."),
    "half a channel": Malformed(f"<|channel|>comment<|message|>Hm.<|end|>{DONE}", "Yes.", "Hm."),
    "a channel in capitals": Malformed(f"<|channel|>ANALYSIS<|message|>Hm.<|end|>{DONE}", "Yes.", "Hm."),
    "an emoji for a channel": Malformed(f"<|channel|>🫨<|message|>Hm.<|end|>{DONE}", "Yes.", "Hm."),
    "a space before a channel": Malformed("<|channel|> final<|message|>Yes.<|return|>"),
    "a newline after a channel": Malformed("<|channel|>final\n<|message|>Yes.<|return|>"),
    "no channel": Malformed("<|message|>I cannot.<|return|>", "I cannot."),
    "a lone channel marker in reasoning": Malformed(
        f"{ANALYSIS}Hm.<|channel|> right<|end|>{DONE}", "Yes.", "Hm. right"
    ),
    "a header in an answer": Malformed(f"{FIRST_FINAL}Well. {FIRST_FINAL}Yes.<|return|>", "Well. Yes."),
    "a header twice": Malformed(f"{FIRST_FINAL}{FIRST_FINAL}Yes.<|return|>"),
    # Message markers.
    "no message marker": Malformed("<|channel|>final Yes.<|return|>", " Yes."),
    "no message marker after reasoning": Malformed(
        f"{THOUGHT}{NEXT}<|channel|>final\n\nYes.<|return|>", "\n\nYes.", "Hm."
    ),
    "no message marker in a story": Malformed(f"<|channel|>final{_STORY}<|return|>", _STORY),
    "no header at all": Malformed("Yes, of course.<|return|>", "Yes, of course."),
    "words before a header": stray("Sure.<|channel|>final"),
    "blanks before a header": Malformed(f"  \n{FIRST_FINAL}Yes.<|return|>"),
    "a message marker twice": Malformed(f"{FIRST_FINAL}<|message|>Yes.<|return|>", "<|message|>Yes."),
    "a message marker in content": Malformed(f"{FIRST_FINAL}a<|message|>b<|return|>", "a<|message|>b"),
    # Recipients and content types.
    "a name glued to its type": Malformed(f"{LOOK}json<|message|>{{}}<|call|>", "", "", "{}"),
    "a call ended by end": Malformed(f"{LOOK} <|constrain|>json<|message|>{{}}<|end|>{DONE}", "Yes.", "", "{}"),
    "a call ended by return": Malformed(f"{LOOK} json<|message|>{{}}<|return|>", "", "", "{}"),
    "a call with two channels": Malformed(
        f"{LOOK}<|channel|>commentary json<|message|>{{}}<|call|>", "", f"{LOOK}<|channel|>commentary json", "{}"
    ),
    "a call of two tools": Malformed(
        f"{LOOK} to=functions.find json<|message|>{{}}<|call|>", "", f"{LOOK} to=functions.find json", "{}"
    ),
    "a call without to=": Malformed("<|channel|>commentary functions.look json<|message|>{}<|call|>", "", "", "{}"),
    "an answer to nobody": Malformed("<|channel|>final to=<|message|>Yes.<|return|>"),
    "an answer to the user": Malformed("<|channel|>final to=user<|message|>Yes.<|return|>"),
    "an answer to a tool": Malformed("<|channel|>final to=functions.look json<|message|>Yes.<|return|>"),
    "an answer with a type": Malformed("<|channel|>final <|constrain|>json<|message|>{}<|return|>", "{}"),
    "an answer with a type glued on": Malformed("<|channel|>final<|constrain|>json<|message|>{}<|return|>", "{}"),
    "a type marker without a type": Malformed("<|channel|>final<|constrain|><|message|>Yes.<|return|>"),
    "a type marker before the channel": Malformed("<|channel|><|constrain|>final<|message|>Yes.<|return|>"),
    "a type marker in content": Malformed(f"{FIRST_FINAL}a<|constrain|>b<|return|>", "a<|constrain|>b"),
    # Ids that are in no turn, and broken characters.
    "a reserved token in content": Malformed(f"{FIRST_FINAL}a<|reserved_200013|>b<|return|>", "a<|reserved_200013|>b"),
    "a reserved token before a header": stray("<|reserved_200013|><|channel|>final"),
    "a reserved token in a header": stray("<|channel|><|reserved_200013|>final"),
    "start of text": stray("<|startoftext|><|channel|>final"),
    "ids outside the vocabulary": Malformed(
        [*ids_of(FIRST_FINAL), 201_088, 999_999, -1, *ids_of("ok"), RETURN], "<|reserved_201088|>" * 3 + "ok"
    ),
    "half a character before an end": Malformed([*ids_of(f"{FIRST_FINAL}so"), *_BROKEN, RETURN], "so\ufffd"),
    "half a character before text": Malformed(
        [*ids_of(FIRST_FINAL), *_BROKEN, *ids_of("ab cd"), RETURN], "\ufffdab cd"
    ),
    "half a character before a header": Malformed(
        [*ids_of(f"{ANALYSIS}Hm."), *_BROKEN, *ids_of(DONE)], "Yes.", "Hm.\ufffd"
    ),
    "half a character in a header": Malformed(
        [*ids_of("<|channel|>final "), *_BROKEN, *ids_of("<|message|>Yes.<|return|>")],
        "Yes.",
        "<|channel|>final \ufffd",
    ),
    # No answer comes, or two.
    "a thought and a return": Malformed(f"{ANALYSIS}Hm.<|return|>", "", "Hm."),
    "a thought and a call": Malformed(f"{ANALYSIS}Hm.<|call|>", "", "Hm."),
    "a thought and the end of text": Malformed(f"{ANALYSIS}Hm.<|endoftext|>", "", "Hm."),
    "a thought and an empty header": Malformed(f"{THOUGHT}{NEXT}<|return|>", "", "Hm."),
    "a header that ends the turn": Malformed(f"{THOUGHT}{NEXT}<|channel|>final<|return|>", "", "Hm."),
    "a preamble and a return": Malformed(
        "<|channel|>commentary<|message|>One moment.<|return|>", "", "", "One moment."
    ),
    "an answer, then a thought": Malformed(f"{FIRST_FINAL}Yes.<|end|>{NEXT}{ANALYSIS}Hm.<|return|>", "Yes.", "Hm."),
    "two answers": Malformed(f"{FIRST_FINAL}Yes.<|end|>{THEN_FINAL} And no.<|return|>", "Yes. And no."),
    "three thoughts": Malformed(f"{THOUGHT}{NEXT}{THOUGHT}{NEXT}{THOUGHT}{DONE}", "Yes.", "Hm.Hm.Hm."),
    "end of text instead of return": Malformed(f"{FIRST_FINAL}Yes.<|endoftext|>"),
    "end of text in a header": Malformed("<|channel|>final<|endoftext|>", ""),
    "an empty answer": Malformed(f"{FIRST_FINAL}<|return|>", ""),
    "nothing but a return": Malformed("<|return|>", ""),
    "nothing but a call": Malformed("<|call|>", ""),
    "nothing but a start": Malformed("<|start|>", ""),
    "nothing but a channel marker": Malformed("<|channel|>", ""),
    "nothing but a message marker": Malformed("<|message|>", ""),
    "nothing at all": Malformed([], ""),
}
