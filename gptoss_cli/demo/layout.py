"""Lays the shipped demo model out as an ordinary checkpoint folder. After that nothing about it is special."""

import hashlib
import json
import os
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptoss_cli.errors import ResourceError
from gptoss_cli.settings import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gptoss_cli.demo.vocabulary import Lane

VOCABULARY_SIZE = 201088
WEIGHTS = "model.safetensors"
TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def demo_checkpoint() -> Path:
    """The demo model's checkpoint folder, in Hugging Face layout; made at the first call, in about two seconds.

    Raises ResourceError when the cache folder cannot be written.
    """
    shipped = resources.files("gptoss_cli.demo").joinpath("data/demo.safetensors").read_bytes()
    folder = cache_folder() / "demo" / hashlib.sha256(shipped).hexdigest()[:16]
    if not _is_complete(folder):
        try:
            _lay_out(shipped, folder)
        except OSError as exc:
            message = f"The demo model cannot be unpacked into {folder} ({exc.strerror}). Set GPTOSS_HOME elsewhere"
            raise ResourceError(message) from exc
    return folder


def _is_complete(folder: Path) -> bool:
    """The size is written last, so a folder with the right one was finished."""
    try:
        return (folder / WEIGHTS).stat().st_size == int((folder / "size").read_text())
    except (OSError, ValueError):
        return False


def _lay_out(shipped: bytes, folder: Path) -> None:
    """Write the folder beside its place and move it there, so that two processes may do it at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "demo"
        made.mkdir()
        write_checkpoint(shipped, made)
        (made / "size").write_text(str((made / WEIGHTS).stat().st_size))
        if folder.exists() and not _is_complete(folder):
            shutil.rmtree(folder)
        try:
            os.rename(made, folder)
        except OSError:
            if not _is_complete(folder):
                raise


def write_checkpoint(shipped: bytes, folder: Path) -> None:
    """Expand the bytes of `data/demo.safetensors` to config.json, generation_config.json and model.safetensors."""
    from safetensors import deserialize

    from gptoss_cli.demo.vocabulary import Lane

    header = json.loads(shipped[8 : 8 + int.from_bytes(shipped[:8], "little")])["__metadata__"]
    tensors: dict[str, Any] = dict(deserialize(shipped))  # type: ignore[no-untyped-call]
    ids = _int32(tensors.pop("trained_ids"))
    for name in TABLES:
        rows, base = tensors.pop(name), tensors.pop(f"{name}.base")
        lane = Lane(int(header["copy_size"]), float(header[f"{name}.scale"]))
        table = _table(rows, base, ids, lane)
        tensors[name] = {"dtype": "BF16", "shape": list(table.shape), "data": table.tobytes()}
    # The library gives them in another order every time.
    _write_safetensors(dict(sorted(tensors.items())), folder / WEIGHTS)
    (folder / "config.json").write_text(header["config"])
    (folder / "generation_config.json").write_text(header["generation_config"])


def _write_safetensors(tensors: dict[str, Any], path: Path) -> None:
    """The format by hand: the library writes bfloat16 only with torch, and the file is a header and bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + len(tensor["data"])
        header[name] = {"dtype": tensor["dtype"], "shape": tensor["shape"], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor["data"])


def _int32(tensor: dict[str, Any]) -> "NDArray[np.int64]":
    import numpy as np

    return np.frombuffer(tensor["data"], np.int32).astype(np.int64)


def _table(rows: dict[str, Any], base: dict[str, Any], ids: "NDArray[np.int64]", lane: "Lane") -> "NDArray[np.uint16]":
    """[V, C] bfloat16 bits: trained rows for the first `ids` as far as there are any, made ones elsewhere."""
    import numpy as np

    from gptoss_cli.demo.vocabulary import to_bfloat16, trained_lane, untrained_rows

    centre = (np.frombuffer(base["data"], np.uint16).astype(np.uint32) << 16).view(np.float32)
    table = np.empty((VOCABULARY_SIZE, len(centre)), np.uint16)
    for start in range(0, VOCABULARY_SIZE, 1 << 14):
        part = np.arange(start, min(start + (1 << 14), VOCABULARY_SIZE))
        table[part] = to_bfloat16(untrained_rows(part, centre, lane))
    trained = np.frombuffer(rows["data"], np.uint16).reshape(-1, len(centre) - lane.size)
    ids = ids[: len(trained)]
    table[ids, : -lane.size] = trained
    table[ids, -lane.size :] = to_bfloat16(np.float32(lane.scale) * trained_lane(ids, lane.size))
    return table
