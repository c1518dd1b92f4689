"""Mutated headers, indexes, configs and manifests: success or one clear error, little memory, no outside files."""

import json
import os
import random
import resource
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_cli.checkpoint.header import check_tensors
from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest, Manifest, read_manifest, write_manifest
from gptoss_cli.errors import GptossError
from gptoss_cli.placement.model_config import load_config
from gptoss_cli.placement.tensor_specs import Layout, expected_tensors
from tests.engine.checkpoints import Shape, write_checkpoint

_INDEX, _SHARD = "model.safetensors.index.json", "model-00000-of-00001.safetensors"
_FILES = ("config.json", _INDEX, _SHARD, "manifest.json")
# Only this much of a file is changed: the header of a shard, not its weights.
_HEAD_BYTES = 20_000
_MOST_MEMORY_KIB = 200_000
_TOKENS = [
    *(
        b"../",
        b"/etc/passwd",
        b"..\\",
        b"C:",
        b"\0",
        b"\x1b[2J",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b'"',
        b"\\ud800",
        b"{",
        b"}",
    ),
    *(b"[", b"]", b",", b":", b"-1", b"0", b"1e999", b"NaN", b"Infinity", b"null", b"true", b"1844674407370955161600"),
    *(b"9" * 5_000, b"[" * 3_000, b'{"a":' * 2_000, b"weight_map", b"BF16", b"U8", b"model-00001-of-00001.safetensors"),
]
_EDITS = st.lists(
    st.tuples(
        st.integers(0, _HEAD_BYTES),
        st.integers(0, 40),
        st.one_of(st.sampled_from(_TOKENS), st.binary(max_size=8)),
    ),
    min_size=1,
    max_size=6,
)


class _Opened:
    """The files that are opened while `watching` is true."""

    def __init__(self) -> None:
        self.watching = False
        self.paths: set[str] = set()
        sys.addaudithook(self._record)

    def _record(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.watching and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            self.paths.add(os.path.realpath(os.fsdecode(arguments[0])))


@pytest.fixture(scope="module")
def opened() -> _Opened:
    return _Opened()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid checkpoint with every file that is read as JSON."""
    folder = write_checkpoint(
        tmp_path_factory.mktemp("fuzz") / "right", Shape(layer_types=("sliding_attention",)), shards=2
    )
    names = sorted(path.name for path in folder.iterdir())
    files = tuple(CheckpointFile(name, (folder / name).stat().st_size, Digest("sha256", "a" * 64)) for name in names)
    write_manifest(folder / "manifest.json", Manifest("some/model", "main", "a" * 40, files))
    assert set(_FILES) <= {path.name for path in folder.iterdir()}
    return folder


def _mutated(data: bytes, edits: list[tuple[int, int, bytes]], cut: int | None) -> bytes:
    for position, length, new in edits:
        at = position % (len(data[:_HEAD_BYTES]) + 1)
        data = data[:at] + new + data[at + length :]
    return data if cut is None else data[:cut]


def _read(folder: Path) -> None:
    """Check a folder as the program does."""
    config = load_config(folder / "config.json")
    check_tensors(folder, [expected_tensors(config, layout) for layout in Layout])


def _survives(folder: Path, name: str, data: bytes, opened: _Opened) -> None:
    copy = folder.parent / "mutated"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for path in folder.iterdir():
        if path.name != name:
            os.link(path, copy / path.name)
    (copy / name).write_bytes(data)
    opened.paths.clear()
    opened.watching = True
    try:
        for read in (lambda: _read(copy), lambda: read_manifest(copy / "manifest.json")):
            try:
                read()
            except GptossError as exc:
                text = str(exc)
                assert text.isprintable(), "a message is one line without control characters"
                assert len(text) < 1_000
    finally:
        opened.watching = False
    outside = {path for path in opened.paths if not path.startswith(str(copy)) and not path.endswith((".py", ".pyc"))}
    assert outside == set()


def test_mutated_files_are_one_error_or_none(folder: Path, opened: _Opened) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(_FILES), _EDITS, st.none() | st.integers(0, _HEAD_BYTES))
    def mutate(name: str, edits: list[tuple[int, int, bytes]], cut: int | None) -> None:
        _survives(folder, name, _mutated((folder / name).read_bytes(), edits, cut), opened)

    mutate()


@pytest.mark.slow
def test_twenty_thousand_mutations_need_little_memory(folder: Path, opened: _Opened) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    noise = random.Random(3)

    @settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(_FILES), _EDITS, st.none() | st.integers(0, _HEAD_BYTES))
    def mutate(name: str, edits: list[tuple[int, int, bytes]], cut: int | None) -> None:
        _survives(folder, name, _mutated((folder / name).read_bytes(), edits, cut), opened)

    mutate()
    for name in _FILES:  # and files without any valid part
        for size in (0, 1, 7, 8, 9, 4_000, 2_000_000):
            _survives(folder, name, noise.randbytes(size), opened)
            _survives(folder, name, json.dumps([noise.random()] * (size // 20)).encode(), opened)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _MOST_MEMORY_KIB
