"""The engine computes what transformers computes, on random checkpoints and for every chunk size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from gptoss_cli.engine import loader
from gptoss_cli.engine.kernels import reference
from gptoss_cli.engine.kernels.cpu import CpuKernels
from gptoss_cli.engine.kernels.native_library import Native
from gptoss_cli.engine.kernels.protocol import Kernels
from gptoss_cli.engine.kv_cache import KVCache
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.quantize import int8_weights
from gptoss_cli.engine.weights import load_weights
from gptoss_cli.generation import Sampling
from gptoss_cli.placement.model_config import load_config
from gptoss_cli.settings import Activations, Dtype
from tests.engine.checkpoints import FULL, SLIDING, ConfigStyle, Shape, write_checkpoint
from tests.engine.open_generator import on_gpu, open_generator

if TYPE_CHECKING:
    from transformers import GptOssForCausalLM

GREEDY_TOKENS = 24
TOLERANCE = 1e-3  # of a logit standard deviation
YARN = {
    "factor": 13.0,
    "beta_fast": 5.0,
    "beta_slow": 0.75,
    "original_max_position_embeddings": 60,
}


@dataclass(frozen=True)
class Case:
    """A checkpoint and the length of the prompt."""

    name: str
    shape: Shape
    style: ConfigStyle = ConfigStyle.PUBLISHED
    shards: int = 1
    prompt_tokens: int = 67
    seed: int = 0


WIDE = Shape(hidden=224, intermediate=288, kv_heads=4, queries_per_head=5, head_dim=18, experts=3, active=2)

CASES = [
    Case("published-style", Shape()),
    Case("transformers-5-style", Shape(layer_types=(SLIDING, FULL)), ConfigStyle.TRANSFORMERS_5, shards=3, seed=1),
    Case("3-experts-top-2", replace(WIDE, layer_types=(SLIDING, FULL)), seed=2),
    Case("window-over-the-prompt", Shape(window=211), seed=3),
    Case("window-of-2", Shape(window=2, layer_types=(SLIDING, FULL)), seed=4),
    Case("unusual-layer-types", Shape(layer_types=(FULL, FULL, SLIDING, FULL)), shards=2, seed=5),
    Case("sliding-only", Shape(layer_types=(SLIDING, SLIDING), window=29), seed=6),
    Case("small-limit", Shape(limit=0.4, eps=0.05), seed=7),
    Case("other-theta-and-factor", Shape(theta=777.0, yarn=YARN | {"factor": 3.5, "truncate": False}), seed=8),
    Case("yarn-off", Shape(yarn=None), seed=9),
    Case("truncated-range", Shape(yarn=YARN | {"truncate": True}), seed=11),
    Case("truncated-by-silence", Shape(yarn=YARN, layer_types=(FULL,)), ConfigStyle.TRANSFORMERS_5, seed=12),
    Case("given-concentration", Shape(yarn=YARN | {"truncate": False, "attention_factor": 1.9}), seed=13),
    Case("far-past-the-original-length", Shape(layer_types=(SLIDING, FULL)), prompt_tokens=263, seed=14),
    Case("original-layout", Shape(eps=1e-5), ConfigStyle.ORIGINAL, seed=15),
]


@dataclass(frozen=True)
class Expected:
    """The results of transformers: logits [T, V] in float32 and in its own bfloat16 arithmetic, and greedy ids."""

    folder: Path
    prompt: list[int]
    logits: Tensor
    bfloat16_logits: Tensor
    greedy: list[int]

    @property
    def logit_std(self) -> float:
        return float(self.logits.std())


@pytest.fixture(scope="module")
def expectations(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Expected]:
    """A function that returns the expected results of a case, computed once."""
    known: dict[str, Expected] = {}

    def expectation(case: Case) -> Expected:
        if case.name not in known:
            known[case.name] = _expected(case, tmp_path_factory.mktemp(case.name))
        return known[case.name]

    return expectation


@pytest.fixture(scope="module", params=CASES, ids=[case.name for case in CASES])
def expected(request: pytest.FixtureRequest, expectations: Callable[[Case], Expected]) -> Expected:
    return expectations(request.param)


def _expected(case: Case, folder: Path) -> Expected:
    """Run transformers, which cannot read the original layout and gets the same weights in its own."""
    # Imported here because it takes half of the time in which the tests are collected.
    from transformers import GptOssForCausalLM
    from transformers.utils.quantization_config import Mxfp4Config

    style = ConfigStyle.PUBLISHED if case.style is ConfigStyle.ORIGINAL else case.style
    theirs = write_checkpoint(folder / "theirs", case.shape, seed=case.seed, style=style, shards=case.shards)
    ours = write_checkpoint(folder / "ours", case.shape, seed=case.seed, style=case.style, shards=case.shards)
    prompt = np.random.default_rng(case.seed).integers(0, case.shape.vocabulary, case.prompt_tokens).tolist()
    model = GptOssForCausalLM.from_pretrained(
        theirs,
        dtype=torch.float32,
        quantization_config=Mxfp4Config(dequantize=True),
        attn_implementation="eager",
    )
    with torch.no_grad():
        logits, greedy = _run(model, prompt)
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
        rounded = model(torch.tensor([prompt])).logits[0].float()
    return Expected(ours, prompt, logits, rounded, greedy)


def _run(model: "GptOssForCausalLM", prompt: list[int]) -> tuple[Tensor, list[int]]:
    output = model(torch.tensor([prompt]), use_cache=True)
    logits, greedy = output.logits[0], [int(output.logits[0, -1].argmax())]
    while len(greedy) < GREEDY_TOKENS:
        output = model(torch.tensor([greedy[-1:]]), past_key_values=output.past_key_values, use_cache=True)
        greedy.append(int(output.logits[0, -1].argmax()))
    return logits, greedy


@pytest.fixture(params=["reference", "cpu"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """Each kernel set that runs on a CPU."""
    if request.param == "reference":
        return reference
    cpu: CpuKernels = request.getfixturevalue("cpu_kernels")
    return cpu


def open_model(folder: Path, kernels: Kernels, dtype: torch.dtype = torch.float32) -> Transformer:
    config = load_config(folder / "config.json")
    return Transformer(config, load_weights(folder, config), kernels, dtype)


def read_in_chunks(model: Transformer, cache: KVCache, ids: list[int], sizes: Iterator[int]) -> Tensor:
    """Return logits [T, V] of `ids`, read in chunks of `sizes`."""
    return torch.cat([model.unembed(model.forward(chunk, cache)) for chunk in cut(ids, sizes)])


def cut(ids: list[int], sizes: Iterator[int]) -> Iterator[list[int]]:
    for start, end in pairwise(accumulate(sizes, initial=0)):
        if start >= len(ids):
            return
        yield ids[start:end]


def greedy_after(model: Transformer, cache: KVCache, last: Tensor) -> list[int]:
    """Return greedy ids, the first from logits `last` [V]."""
    ids = [int(last.argmax())]
    while len(ids) < GREEDY_TOKENS:
        ids.append(int(model.unembed(model.forward(ids[-1:], cache)).argmax()))
    return ids


def assert_equal(logits: Tensor, expected: Expected) -> None:
    assert (logits - expected.logits).abs().max() <= TOLERANCE * expected.logit_std


def test_one_prefill_gives_transformers_logits(expected: Expected) -> None:
    logits = open_generator(expected.folder, dtype=Dtype.FLOAT32).logits(expected.prompt)
    assert logits.dtype is torch.float32
    assert_equal(logits, expected)


@pytest.mark.parametrize("sizes", [[1], [7], [64]], ids=str)
def test_chunks_give_transformers_logits_and_text(expected: Expected, kernels: Kernels, sizes: list[int]) -> None:
    model = open_model(expected.folder, kernels)
    cache = model.new_cache(1000)
    logits = read_in_chunks(model, cache, expected.prompt, cycle(sizes))
    assert_equal(logits, expected)
    assert greedy_after(model, cache, logits[-1]) == expected.greedy


def test_rewinding_to_a_mark_gives_transformers_logits_and_text(expected: Expected, kernels: Kernels) -> None:
    model = open_model(expected.folder, kernels)
    cache = model.new_cache(1000)
    half = len(expected.prompt) // 2
    first = read_in_chunks(model, cache, expected.prompt[:half], cycle([64]))
    mark = cache.mark()
    read_in_chunks(model, cache, expected.prompt[::-1], cycle([13, 1]))
    cache.rewind(mark)
    logits = torch.cat((first, read_in_chunks(model, cache, expected.prompt[half:], cycle([5, 1, 1, 19, 2]))))
    assert_equal(logits, expected)
    assert greedy_after(model, cache, logits[-1]) == expected.greedy


def test_the_generator_decodes_transformers_text_and_again_after_rewinding(expected: Expected) -> None:
    generator = open_generator(expected.folder, dtype=Dtype.FLOAT32, chunk_tokens=32)
    half = len(expected.prompt) // 2
    greedy = Sampling(0, temperature=0)
    list(generator.prefill(expected.prompt[:half]))
    assert len(list(generator.decode(greedy, stop_ids=(), banned_ids=(), max_tokens=5))) == 5
    for _ in range(2):
        list(generator.prefill(expected.prompt))
        text = list(generator.decode(greedy, stop_ids=(), banned_ids=(), max_tokens=GREEDY_TOKENS))
        assert text == expected.greedy


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_gpu_gives_transformers_logits_and_text(expected: Expected, share: float) -> None:
    config = load_config(expected.folder / "config.json")
    placement = on_gpu("cuda:0", round(share * config.experts * config.layers), embedding=share == 1)
    for tokens in (7, 64):
        generator = open_generator(expected.folder, dtype=Dtype.FLOAT32, chunk_tokens=tokens, **placement)
        assert_equal(generator.logits(expected.prompt).cpu(), expected)
        model, cache = generator.model, generator.model.new_cache(1000)
        assert_equal(read_in_chunks(model, cache, expected.prompt, cycle([1])).cpu(), expected)
        mark = cache.mark()
        read_in_chunks(model, cache, expected.prompt[::-1], cycle([13, 1]))
        cache.rewind(mark)
        assert greedy_after(model, cache, expected.logits[-1]) == expected.greedy
        for _ in range(2):
            list(generator.prefill(expected.prompt))
            text = generator.decode(Sampling(0, temperature=0), stop_ids=(), banned_ids=(), max_tokens=GREEDY_TOKENS)
            assert list(text) == expected.greedy


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_the_interpreted_kernels_of_a_gpu_give_transformers_logits(
    expected: Expected, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(loader, "check_kernels", lambda model: None)  # as slow as all of this
    config = load_config(expected.folder / "config.json")
    placement = on_gpu("cpu", round(share * config.experts * config.layers), embedding=share == 1)
    generator = open_generator(expected.folder, dtype=Dtype.FLOAT32, **placement)
    model, cache = generator.model, generator.model.new_cache(1000)
    sizes = [len(expected.prompt) - 4, 1, 1, 1, 1]
    assert_equal(read_in_chunks(model, cache, expected.prompt, cycle(sizes)), expected)


def test_bfloat16_is_as_close_to_float32_as_in_transformers(
    expectations: Callable[[Case], Expected], kernels: Kernels
) -> None:
    """Near-ties of router logits flip experts, so errors and agreement are averaged over all checkpoints."""
    (our_error, their_error), (our_agreement, their_agreement) = _compared(
        expectations, lambda folder: open_model(folder, kernels, torch.bfloat16)
    )
    # The CPU kernels round less than bfloat16.
    assert our_error <= (1.5 if kernels is reference else 1.0) * their_error
    assert our_agreement >= their_agreement - 0.03


@pytest.mark.parametrize("smaller", ["activations", "dense"])
def test_eight_bits_are_about_as_close_to_float32_as_bfloat16(
    expectations: Callable[[Case], Expected], native: Native, smaller: str
) -> None:
    def opened(folder: Path) -> Transformer:
        if smaller == "activations":
            return open_model(folder, CpuKernels(native, Activations.INT8), torch.bfloat16)
        config = load_config(folder / "config.json")
        weights = int8_weights(load_weights(folder, config), folder / "int8", "these weights")
        return Transformer(config, weights, CpuKernels(native), torch.bfloat16)

    (our_error, their_error), (our_agreement, their_agreement) = _compared(expectations, opened)
    assert 0.1 * their_error < our_error <= 1.5 * their_error
    assert our_agreement >= their_agreement - 0.05


def _compared(
    expectations: Callable[[Case], Expected], opened: Callable[[Path], Transformer]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return errors in logit standard deviations, and the agreement of top-1 tokens, of ours and of transformers."""
    errors, agreements = [], []
    for expected in map(expectations, CASES):
        ours = opened(expected.folder)
        logits = read_in_chunks(ours, ours.new_cache(1000), expected.prompt, cycle([512]))
        pair = (logits, expected.bfloat16_logits)
        errors.append([float((got - expected.logits).square().mean().sqrt()) / expected.logit_std for got in pair])
        agreements.append([float((got.argmax(-1) == expected.logits.argmax(-1)).double().mean()) for got in pair])
    (our_error, their_error), (ours_agree, theirs_agree) = np.mean(errors, axis=0), np.mean(agreements, axis=0)
    print(f"rms {our_error:.4f}, transformers {their_error:.4f}; top-1 {ours_agree:.3f}, {theirs_agree:.3f}")
    return (our_error, their_error), (ours_agree, theirs_agree)
