"""Headers and indices that contradict their files are refused, with a message that names the file."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptoss_cli.checkpoint.header import CheckedTensors, TensorSpec, check_tensors, read_header
from gptoss_cli.errors import GptossError, IntegrityError, NotInstalledError

Header = dict[str, Any]
_EXPECTED = {"a": TensorSpec((2, 3), "BF16"), "b": TensorSpec((4,), "U8")}


def _write(path: Path, header: object, data: bytes = bytes(16)) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def _tensor(dtype: object, shape: object, *offsets: object) -> Header:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


def _valid() -> Header:
    return {"__metadata__": {"format": "pt"}, "a": _tensor("BF16", [2, 3], 0, 12), "b": _tensor("U8", [4], 12, 16)}


def test_a_valid_header_is_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.safetensors", _valid())
    assert read_header(path) == _EXPECTED
    assert check_tensors(tmp_path, [{}, _EXPECTED]) == CheckedTensors(1, {"a": path, "b": path}, [])


@pytest.mark.parametrize(
    ("content", "message"),
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
def test_a_file_of_another_format_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(IntegrityError, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("data", [bytes(15), bytes(17), b""])
def test_a_file_that_is_too_short_or_too_long_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="bytes of tensors"):
        read_header(_write(tmp_path / "x.safetensors", _valid(), data))


@pytest.mark.parametrize(
    "invalid",
    [
        _tensor("U8", [4], 11, 15),  # overlaps
        _tensor("U8", [3], 13, 16),  # leaves a gap
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
def test_a_tensor_with_an_invalid_entry_is_named(invalid: object, tmp_path: Path) -> None:
    path = _write(tmp_path / "x.safetensors", _valid() | {"b": invalid})
    with pytest.raises(IntegrityError, match=f"{path}: tensor '[ab]'"):
        read_header(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda header: header | {"a": _tensor("F16", [2, 3], 0, 12)},
            r"should be BF16 \[2, 3\] according to config.json, but is F16",
        ),
        (
            lambda header: header | {"a": _tensor("BF16", [3, 2], 0, 12)},
            r"should be BF16 \[2, 3\] according to config.json, but is BF16 \[3, 2",
        ),
        (lambda header: {("a" if name == "a" else "c"): header[name] for name in ("a", "b")}, "'b' is missing"),
    ],
)
def test_a_missing_tensor_and_a_wrong_shape_or_dtype_are_refused(
    change: Callable[[Header], Header], message: str, tmp_path: Path
) -> None:
    _write(tmp_path / "x.safetensors", change(_valid()))
    with pytest.raises(IntegrityError, match=message):
        check_tensors(tmp_path, [_EXPECTED])


def test_an_unexpected_tensor_is_reported_and_not_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.safetensors", _valid())
    assert check_tensors(tmp_path, [{"a": _EXPECTED["a"]}]) == CheckedTensors(0, {"a": path}, ["b"])


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("x", "y"):
        _write(tmp_path / f"{name}.safetensors", _valid())
    with pytest.raises(IntegrityError, match="is also in"):
        check_tensors(tmp_path, [_EXPECTED])


def _indexed(folder: Path, weight_map: object) -> None:
    _write(folder / "x.safetensors", {"a": _tensor("BF16", [2, 3], 0, 12)}, bytes(12))
    _write(folder / "y.safetensors", {"b": _tensor("U8", [4], 0, 4)}, bytes(4))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "x.safetensors", "b": "x.safetensors"}, "'b' is missing, but"),
        ({"a": "y.safetensors", "b": "x.safetensors"}, "is in [xy].safetensors, not in"),
        ({"a": "x.safetensors", "b": "../y.safetensors"}, "not the name of a shard"),
        ({"a": "x.safetensors", "b": "/etc/passwd"}, "not the name of a shard"),
        ({"a": "x.safetensors", "b": 7}, "not the name of a shard"),
        ({}, "should map tensors to files"),
    ],
)
def test_an_index_that_contradicts_the_files_is_refused(weight_map: object, message: str, tmp_path: Path) -> None:
    _indexed(tmp_path, weight_map)
    with pytest.raises(IntegrityError, match=message):
        check_tensors(tmp_path, [_EXPECTED])


def test_a_missing_shard_is_not_installed(tmp_path: Path) -> None:
    _indexed(tmp_path, {"a": "x.safetensors", "b": "z.safetensors"})
    with pytest.raises(NotInstalledError, match=r"z\.safetensors is missing"):
        check_tensors(tmp_path, [_EXPECTED])


def test_escapes_in_a_name_do_not_reach_a_message(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.safetensors", {"a\x1b[2J\ud800": None})
    with pytest.raises(GptossError) as caught:
        read_header(path)
    assert "\x1b" not in str(caught.value)
    assert str(caught.value).isprintable()
