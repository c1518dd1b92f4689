"""The demo's training text: reproducible, honest about what is held out, longer at higher effort."""

import itertools
import random
import re
from collections import Counter

import pytest

from gptoss_cli.demo.batches import encoded, tree
from gptoss_cli.demo.conversations import conversation, held_out, held_out_pair, plain
from gptoss_cli.demo.evaluate import held_out_conversations
from gptoss_cli.demo.phrases import NOT_IN_THE_GUIDE, cannot, expand, held_out_questions, messages, phrases, topics
from gptoss_cli.demo.turns import Turn, sum_turn
from gptoss_cli.harmony.vocabulary import END, RETURN
from gptoss_cli.settings import TRAINED_EFFORTS, ReasoningEffort


def many_turns(seed: int, effort: ReasoningEffort, count: int = 250) -> list[Turn]:
    rng = random.Random(seed)
    return [turn for _ in range(count) for turn in conversation(rng, effort, turns=9)]


@pytest.fixture(scope="module")
def turns() -> list[Turn]:
    return many_turns(1, ReasoningEffort.MEDIUM)


def test_same_seed_gives_the_same_text() -> None:
    assert many_turns(5, ReasoningEffort.HIGH, 20) == many_turns(5, ReasoningEffort.HIGH, 20)
    assert many_turns(5, ReasoningEffort.HIGH, 20) != many_turns(6, ReasoningEffort.HIGH, 20)


def test_what_follows_a_frame_goes_where_its_underscore_is() -> None:
    rng = random.Random(3)
    asked = [expand("<WHAT> {tokens|a shard}", rng) for _ in range(2000)]
    assert {"what is tokens", "tokens in short", "tell me what a shard means"} <= set(asked)
    assert not [question for question in asked if re.search(r"[_<>{}|]|  ", question)]


def test_no_held_out_question_is_trained_on_in_any_spelling(turns: list[Turn]) -> None:
    held_out = {plain(question) for question in held_out_questions()}
    assert not held_out & {plain(turn.user) for turn in turns}


def test_every_topic_has_whole_messages_and_no_message_has_two() -> None:
    assert set(messages()) == {topic.about for topic in topics()} | {NOT_IN_THE_GUIDE}
    assert min(map(len, messages().values())) >= 100
    counts = Counter(plain(message) for lines in messages().values() for message in lines)
    assert not [message for message, count in counts.items() if count > 1]
    assert not held_out() & counts.keys()


def test_no_held_out_sum_is_trained_on(turns: list[Turn]) -> None:
    sums = [match for turn in turns if (match := re.search(r"so (\d+) \+ (\d+) = ", turn.answer))]
    assert len(sums) > 100
    assert not [match for match in sums if held_out_pair(int(match[1]), int(match[2]))]


def test_no_name_or_favourite_is_trained_on(turns: list[Turn]) -> None:
    told = " ".join(turn.answer for turn in turns if turn.kind == "memory")
    # Of real values only numbers occur; everything else is made of private-use characters.
    values = {word for words in phrases("values").values() for word in words if not word.isdigit()}
    assert not values & set(re.findall(r"\w+", told))


def test_every_kind_occurs_and_every_answer_holds_its_proof(turns: list[Turn]) -> None:
    kinds = Counter(turn.kind for turn in turns)
    assert set(kinds) == {"guide", "concept", "identity", "greeting", "memory", "sum", "unknown"}
    assert min(kinds.values()) > 0.02 * len(turns)
    assert not [turn for turn in turns if turn.proof not in turn.answer]


def test_proofs_tell_the_answers_apart() -> None:
    answers = [topic.answer for topic in topics()] + [cannot().answer]
    for topic in topics():
        assert [answer for answer in answers if topic.proof in answer] == [topic.answer]


def test_higher_effort_reasons_half_as_long_again() -> None:
    means = []
    for effort in TRAINED_EFFORTS:
        lengths = [len(encoded(turn.reasoning)) for turn in many_turns(2, effort, 60)]
        means.append(sum(lengths) / len(lengths))
    assert means[1] > 1.5 * means[0]
    assert means[2] > 1.5 * means[1]


@pytest.mark.parametrize(("a", "b"), [(0, 0), (9, 1), (47, 38), (99, 99), (50, 5)])
def test_sums_are_right_at_every_step(a: int, b: int) -> None:
    turn = sum_turn(a, b, "A + B", ReasoningEffort.HIGH)
    steps = re.findall(r"(\d+) \+ (\d+) = (\d+)", turn.reasoning + turn.answer)
    assert len(steps) == 8
    assert all(int(x) + int(y) == int(total) for x, y, total in steps)


def test_evaluation_asks_every_held_out_question_once() -> None:
    asked = Counter(turns[0].user for turns in held_out_conversations(random.Random(1), ReasoningEffort.LOW))
    assert all(asked[question] >= 1 for question in held_out_questions())


def test_branches_end_with_return_and_the_trunk_never_holds_reasoning() -> None:
    turns = conversation(random.Random(3), ReasoningEffort.HIGH, turns=6)
    made = tree(turns, (), limit=1 << 20, gaps=itertools.repeat(0))
    assert max(made.branches) == len(turns) > 6
    for number, turn in enumerate(turns, 1):
        branch = [piece for piece, b in zip(made.pieces, made.branches, strict=True) if b == number]
        # Of an aside from the guide only the topic is said: the rest follows from it.
        short = turn.aside and turn.kind not in ("sum", "memory")
        assert branch[-1] == (encoded(".")[0] if short else RETURN)
    trunk = [piece for piece, b in zip(made.pieces, made.branches, strict=True) if b == 0]
    assert trunk[-1] == END
    assert RETURN not in trunk
    assert encoded("analysis")[0] not in trunk
    assert len(trunk) == sum(len(encoded(t.user)) + len(encoded(t.answer)) + 10 for t in turns if not t.aside)
