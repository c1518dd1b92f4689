"""Kernels are compiled in threads, before they are launched, and one that does not compile is named."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.experimental.gluon  # its import, which Triton's binder needs, fails once tests have left the interpreter
import triton.language as tl
from triton.backends.compiler import GPUTarget

from gptoss_cli.engine.kernels import compilation
from gptoss_cli.engine.kernels.compilation import Kernel, compiling, is_compiling
from gptoss_cli.errors import ResourceError

_OPTIONS = {"num_warps": 1, "enable_fp_fusion": True}
# As they are when tests are collected: kernels that ran in Triton's interpreter leave them changed, which the compiler
# does not expect.
_LANGUAGE = [(part, dict(vars(part))) for part in (tl, tl.core, tl.math, tl.tensor, tl.dtype, tl.condition)]


def _doubled(x, y, size: tl.constexpr):  # type: ignore[no-untyped-def]
    offset = tl.arange(0, size)
    tl.store(y + offset, tl.load(x + offset) * 2)


def _wrong(x, size: tl.constexpr):  # type: ignore[no-untyped-def]
    tl.store(x + tl.arange(0, size), tl.no_such_function(size))


class _Driver:
    """A driver of a GPU that does not exist. Nothing can be launched on it."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(triton.runtime.driver, "_active", _Driver(), raising=False)
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    for part, original in _LANGUAGE:
        for name in [name for name, value in vars(part).items() if value is not original.get(name)]:
            if name in original:
                monkeypatch.setattr(part, name, original[name])
            else:
                monkeypatch.delattr(part, name)


def _launch(kernel: Any, *shapes: int) -> None:
    for size in shapes:
        kernel[(1,)](torch.zeros(size), torch.zeros(size), size=size, **_OPTIONS)


def _compile_all(kernel: Any, *sizes: int) -> None:
    with compiling(lambda done, total: None):
        for size in sizes:
            kernel[(1,)](torch.zeros(size), size=size, **_OPTIONS)


def test_kernels_are_compiled_in_threads_and_then_known(no_gpu: None) -> None:
    kernel, seen = Kernel(_doubled), list[tuple[int, int]]()
    with compiling(lambda done, total: seen.append((done, total))):
        assert is_compiling()
        _launch(kernel, 16, 32, 16)
    assert not is_compiling()
    assert seen == [(1, 2), (2, 2)]
    seen.clear()
    with compiling(lambda done, total: seen.append((done, total))):
        _launch(kernel, 16, 32)
    assert seen == []  # nothing is left to compile


def test_a_kernel_that_does_not_compile_is_named(no_gpu: None) -> None:
    wrong = Kernel(_wrong)
    with pytest.raises(ResourceError, match=r"^The GPU kernel _wrong does not compile: .*no_such_function"):
        _compile_all(wrong, 16, 32, 64, 128)  # more than there may be threads: nothing waits for those that never begin
    assert not is_compiling()


def test_an_interrupted_compilation_ends(no_gpu: None) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), compiling(interrupt):
        _launch(Kernel(_doubled), 16, 32)
    assert not is_compiling()


def test_every_kernel_can_be_compiled_ahead() -> None:
    """One with Triton's own decorator would run, on values that do not exist."""
    sources = {path: path.read_text() for path in Path(compilation.__file__).parent.glob("triton_*.py")}
    for path, source in sources.items():
        decorated = re.findall(r"^@(\w[\w.]*).*\ndef (\w+_kernel)\(", source, re.M)
        assert len(decorated) == len(re.findall(r"^def \w+_kernel\(", source, re.M)) > 0, path
        assert {decorator for decorator, _ in decorated} == {"kernel"}, path
