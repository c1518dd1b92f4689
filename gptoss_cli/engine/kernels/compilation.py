"""Compiling the GPU kernels before they are needed, in threads.

Triton compiles a kernel when it is launched with a new combination of types, constants and options, which takes a
second or more. Within `compiling`, a launch only asks for the compilation. So a rehearsal of everything that a
conversation does leaves nothing to compile later. Results are kept in Triton's cache folder for the next start.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

import triton

from gptoss_cli.errors import Hint, ResourceError, first_line

_MOST_THREADS: Final = 8  # each compilation needs about 200 MB
_executor = ContextVar["_NamedExecutor | None"]("executor of the compilations in progress", default=None)


class Kernel(triton.JITFunction):  # type: ignore[misc]
    """A Triton kernel whose launch only compiles it within `compiling`."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        executor = _executor.get()
        launch: Callable[..., object] = super().__getitem__(grid)
        return launch if executor is None else partial(self._compile, executor)

    def _compile(self, executor: "_NamedExecutor", *args: Any, **kwargs: Any) -> None:
        executor.kernel = self.__name__
        self.warmup(*args, grid=(1,), **kwargs)


def kernel(function: Callable[..., Any] | None = None, *, do_not_specialize: Sequence[str] = ()) -> Any:
    """Make a function a kernel that is launched from Python. Decorates it, with or without arguments."""
    if function is None:
        return partial(kernel, do_not_specialize=do_not_specialize)
    if triton.knobs.runtime.interpret:
        return triton.jit(function, do_not_specialize=do_not_specialize)
    return Kernel(function, do_not_specialize=do_not_specialize)


def is_compiling() -> bool:
    """Return whether launches only compile."""
    return _executor.get() is not None


@contextmanager
def compiling(report: Callable[[int, int], None]) -> Iterator[None]:
    """Let launches within the block compile kernels, in threads, instead of running them.

    `report` is called with the number of finished kernels and that of all. Returns when all are finished. Raises
    ResourceError, which names the kernel, if one of them does not compile.
    """
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        executor = _NamedExecutor(pool)
        # Errors are raised here, with a name, and not by Triton.
        with triton.AsyncCompileMode(executor, ignore_errors=True):
            token = _executor.set(executor)
            try:
                yield
                executor.wait(report)
            except BaseException:
                executor.stop()  # also if the user interrupts it: only what runs already is waited for
                raise
            finally:
                _executor.reset(token)


class _NamedExecutor:
    """The part of an executor that Triton uses. It remembers which kernel each future compiles."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.kernel = ""
        self._pool = pool
        self._names: dict[Future[Any], str] = {}
        self._is_stopped = False

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """See Executor.submit."""
        future = self._pool.submit(self._run, function)
        self._names[future] = self.kernel
        return future

    def stop(self) -> None:
        """Let everything that has not begun fail. It is not cancelled, because Triton would wait for that for ever."""
        self._is_stopped = True

    def _run(self, function: Callable[[], Any]) -> Any:
        if self._is_stopped:
            raise RuntimeError("the compilation was stopped")
        return function()

    def wait(self, report: Callable[[int, int], None]) -> None:
        """Wait for all compilations. Raises ResourceError for the first that fails."""
        for done, future in enumerate(as_completed(self._names), start=1):
            error = future.exception()
            if error is not None:
                # The first line of Triton's own errors is a place in the source.
                words = getattr(error, "error_message", None) or first_line(error)
                message = f"The GPU kernel {self._names[future]} does not compile: {words}"
                raise ResourceError(message, Hint.CPU) from error
            report(done, len(self._names))
