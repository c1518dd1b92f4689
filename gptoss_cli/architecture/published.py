"""Figures that publishers state about their models, each with its source and date. Nothing here is computed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """A document, and the day it was published."""

    title: str
    url: str
    date: str


@dataclass(frozen=True, slots=True)
class PublishedCount:
    """Active parameters as stated, in billions to this many decimals, with or without the embedding look-up."""

    model: str
    billions: float
    decimals: int
    with_embedding: bool
    source: Source


@dataclass(frozen=True, slots=True)
class Score:
    """The results of one model in one benchmark. `score` has a unit only for Codeforces (Elo), else percent."""

    benchmark: str
    model: str
    effort: str
    score: float
    source: Source


MODEL_CARD = Source("gpt-oss-120b & gpt-oss-20b Model Card, Table 3", "https://arxiv.org/abs/2508.10925", "2025-08-08")
GPT5_ANNOUNCEMENT = Source(
    "Introducing GPT-5 for developers", "https://openai.com/index/introducing-gpt-5-for-developers/", "2025-08-07"
)
_QWEN3_NAMES = Source("the model's name", "https://huggingface.co/Qwen/Qwen3-235B-A22B", "2025-04")

ACTIVE_COUNTS = (
    PublishedCount("gpt-oss-20b", 3.61, 2, False, MODEL_CARD),
    PublishedCount("gpt-oss-120b", 5.13, 2, False, MODEL_CARD),
    PublishedCount("qwen3-30b-a3b", 3, 0, True, _QWEN3_NAMES),
    PublishedCount("qwen3-235b-a22b", 22, 0, True, _QWEN3_NAMES),
)

_EFFORTS = ("low", "medium", "high")
# Benchmark -> gpt-oss-120b, then gpt-oss-20b, each at low, medium and high effort.
_GPT_OSS: dict[str, tuple[float, ...]] = {
    "AIME 2024, no tools": (56.3, 80.4, 95.8, 42.1, 80.0, 92.1),
    "AIME 2024, tools": (75.4, 87.9, 96.6, 61.2, 86.0, 96.0),
    "AIME 2025, no tools": (50.4, 80.0, 92.5, 37.1, 72.1, 91.7),
    "AIME 2025, tools": (72.9, 91.6, 97.9, 57.5, 90.4, 98.7),
    "GPQA Diamond, no tools": (67.1, 73.1, 80.1, 56.8, 66.0, 71.5),
    "GPQA Diamond, tools": (68.1, 73.5, 80.9, 58.0, 67.1, 74.2),
    "HLE, no tools": (5.2, 8.6, 14.9, 4.2, 7.0, 10.9),
    "HLE, tools": (9.1, 11.3, 19.0, 6.3, 8.8, 17.3),
    "MMLU": (85.9, 88.0, 90.0, 80.4, 84.0, 85.3),
    "SWE-bench Verified": (47.9, 52.6, 62.4, 37.4, 53.2, 60.7),
    "Tau-bench retail": (49.4, 62.0, 67.8, 35.0, 47.3, 54.8),
    "Tau-bench airline": (42.6, 48.6, 49.2, 32.0, 42.6, 38.0),
    "Aider polyglot": (24.0, 34.2, 44.4, 16.6, 26.6, 34.2),
    "Codeforces Elo, no tools": (1595, 2205, 2463, 1366, 1998, 2230),
    "Codeforces Elo, tools": (1653, 2365, 2622, 1251, 2064, 2516),
}
_CLOSED_MODELS = ("GPT-5", "GPT-5 mini", "GPT-5 nano", "o3", "o4-mini")
# Benchmark -> the closed models at high effort; a row with one number has it for GPT-5. GPQA: tools are not stated.
_CLOSED: dict[str, tuple[float, ...]] = {
    "AIME 2025, no tools": (94.6, 91.1, 85.2, 88.9, 92.7),
    "FrontierMath, python": (26.3,),
    "GPQA Diamond": (85.7, 82.3, 71.2, 83.3, 81.4),
    "HLE, no tools": (24.8, 16.7, 8.7, 20.2, 14.7),
    "HMMT 2025": (93.3,),
    "SWE-bench Verified": (74.9, 71.0, 54.7, 69.1, 68.1),
    "Aider polyglot": (88.0, 71.6, 48.4, 79.6, 58.2),
    "MMMU": (84.2,),
    "MultiChallenge": (69.6,),
    "Tau2-bench airline": (62.6,),
    "Tau2-bench retail": (81.1,),
    "Tau2-bench telecom": (96.7,),
}


def published_active(model: str) -> PublishedCount | None:
    """Return the stated count of active parameters of a known model, or None."""
    return next((count for count in ACTIVE_COUNTS if count.model == model), None)


def benchmark_scores() -> list[Score]:
    """Return every published result: gpt-oss at three efforts, OpenAI's closed models at high effort."""
    scores = []
    for benchmark, values in _GPT_OSS.items():
        for model, results in (("gpt-oss-120b", values[:3]), ("gpt-oss-20b", values[3:])):
            scores += [
                Score(benchmark, model, effort, result, MODEL_CARD)
                for effort, result in zip(_EFFORTS, results, strict=True)
            ]
    for benchmark, values in _CLOSED.items():
        scores += [
            Score(benchmark, model, "high", result, GPT5_ANNOUNCEMENT)
            for model, result in zip(_CLOSED_MODELS, values, strict=False)
        ]
    return scores
