"""Each kind of checkpoint that people have is named for what it is, by names alone, with the way out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gptoss_cli.checkpoint.judgement import Judgement, Kind, check_loadable, judge, judge_files, judge_folder, refusal
from gptoss_cli.errors import ExitStatus, GptossError, Hint
from tests.engine.checkpoints import REAL_20B, Shape, write_checkpoint
from tests.engine.unpacked import write_unpacked

_EXPERTS = "model.layers.0.mlp.experts"
_PACKED = [f"{_EXPERTS}.down_proj_blocks", f"{_EXPERTS}.down_proj_scales", f"{_EXPERTS}.down_proj_bias"]
_UNPACKED = [f"{_EXPERTS}.down_proj", f"{_EXPERTS}.down_proj_bias"]
_UNSLOTH = ["model.layers.0.mlp.router.linear.weight", f"{_EXPERTS}.gate_up_projs.0.weight.absmax"]
_WITHOUT = {key: value for key, value in REAL_20B.items() if key != "quantization_config"}


def _marked(method: str, **more: Any) -> dict[str, Any]:
    return _WITHOUT | {"quantization_config": {"quant_method": method, **more}}


@pytest.mark.parametrize(
    ("config", "tensors", "kind", "name"),
    [
        (REAL_20B, _PACKED, Kind.PACKED, ""),
        (_WITHOUT, _PACKED, Kind.PACKED, ""),
        ({}, ["block.0.mlp.mlp1_weight.blocks"], Kind.PACKED, ""),
        (_WITHOUT, _UNPACKED, Kind.UNPACKED, "bf16"),
        (REAL_20B, _UNPACKED, Kind.UNPACKED, "bf16"),
        (_marked("mxfp4", dequantize=True), _UNPACKED, Kind.UNPACKED, "bf16"),
        (_marked("mxfp4", dequantize=True), [], Kind.UNPACKED, "bf16"),
        (_WITHOUT | {"torch_dtype": "float16"}, _UNPACKED, Kind.UNPACKED, "float16"),
        (_WITHOUT | {"dtype": "float32", "torch_dtype": "float16"}, _UNPACKED, Kind.UNPACKED, "float32"),
        (_WITHOUT | {"dtype": ["a"]}, [], Kind.UNPACKED, "bf16"),
        (REAL_20B, [], Kind.PACKED, ""),
        (_marked("bitsandbytes"), _UNSLOTH, Kind.UNSLOTH, ""),
        (_WITHOUT, _UNSLOTH[:1], Kind.UNSLOTH, ""),
        (_marked("bitsandbytes"), [f"{_EXPERTS}.down_proj"], Kind.BITSANDBYTES, ""),
        (_WITHOUT, ["model.layers.0.self_attn.q_proj.weight.absmax"], Kind.BITSANDBYTES, ""),
        (_marked("modelopt"), _PACKED, Kind.QUANTIZED, "modelopt"),
        (_WITHOUT | {"quantization": {"group_size": 32, "bits": 4}}, [], Kind.QUANTIZED, "MLX"),
        ({"model_type": "llama"}, ["model.layers.0.mlp.gate_proj.weight"], Kind.OTHER_MODEL, "llama"),
        ({"model_type": "a\x1b[2J\n"}, [], Kind.OTHER_MODEL, "a\\x1b[2J\\n"),
        ({}, ["base_model.model.layers.0.q_proj.lora_A.weight"], Kind.ADAPTER, ""),
        ({}, [], Kind.UNKNOWN, ""),
        (_WITHOUT, ["something.else"], Kind.UNKNOWN, ""),
    ],
)
def test_config_and_names_tell_the_kind(config: dict[str, Any], tensors: Sequence[str], kind: Kind, name: str) -> None:
    assert judge(config, tensors) == Judgement(kind, name)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["adapter_config.json", "adapter_model.safetensors", "README.md"], Kind.ADAPTER),
        (["adapter_config.json", "adapter_model.bin"], Kind.ADAPTER),
        (["config.json", "model-Q4_K_M.gguf"], Kind.GGUF),
        (["config.json", "pytorch_model-00001-of-00002.bin"], Kind.PICKLED),
        (["config.json", "model.safetensors", "model.gguf"], None),
        (["config.json", "model.safetensors", "adapter_config.json"], None),
        (["original", "model.gguf"], None),
        (["config.json"], None),
        ([], None),
    ],
)
def test_names_of_files_tell_what_is_no_whole_checkpoint(files: list[str], kind: Kind | None) -> None:
    judged = judge_files(files)
    assert (judged.kind if judged else None) is kind


def test_a_folder_is_judged_by_its_index_or_by_its_headers(tmp_path: Path) -> None:
    assert judge_folder(write_unpacked(tmp_path / "sharded", Shape())).kind is Kind.UNPACKED
    single = write_unpacked(tmp_path / "single", Shape())
    (single / "model.safetensors.index.json").unlink()
    assert judge_folder(single).kind is Kind.UNPACKED
    assert judge_folder(write_checkpoint(tmp_path / "packed", Shape())).kind is Kind.PACKED


def test_a_folder_whose_weights_are_in_original_is_judged_by_those(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "original", Shape())
    (tmp_path / "config.json").write_text("{}")
    assert judge_folder(tmp_path).kind is Kind.PACKED


def test_broken_files_are_left_to_the_check_before_loading(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    assert judge_folder(tmp_path).kind is Kind.UNKNOWN


def test_an_adapter_names_the_model_that_it_is_for(tmp_path: Path) -> None:
    base = {"base_model_name_or_path": "openai/gpt-oss-20b"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(base))
    (tmp_path / "adapter_model.safetensors").touch()
    assert judge_folder(tmp_path) == Judgement(Kind.ADAPTER, "openai/gpt-oss-20b")
    for damaged in ("", "[]", '{"base_model_name_or_path": 7}'):
        (tmp_path / "adapter_config.json").write_text(damaged)
        assert judge_folder(tmp_path) == Judgement(Kind.ADAPTER)


def _refused(judged: Judgement) -> GptossError:
    return refusal(judged, "a/b", 38_000_000_000, Hint.CONVERT)


@pytest.mark.parametrize(
    ("judged", "message"),
    [
        (Judgement(Kind.UNPACKED, "bf16"), "a/b is a bf16 re-save (38.0 GB)"),
        (Judgement(Kind.UNSLOTH), "save it as merged_16bit"),
        (Judgement(Kind.BITSANDBYTES), "quantized by bitsandbytes"),
        (Judgement(Kind.QUANTIZED, "awq"), "quantized by awq"),
        (Judgement(Kind.ADAPTER, "c/d"), "a LoRA adapter for c/d"),
        (Judgement(Kind.GGUF), "is GGUF, for llama.cpp"),
        (Judgement(Kind.PICKLED), "pickled"),
        (Judgement(Kind.OTHER_MODEL, "llama"), "a model of type llama"),
    ],
)
def test_every_kind_that_cannot_be_loaded_exits_4_and_says_what_to_do(judged: Judgement, message: str) -> None:
    error = _refused(judged)
    assert message in str(error)
    assert error.exit_status == ExitStatus.INTEGRITY
    assert error.hints or ". " in str(error)
    assert not judged.is_loadable
    assert judged.words


def test_a_bf16_folder_is_refused_with_its_size_and_the_hint_to_convert_it(tmp_path: Path) -> None:
    folder = write_unpacked(tmp_path, Shape())
    with pytest.raises(GptossError, match=r"^my model is a bf16 re-save \(2\.2 MB\)$") as caught:
        check_loadable(folder, "my model")
    assert (caught.value.hints, caught.value.subject) == ((Hint.CONVERT,), "my model")
