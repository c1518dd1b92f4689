"""An observer of a decode sees what transformers computes, and changes no id."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.observation import token_info
from gptoss_cli.errors import NumericalError
from gptoss_cli.generation import Allowed, Banned, Forced, Restriction, Sampling, TokenConstraint, TokenInfo
from gptoss_cli.settings import Dtype
from tests.engine.checkpoints import ConfigStyle, Shape, write_checkpoint
from tests.engine.open_generator import open_generator
from tests.engine.test_parity import CASES, Case

_TOKENS = 12
_PROMPT = list(range(5, 40))
_SAMPLINGS = [Sampling(3, temperature=0), Sampling(3), Sampling(4, temperature=0.7, top_p=0.8, top_k=20)]
_PARITY_CASES = [case for case in CASES if case.style is not ConfigStyle.ORIGINAL]


class _Cycle:
    """A constraint that goes through all kinds of rules, one for each draw."""

    def __init__(self) -> None:
        self._turn = 0
        self._rules = None, Allowed(frozenset({0, 5, 9})), None, Banned(frozenset({7})), Forced((5, 6, 7)), None

    def next(self) -> Forced | Restriction | None:
        self._turn += 1
        return self._rules[self._turn % len(self._rules)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("observed"), Shape())


def _decode(
    generator: Generator,
    sampling: Sampling,
    *,
    prompt: list[int] = _PROMPT,
    constraint: TokenConstraint | None = None,
    **observing: Any,
) -> list[int]:
    list(generator.prefill(prompt))
    return list(
        generator.decode(
            sampling, stop_ids=(), banned_ids={1, 2}, max_tokens=_TOKENS, constraint=constraint, **observing
        )
    )


def _theirs(folder: Path, ids: list[int]) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return transformers' log_softmax [T, V], and the experts and weights [T, A] of each layer's router."""
    # Imported here because it takes half of the time in which the tests are collected.
    from transformers import GptOssForCausalLM
    from transformers.utils.quantization_config import Mxfp4Config

    model = GptOssForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=Mxfp4Config(dequantize=True), attn_implementation="eager"
    )
    routed: list[tuple[torch.Tensor, torch.Tensor]] = []
    for layer in model.model.layers:
        layer.mlp.router.register_forward_hook(lambda module, inputs, output: routed.append((output[2], output[1])))
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    return torch.log_softmax(logits, -1), routed


@pytest.mark.parametrize("case", _PARITY_CASES, ids=[case.name for case in _PARITY_CASES])
def test_logprobs_and_experts_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, case.shape, seed=case.seed, style=case.style, shards=case.shards)
    prompt = np.random.default_rng(case.seed).integers(0, case.shape.vocabulary, case.prompt_tokens).tolist()
    seen: list[TokenInfo] = []
    generator = open_generator(tmp_path, dtype=Dtype.FLOAT32)
    ids = _decode(generator, _SAMPLINGS[1], prompt=prompt, observer=seen.append, top=7)
    logprobs, routed = _theirs(tmp_path, prompt + ids)
    assert [info.id for info in seen] == ids
    for place, info in enumerate(seen, start=len(prompt) - 1):
        expected = logprobs[place]
        assert info.logprob == pytest.approx(float(expected[info.id]), abs=1e-4)
        assert info.rank == 1 + int((expected > expected[info.id]).sum())
        assert [id_ for id_, _ in info.top] == expected.topk(7).indices.tolist()
        assert [logprob for _, logprob in info.top] == pytest.approx(expected.topk(7).values.tolist(), abs=1e-4)
        assert sum(np.exp(logprob) for _, logprob in info.top) <= 1 + 1e-6
        if info.experts is not None:
            assert [layer.experts for layer in info.experts] == [tuple(chosen[place].tolist()) for chosen, _ in routed]
            for layer, (_, weights) in zip(info.experts, routed, strict=True):
                assert layer.weights == pytest.approx(weights[place].tolist(), abs=1e-4)
    assert [info.experts is None for info in seen] == [True] + [False] * (_TOKENS - 1)


@pytest.mark.parametrize("make_constraint", [lambda: None, _Cycle], ids=["free", "constrained"])
@pytest.mark.parametrize("sampling", _SAMPLINGS, ids=["greedy", "sampled", "top-p"])
@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.BFLOAT16])
def test_an_observer_changes_no_id(
    folder: Path, dtype: Dtype, sampling: Sampling, make_constraint: Callable[[], TokenConstraint | None]
) -> None:
    generator = open_generator(folder, dtype=dtype, context_tokens=300)
    seen: list[TokenInfo] = []
    before = _decode(generator, sampling, constraint=make_constraint())
    observed = _decode(generator, sampling, constraint=make_constraint(), observer=seen.append)
    assert observed == before == [info.id for info in seen]
    assert _decode(generator, sampling, constraint=make_constraint()) == before


def test_an_overlapped_decode_is_the_same_before_and_after_an_observed_one(folder: Path) -> None:
    model = open_generator(folder, dtype=Dtype.FLOAT32).model
    generator = Generator(model, context_tokens=300, chunk_tokens=16, overlapped=True)
    before = _decode(generator, _SAMPLINGS[1])
    rest = list(generator.decode(_SAMPLINGS[2], stop_ids=(), banned_ids=(), max_tokens=5))
    seen: list[TokenInfo] = []
    assert _decode(generator, _SAMPLINGS[1], observer=seen.append) == before
    more = generator.decode(_SAMPLINGS[2], stop_ids=(), banned_ids=(), max_tokens=5, observer=seen.append)
    assert list(more) == rest
    assert _decode(generator, _SAMPLINGS[1]) == before


def test_forced_and_restricted_ids_are_marked(folder: Path) -> None:
    seen: list[TokenInfo] = []
    generator = open_generator(folder, context_tokens=300)
    ids = _decode(generator, _SAMPLINGS[1], constraint=_Cycle(), observer=seen.append, top=0)
    marks = ["f" if info.forced else "r" if info.restricted else "-" for info in seen]
    assert "".join(marks) == "r-rfff--r-rf"
    assert ids[3:6] == [5, 6, 7]
    assert all(info.top == () for info in seen)


def test_an_observer_sees_an_id_before_its_consumer_and_a_stop_id_too(folder: Path) -> None:
    generator = open_generator(folder, context_tokens=300)
    ids = _decode(generator, _SAMPLINGS[1])
    seen: list[int] = []
    list(generator.prefill(_PROMPT))
    stop = ids[4]

    def consume() -> Iterator[int]:
        yield from generator.decode(
            _SAMPLINGS[1],
            stop_ids={stop},
            banned_ids={1, 2},
            max_tokens=None,
            observer=lambda info: seen.append(info.id),
        )

    consumed = []
    for id_ in consume():
        consumed.append(id_)
        assert seen == consumed
    assert consumed == ids[: ids.index(stop) + 1]
    assert list(generator.sequence.cached + generator.sequence.pending) == _PROMPT + consumed


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_an_error_for_forced_ids_too(value: float) -> None:
    logits = torch.zeros(9)
    logits[4] = value
    with pytest.raises(NumericalError):
        token_info(2, logits, [], experts=6, top=3, forced=True)
