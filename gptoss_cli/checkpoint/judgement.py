"""Judge what a checkpoint is by its config, the names of its tensors and the names of its files.

Shapes tell nothing: gpt-oss has equal hidden and intermediate sizes, so a matrix that lies the other way looks the
same. Names do: the published layout has `_blocks` and `_scales`, in which rows are outputs; transformers saves experts
without them as [expert, input, output].
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from gptoss_cli.checkpoint.folder import INDEX, load_json, read_index, safetensors_files
from gptoss_cli.checkpoint.header import read_header
from gptoss_cli.errors import GptossError, Hint, IntegrityError, NotInstalledError
from gptoss_cli.units import size_words

CONFIG = "config.json"
_ADAPTER = "adapter_config.json"
_UNPACKED = re.compile(r"\.mlp\.experts\.(gate_up|down)_proj$")
_UNSLOTH = re.compile(r"\.experts\.(gate_up|down)_projs\.|\.router\.linear\.")
_BITSANDBYTES = re.compile(r"\.(absmax|quant_map|nested_absmax|quant_state\..*)")
_PICKLES = re.compile(r"(pytorch_model|consolidated).*\.(bin|pt|pth)")
_DTYPES = {"bfloat16": "bf16", "float16": "float16", "float32": "float32"}


class Kind(Enum):
    """The kinds of checkpoints that people have."""

    PACKED = auto()  # MXFP4 experts: it can be loaded
    UNPACKED = auto()  # experts of 16 or 32 bits in the layout of transformers: it can be converted
    UNSLOTH = auto()
    BITSANDBYTES = auto()
    QUANTIZED = auto()  # in any other format
    ADAPTER = auto()
    GGUF = auto()
    PICKLED = auto()
    OTHER_MODEL = auto()
    UNKNOWN = auto()  # nothing is recognised: the check of all tensors tells what is wrong


@dataclass(frozen=True, slots=True)
class Judgement:
    """A kind, and the name that goes with it: of a dtype, a quantization, a model type, or an adapter's base model."""

    kind: Kind
    name: str = ""

    @property
    def is_loadable(self) -> bool:
        """False if it is certain that the checkpoint cannot be loaded."""
        return self.kind in (Kind.PACKED, Kind.UNKNOWN)

    @property
    def words(self) -> str:
        """A noun phrase for one that cannot be loaded."""
        words = {
            Kind.UNPACKED: f"{self.name} re-save",
            Kind.UNSLOTH: "unsloth layout",
            Kind.BITSANDBYTES: "bitsandbytes",
            Kind.QUANTIZED: self.name,
            Kind.ADAPTER: "LoRA adapter",
            Kind.GGUF: "GGUF",
            Kind.PICKLED: "pickled weights",
            Kind.OTHER_MODEL: f"{self.name} model",
        }
        return words[self.kind]


def judge(config: Mapping[str, object], tensors: Collection[str], files: Collection[str] = ()) -> Judgement:
    """Judge a checkpoint. `tensors` is empty if their names are not known, `files` has the names in its folder."""
    by_files = judge_files(files)
    if by_files is not None:
        return by_files
    if any(".lora_A." in name or ".lora_B." in name for name in tensors):
        return Judgement(Kind.ADAPTER)
    model_type = config.get("model_type")
    if model_type not in (None, "gpt_oss"):
        return Judgement(Kind.OTHER_MODEL, _printable(model_type))
    if any(_UNSLOTH.search(name) for name in tensors):
        return Judgement(Kind.UNSLOTH)
    method = _quantization(config)
    if method == "bitsandbytes" or any(_BITSANDBYTES.search(name) for name in tensors):
        return Judgement(Kind.BITSANDBYTES)
    if method not in ("", "mxfp4"):
        return Judgement(Kind.QUANTIZED, method)
    return Judgement(*_by_experts(config, tensors))


def judge_files(files: Collection[str]) -> Judgement | None:
    """Judge by the names of files alone; None if weights in safetensors are there, or nothing at all."""
    weights = [name for name in files if name.endswith(".safetensors")]
    if _ADAPTER in files and all(name.startswith("adapter_model") for name in weights):
        return Judgement(Kind.ADAPTER)
    if weights or "original" in files:
        return None
    if any(name.endswith(".gguf") for name in files):
        return Judgement(Kind.GGUF)
    return Judgement(Kind.PICKLED) if any(map(_PICKLES.fullmatch, files)) else None


def judge_folder(folder: Path) -> Judgement:
    """Judge the checkpoint in a folder or, if only that has weights, in its `original` folder.

    Weights may be missing. Raises IntegrityError for a config or an index that is invalid.
    """
    files = file_names(folder)
    by_files = judge_files(files)
    if by_files is not None:
        return Judgement(by_files.kind, _base_model(folder)) if by_files.kind is Kind.ADAPTER else by_files
    original = folder / "original"
    if not (folder / INDEX).is_file() and not safetensors_files(folder) and (original / CONFIG).is_file():
        return judge_folder(original)
    config = load_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    return judge(config, _tensor_names(folder))


def file_names(folder: Path) -> list[str]:
    """Return the names in a folder, none if it cannot be read."""
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def weights_bytes(folder: Path) -> int:
    """Return the size of the safetensors files of a folder."""
    return sum(path.stat().st_size for path in safetensors_files(folder) if path.is_file())


def check_loadable(folder: Path, name: str) -> None:
    """Raise the error of `refusal` if the checkpoint in a folder cannot be loaded. `name` is what the user calls it."""
    judged = judge_folder(folder)
    if not judged.is_loadable:
        raise refusal(judged, name, weights_bytes(folder), Hint.CONVERT)


def check_files(folder: Path) -> None:
    """Raise the error of `refusal` if the names of the files show that the folder holds no whole checkpoint."""
    if judge_files(file_names(folder)) is not None:
        raise refusal(judge_folder(folder), str(folder))


def refusal(judged: Judgement, what: str, size_bytes: int = 0, convert: Hint | None = None) -> GptossError:
    """Return the error that names a checkpoint for what it is, and the way out.

    `what` is its path, or the name of its repository; `convert` is the hint for one that can be converted.
    """
    name = judged.name
    match judged.kind:
        case Kind.UNPACKED:
            size = f" ({size_words(size_bytes)})" if size_bytes else ""
            return IntegrityError(f"{what} is a {name} re-save{size}", *([convert] if convert else ()), subject=what)
        case Kind.UNSLOTH:
            layout = "is in the layout of unsloth, which only unsloth reads"
            return IntegrityError(f"{what} {layout}. In unsloth, save it as merged_16bit and convert that")
        case Kind.BITSANDBYTES:
            return IntegrityError(f"{what} is quantized by bitsandbytes. Save the model in bf16 and convert that")
        case Kind.QUANTIZED:
            return IntegrityError(f"{what} is quantized by {name}. Get the MXFP4 or bf16 model that it was made from")
        case Kind.ADAPTER:
            base = f" for {name}" if name else ""
            merge = "Merge it into its model (merge_and_unload in PEFT, merged_16bit in unsloth) and convert the result"
            return IntegrityError(f"{what} is a LoRA adapter{base}, not a whole model. {merge}")
        case Kind.GGUF:
            return IntegrityError(f"{what} is GGUF, for llama.cpp. Get the safetensors files that it was made from")
        case Kind.PICKLED:
            return IntegrityError(f"{what} holds pickled weights, which may run code. Save them as safetensors")
    assert judged.kind is Kind.OTHER_MODEL, "a checkpoint that can be loaded is not refused"
    return IntegrityError(f"{what} is a model of type {name}; only gpt-oss can be run", Hint.DOWNLOAD, subject="20b")


def _by_experts(config: Mapping[str, object], tensors: Collection[str]) -> tuple[Kind, str]:
    if any(name.endswith(("_proj_blocks", "_weight.blocks")) for name in tensors):
        return Kind.PACKED, ""
    declared = config.get("dtype", config.get("torch_dtype"))
    dtype = _DTYPES.get(declared, "bf16") if isinstance(declared, str) else "bf16"
    if any(map(_UNPACKED.search, tensors)):
        return Kind.UNPACKED, dtype
    if tensors:
        return Kind.UNKNOWN, ""
    if _quantization(config) == "mxfp4" and not _section(config, "quantization_config").get("dequantize"):
        return Kind.PACKED, ""
    return (Kind.UNPACKED, dtype) if config.get("model_type") == "gpt_oss" else (Kind.UNKNOWN, "")


def _quantization(config: Mapping[str, object]) -> str:
    """Return the method of a config, empty without one. MLX has a section of its own, without a method."""
    method = _section(config, "quantization_config").get("quant_method")
    if method is None and "group_size" in _section(config, "quantization"):
        return "MLX"
    return "" if method is None else _printable(method)


def _section(config: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _tensor_names(folder: Path) -> Collection[str]:
    """Return the names of the tensors by the index, else by the headers of the files that have one."""
    if (folder / INDEX).is_file():
        return read_index(folder / INDEX).keys()
    names: list[str] = []
    for path in safetensors_files(folder):
        try:
            names += read_header(path)
        except (IntegrityError, NotInstalledError):
            continue  # the check before loading names the file
    return names


def _base_model(folder: Path) -> str:
    """Return the model that an adapter is for, empty if it does not say."""
    try:
        base = load_json(folder / _ADAPTER).get("base_model_name_or_path")
    except GptossError:
        return ""
    return _printable(base) if isinstance(base, str) else ""


def _printable(value: object) -> str:
    """Return a value from a file for a message: short and without control characters."""
    return ascii(value).strip("'")[:80]
