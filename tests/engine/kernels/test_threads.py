"""The native thread pool: every piece runs once, however many threads, callers and processes there are."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from gptoss_cli.engine.kernels import reference
from gptoss_cli.engine.kernels.cpu import CpuKernels
from gptoss_cli.engine.kernels.native_library import Native
from tests.engine.kernels.random_weights import random_mlp, random_of

_WORDS = 3 * 128 * 1024 + 64


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 300])
def test_every_piece_is_read_once(native: Native, threads: int) -> None:
    words = np.arange(_WORDS, dtype=np.uint64)
    for _ in range(20):
        assert native.read(words.ctypes.data, len(words), threads) == int(words.sum())


def test_the_number_of_threads_changes_no_bit(cpu_kernels: CpuKernels) -> None:
    weights = random_mlp(2880, 2880, experts=2)
    x = random_of(9, 2880, seed=5)
    made = []
    for threads in (1, 2, 3):
        kernels = CpuKernels(cpu_kernels.native, threads=threads)
        for tokens in (1, 9):
            routed = reference.route(x[:tokens], weights, active=2, eps=1e-5)
            made.append(kernels.mix_experts(x[:tokens], routed, weights, limit=7.0, dtype=torch.bfloat16))
    assert all(torch.equal(one, other) for one, other in zip(made, made[2:], strict=False))


def test_callers_on_several_threads_do_not_disturb_each_other(native: Native) -> None:
    words = np.arange(_WORDS, dtype=np.uint64)
    sums: list[int] = []

    def read() -> None:
        sums.extend(native.read(words.ctypes.data, len(words), 3) for _ in range(50))

    callers = [threading.Thread(target=read) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sums == [int(words.sum())] * 150


_FORKING = """
import os, sys
from pathlib import Path
import numpy as np
from gptoss_cli.engine.kernels.native_library import Native
native, words = Native(Path(sys.argv[1])), np.arange(400000, dtype=np.uint64)
def read(): return native.read(words.ctypes.data, len(words), 2) == int(words.sum())
assert read()
if child := os.fork():
    assert read()
    sys.exit(os.waitpid(child, 0)[1])
sys.exit(0 if read() else 1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_child_has_threads_of_its_own(native: Native) -> None:
    done = subprocess.run([sys.executable, "-c", _FORKING, native.path], timeout=60, check=False)
    assert done.returncode == 0


def test_idle_threads_sleep(native: Native) -> None:
    words = np.arange(_WORDS, dtype=np.uint64)
    native.read(words.ctypes.data, len(words), 2)
    began = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - began < 0.1
