"""The demo model answers what it was not trained on. The whole evaluation stands in the README; this asks a part."""

import pytest

from gptoss_cli.demo.evaluate import Report, evaluate
from gptoss_cli.demo.layout import demo_checkpoint
from gptoss_cli.engine.generator import Generator
from gptoss_cli.settings import TRAINED_EFFORTS, ReasoningEffort


@pytest.fixture(scope="module")
def reports() -> dict[ReasoningEffort, Report]:
    generator = Generator.open(demo_checkpoint())
    # Few conversations would leave it to one that is mixed up, with six turns, whether this passes.
    return {effort: evaluate(generator, effort, seed=3, every=24) for effort in TRAINED_EFFORTS}


@pytest.mark.parametrize("effort", TRAINED_EFFORTS)
def test_most_of_what_it_never_saw_is_answered_rightly(
    reports: dict[ReasoningEffort, Report], effort: ReasoningEffort
) -> None:
    report = reports[effort]
    assert report.asked.total() >= 30
    assert report.right.total() >= 0.8 * report.asked.total(), report.wrong


def test_higher_effort_reasons_half_as_long_again(reports: dict[ReasoningEffort, Report]) -> None:
    low, medium, high = (reports[effort].mean_reasoning_tokens for effort in TRAINED_EFFORTS)
    assert medium >= 1.5 * low
    assert high >= 1.5 * medium
