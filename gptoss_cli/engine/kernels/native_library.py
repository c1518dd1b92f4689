"""The functions of the native library and their argument types. Pointers are integers: this module knows no tensors.

The library is built when the package is installed, if there is a C compiler; otherwise it is missing.
"""

import ctypes
import importlib.machinery
import itertools
import os
import time
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Final

from gptoss_cli.errors import UsageError

# The instruction set to use instead of the best: to compare them, and on machines with a faulty one.
VARIABLE: Final = "GPTOSS_CPU_KERNELS"
_NAME = "_native"
_PREPARED: list[object] = []  # what the library may still use when the process ends
INT16, FLOAT32, INT8 = range(3)  # gptoss.h's ACTIVATIONS


class Matrix(ctypes.Structure):
    """gptoss.h's Matrix. Without `factors` it is bf16, otherwise int8. `bias` is optional."""

    _fields_ = (("weight", c_void_p), ("factors", c_void_p), ("bias", c_void_p), ("rows", c_int64))


class Experts(ctypes.Structure):
    """gptoss.h's Experts."""

    _fields_ = (
        ("blocks", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("rows", c_int64),
        ("groups", c_int64),
    )


class Attention(ctypes.Structure):
    """gptoss.h's Attention."""

    _fields_ = (
        ("tokens", c_int64),
        ("query_heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("keys", c_int64),
        ("first", c_int64),
        ("position", c_int64),
        ("window", c_int64),
        ("is_bf16", c_int32),
    )


class Layer(ctypes.Structure):
    """decode_layers.c's Layer."""

    _fields_ = (
        ("attention_norm", c_void_p),
        ("qkv", Matrix * 3),
        ("output", Matrix),
        ("sinks", c_void_p),
        ("mlp_norm", c_void_p),
        ("router", Matrix),
        ("gate_up", Experts),
        ("down", Experts),
    )


class Cached(ctypes.Structure):
    """decode_layers.c's Cached."""

    _fields_ = (("keys", c_void_p), ("values", c_void_p), ("slots", c_int64))


class Shape(ctypes.Structure):
    """decode_layers.c's Shape."""

    _fields_ = (
        ("hidden_size", c_int64),
        ("query_heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("active", c_int64),
        ("eps", c_float),
        ("limit", c_float),
        ("activations", c_int32),
        ("is_bf16", c_int32),
    )


class MappedFile(ctypes.Structure):
    """lost_page.c's MappedFile."""

    _fields_ = (("start", c_uint64), ("end", c_uint64), ("line", c_char_p))


_POINTER = c_void_p
_TYPES: dict[str, tuple[Any, ...]] = {
    "dense": (*[_POINTER] * 5, POINTER(Matrix), c_int64, c_int64, c_int64, c_float, c_int),
    "mix_one": (*[_POINTER] * 5, c_int64, POINTER(Experts), POINTER(Experts), c_float, c_int, c_int),
    "mix_many": (*[_POINTER] * 5, *[c_int64] * 3, POINTER(Experts), POINTER(Experts), c_float, c_int, c_int),
    "rotate": (*[_POINTER] * 4, c_int64, c_int64, c_int64),
    "attend": (*[_POINTER] * 5, POINTER(Attention), c_int),
    "choose": (*[_POINTER] * 3, c_int64, c_int64, c_int64),
    "decode": (_POINTER, POINTER(Layer), POINTER(Cached), c_int64, POINTER(Shape), _POINTER, _POINTER, c_int64, c_int),
    "select": (c_char_p,),
    "selected": (),
    "table_name": (c_int,),
    "self_check": (c_char_p,),
    "has_threads": (),
    "worked": (),
    "read": (_POINTER, c_int64, c_int),
    "restore_at_end": (c_int, POINTER(c_int64), c_char_p, c_int64),
    "end_at_lost_page": (c_char_p, POINTER(MappedFile), c_int64, c_int),
}
_RESULTS: dict[str, Any] = {
    "rotate": None,
    "choose": None,
    "selected": c_char_p,
    "table_name": c_char_p,
    "self_check": c_char_p,
    "read": c_uint64,
    "worked": c_int64,
}


class Native:
    """The functions of one library, documented in the C files. Raises OSError if `path` is not such a library."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self.path = path
        self.dense = _checked(library, "dense")
        self.mix_one = _checked(library, "mix_one")
        self.mix_many = _checked(library, "mix_many")
        self.attend = _checked(library, "attend")
        self.decode = _checked(library, "decode")
        self.choose = _function(library, "choose")
        self.rotate = _function(library, "rotate")
        self.read = _function(library, "read")
        self._select = _function(library, "select")
        self._selected = _function(library, "selected")
        self._table_name = _function(library, "table_name")
        self._self_check = _function(library, "self_check")
        self._worked = _function(library, "worked")
        self._restore_at_end = _function(library, "restore_at_end")
        self._end_at_lost_page = _function(library, "end_at_lost_page")
        self.has_threads = bool(_function(library, "has_threads")())

    @property
    def instructions(self) -> str:
        """The instruction set in use: avx512bf16, avx512, avx2, i8mm, dotprod, neon or scalar."""
        return str(self._selected().decode())

    def available(self) -> list[str]:
        """Return the instruction sets that this machine can run, best first."""
        names = map(self._table_name, itertools.count())
        return [str(name.decode()) for name in itertools.takewhile(bool, names)]

    def work_seconds(self) -> float:
        """Return the seconds that the pool's threads have worked so far, added up; 0 without threads.

        What a single thread does without the pool does not count.
        """
        return float(self._worked()) / 1e9

    def select(self, name: str) -> bool:
        """Use another instruction set from now on, "" for the best. Return False if this machine does not have it."""
        return bool(self._select(name.encode()))

    def restore_at_end(self, terminal: int, flags: Sequence[int], characters: bytes) -> None:
        """Let the end at a lost page restore these modes of a terminal, as termios.tcgetattr returns them."""
        self._restore_at_end(terminal, (c_int64 * len(flags))(*flags), characters, len(characters))

    def end_at_lost_page(self, other_line: bytes, files: Sequence[MappedFile], status: int) -> None:
        """End the process with `status` and a line on stderr when a page of a mapped file is lost.

        That happens when the file becomes shorter. `other_line` is for files that are not among `files`.
        """
        array = (MappedFile * len(files))(*files)
        _PREPARED.append((other_line, array))
        self._end_at_lost_page(other_line, array, len(files), status)

    def self_check(self, name: str = "") -> str | None:
        """Use the instruction set `name`, "" for the best, or the next best if it disagrees with the scalar kernels.

        Return the name of the one that disagrees, or None.
        """
        wrong = self._self_check(name.encode())
        return None if wrong is None else str(wrong.decode())


class TimedNative(Native):
    """A library that adds up in `seconds` how long its functions ran."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.seconds = 0.0
        for name in ("dense", "mix_one", "mix_many", "attend", "choose", "rotate", "decode"):
            setattr(self, name, self._timed(getattr(self, name)))

    def _timed(self, function: Callable[..., None]) -> Callable[..., None]:
        def timed(*arguments: object) -> None:
            began = time.perf_counter()
            function(*arguments)
            self.seconds += time.perf_counter() - began

        return timed


def find_library() -> Path | None:
    """Return the path of the installed library, or None."""
    names = [f"{_NAME}{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    folder = Path(__file__).parent
    return next((folder / name for name in names if (folder / name).is_file()), None)


def chosen_instructions() -> str:
    """Return the instruction set that the environment names, "" for the best."""
    return os.environ.get(VARIABLE, "").strip().lower()


def check_instructions(native: Native) -> str | None:
    """Use the chosen instruction set, and return the reason if another one is used because it computes wrongly.

    Raises UsageError if this machine does not have the chosen one.
    """
    chosen = chosen_instructions()
    if chosen and chosen not in native.available():
        listed = ", ".join(native.available())
        raise UsageError(f"{VARIABLE} is {chosen!r}. This machine can run: {listed}")
    wrong = native.self_check(chosen)
    if wrong is None:
        return None
    return (
        f"This machine computes {wrong} instructions wrongly, so {native.instructions} is used instead. "
        "Update its firmware or its virtual machine"
    )


def _function(library: ctypes.CDLL, name: str) -> Callable[..., Any]:
    try:
        function = getattr(library, f"gptoss_{name}")
    except AttributeError as exc:
        raise OSError(f"gptoss_{name} is missing") from exc
    function.argtypes, function.restype = _TYPES[name], _RESULTS.get(name, c_int)
    return function  # type: ignore[no-any-return]


def _checked(library: ctypes.CDLL, name: str) -> Callable[..., None]:
    """Return a function that raises MemoryError when the C function returns 0."""
    function = _function(library, name)

    def checked(*arguments: object) -> None:
        if not function(*arguments):
            raise MemoryError

    return checked
