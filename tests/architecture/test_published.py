"""Every published figure has a source with an address and a date."""

from collections import Counter

from gptoss_cli.architecture.published import ACTIVE_COUNTS, benchmark_scores


def test_every_figure_names_its_source_and_date() -> None:
    for source in {count.source for count in ACTIVE_COUNTS} | {score.source for score in benchmark_scores()}:
        assert source.url.startswith("https://")
        assert source.date[:4] == "2025"


def test_each_result_is_stated_once() -> None:
    keys = Counter((score.benchmark, score.model, score.effort) for score in benchmark_scores())
    assert set(keys.values()) == {1}
    assert len(keys) == 15 * 6 + 5 * 5 + 7


def test_results_are_those_of_the_documents() -> None:
    scores = {(score.benchmark, score.model, score.effort): score.score for score in benchmark_scores()}
    assert scores["SWE-bench Verified", "gpt-oss-20b", "medium"] == 53.2
    assert scores["SWE-bench Verified", "gpt-oss-20b", "high"] == 60.7
    assert scores["AIME 2025, tools", "gpt-oss-20b", "medium"] == 90.4
    assert scores["AIME 2025, no tools", "GPT-5", "high"] == 94.6
    assert scores["Aider polyglot", "o4-mini", "high"] == 58.2
