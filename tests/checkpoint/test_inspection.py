"""Headers and the data of small tensors are read from a folder without its weights."""

from pathlib import Path

import numpy as np
import pytest

from gptoss_cli.checkpoint.inspection import read_data, read_stored_tensors
from gptoss_cli.errors import IntegrityError, NotInstalledError
from tests.engine.checkpoints import Shape, write_checkpoint, write_safetensors


def test_every_tensor_of_all_shards_is_found(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Shape(), shards=3)
    tensors = read_stored_tensors(tmp_path)
    assert len({tensor.path for tensor in tensors}) == 3
    assert len({tensor.name for tensor in tensors}) == len(tensors) == 3 + 3 * 19


def test_the_data_of_a_tensor_is_read_alone(tmp_path: Path) -> None:
    values = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.float32) + 10}
    write_safetensors(tmp_path / "model.safetensors", values)
    for tensor in read_stored_tensors(tmp_path):
        assert read_data(tensor) == values[tensor.name].tobytes()


def test_a_name_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_safetensors(tmp_path / f"{name}.safetensors", {"a": np.zeros(2, np.float32)})
    with pytest.raises(IntegrityError, match=r"y\.safetensors: tensor 'a' is also in x\.safetensors"):
        read_stored_tensors(tmp_path)


def test_a_file_that_has_gone_is_not_installed(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"a": np.zeros(2, np.float32)})
    (tensor,) = read_stored_tensors(tmp_path)
    path.unlink()
    with pytest.raises(NotInstalledError):
        read_data(tensor)


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"a": np.zeros(2, np.float32)})
    (tensor,) = read_stored_tensors(tmp_path)
    write_safetensors(path, {"b": np.zeros(2, np.float32)})
    with pytest.raises(IntegrityError):
        read_data(tensor)
