"""What a safetensors header and an index may say, against files that say otherwise."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptoss_cli.checkpoint.header import TensorHeader, check_tensors, read_header
from gptoss_cli.errors import GptossError, IntegrityError, NotInstalledError

Header = dict[str, Any]
_EXPECTED = {"a": ("BF16", (2, 3)), "b": ("U8", (4,))}


def _write(path: Path, header: object, data: bytes = bytes(16)) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def _tensor(dtype: object, shape: object, *offsets: object) -> Header:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


def _right() -> Header:
    return {"__metadata__": {"format": "pt"}, "a": _tensor("BF16", [2, 3], 0, 12), "b": _tensor("U8", [4], 12, 16)}


def test_a_right_header_is_read(tmp_path: Path) -> None:
    found = read_header(_write(tmp_path / "x.safetensors", _right()))
    assert found == {"a": TensorHeader("BF16", (2, 3)), "b": TensorHeader("U8", (4,))}
    assert check_tensors(tmp_path, [{}, _EXPECTED]) == (2, [])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"1234567", "is not a whole safetensors file"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "has no header"),
        ((200 << 20).to_bytes(8, "little") + b"{}", "has no header"),
        ((100).to_bytes(8, "little") + b"{}", "ends in its header"),
    ],
)
def test_what_is_no_safetensors_file_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(IntegrityError, match=said) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("data", [bytes(15), bytes(17), b""])
def test_a_file_that_is_cut_or_too_long_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="bytes of tensors"):
        read_header(_write(tmp_path / "x.safetensors", _right(), data))


@pytest.mark.parametrize(
    "wrong",
    [
        _tensor("U8", [4], 11, 15),  # overlaps
        _tensor("U8", [3], 13, 16),  # leaves a hole
        _tensor("U8", [4], 16, 12),
        _tensor("U8", [4], -4, 0),
        _tensor("U8", [4], 12, 1 << 64),
        _tensor("U8", [1 << 62, 1 << 62], 12, 16),
        _tensor("U8", [-4], 12, 16),
        _tensor("U8", [4.0], 12, 16),
        _tensor("U8", [True, 4], 12, 16),
        _tensor("U8", "4", 12, 16),
        _tensor("U8", [4], 12),
        _tensor("U9", [4], 12, 16),
        _tensor(None, [4], 12, 16),
        _tensor(["U8"], [4], 12, 16),
        _tensor("BF16", [4], 12, 16),
        {"shape": [4]},
        [],
        None,
    ],
)
def test_a_lying_tensor_is_named(wrong: object, tmp_path: Path) -> None:
    path = _write(tmp_path / "x.safetensors", _right() | {"b": wrong})
    with pytest.raises(IntegrityError, match=f"{path}: tensor '[ab]'"):
        read_header(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda header: header | {"a": _tensor("F16", [2, 3], 0, 12)}, r"should be BF16 \[2, 3\], but is F16"),
        (lambda header: header | {"a": _tensor("BF16", [3, 2], 0, 12)}, r"should be BF16 \[2, 3\], but is BF16 \[3, 2"),
        (lambda header: {("a" if name == "a" else "c"): header[name] for name in ("a", "b")}, "'b' is missing"),
    ],
)
def test_tensors_are_held_to_what_the_model_demands(
    change: Callable[[Header], Header], said: str, tmp_path: Path
) -> None:
    _write(tmp_path / "x.safetensors", change(_right()))
    with pytest.raises(IntegrityError, match=said):
        check_tensors(tmp_path, [_EXPECTED])


def test_a_tensor_too_many_is_reported_and_not_refused(tmp_path: Path) -> None:
    _write(tmp_path / "x.safetensors", _right())
    assert check_tensors(tmp_path, [{"a": ("BF16", (2, 3))}]) == (1, ["b"])


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("x", "y"):
        _write(tmp_path / f"{name}.safetensors", _right())
    with pytest.raises(IntegrityError, match="is also in"):
        check_tensors(tmp_path, [_EXPECTED])


def _indexed(folder: Path, weight_map: object) -> None:
    _write(folder / "x.safetensors", {"a": _tensor("BF16", [2, 3], 0, 12)}, bytes(12))
    _write(folder / "y.safetensors", {"b": _tensor("U8", [4], 0, 4)}, bytes(4))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"a": "x.safetensors", "b": "x.safetensors"}, "'b' is missing, though"),
        ({"a": "y.safetensors", "b": "x.safetensors"}, "is in [xy].safetensors, not in"),
        ({"a": "x.safetensors", "b": "../y.safetensors"}, "not the name of a shard"),
        ({"a": "x.safetensors", "b": "/etc/passwd"}, "not the name of a shard"),
        ({"a": "x.safetensors", "b": 7}, "not the name of a shard"),
        ({}, "should map tensors to files"),
    ],
)
def test_the_index_is_held_to_the_files(weight_map: object, said: str, tmp_path: Path) -> None:
    _indexed(tmp_path, weight_map)
    with pytest.raises(IntegrityError, match=said):
        check_tensors(tmp_path, [_EXPECTED])


def test_a_shard_that_is_not_there_is_missing(tmp_path: Path) -> None:
    _indexed(tmp_path, {"a": "x.safetensors", "b": "z.safetensors"})
    with pytest.raises(NotInstalledError, match=r"z\.safetensors is missing"):
        check_tensors(tmp_path, [_EXPECTED])


def test_escapes_in_a_name_do_not_reach_a_message(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.safetensors", {"a\x1b[2J\ud800": None})
    with pytest.raises(GptossError) as caught:
        read_header(path)
    assert "\x1b" not in str(caught.value)
    assert str(caught.value).isprintable()
