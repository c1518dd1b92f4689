"""`gptoss convert`: a bf16 copy becomes an installed model; everything else is named for what it is."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gptoss_cli.cli import convert as command
from gptoss_cli.engine import convert, mxfp4
from gptoss_cli.engine.mxfp4 import PackedMatrix
from tests.checkpoint.snapshots import cache_repository
from tests.cli.conftest import Run
from tests.engine.checkpoints import FULL, SLIDING, Shape, random_tensors, write_checkpoint
from tests.engine.unpacked import unpacked, write_unpacked

SHAPE = Shape(layer_types=(SLIDING, FULL))
# With the vocabulary of Harmony, so that it can be asked.
ASKED = replace(SHAPE, vocabulary=201_089)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the checkpoints on an empty machine, the current one."""
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(convert, "_SHARD_BYTES", 120_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home" / "data" / "checkpoints"


@pytest.fixture
def source(home: Path, tmp_path: Path) -> Path:
    return write_unpacked(tmp_path / "bf16", SHAPE)


def test_a_converted_model_is_listed_verified_planned_asked_and_removed(run: Run, home: Path, tmp_path: Path) -> None:
    write_unpacked(tmp_path / "bf16", ASKED)
    status, out, err = run("convert", "bf16", "tuned")
    assert (status, out) == (0, "")
    assert "Experts: every block is exact." in err
    assert "Try: gptoss chat -m tuned" in err
    rows = {row["model"]: row for row in json.loads(run("list", "--json")[1])["models"]}
    assert (rows["tuned"]["state"], rows["tuned"]["folder"]) == ("installed", str(home / "tuned"))
    assert rows["tuned"]["verified"] is not None
    status, out, _ = run("verify", "tuned")
    assert status == 0
    assert "files have the right digest; names and shapes of" in out
    assert run("plan", "tuned")[1].startswith("tuned: on the ")
    assert run("ask", "-m", "tuned", "--seed", "1", "--max-tokens", "5", "Hello")[0] == 7
    (tmp_path / "tuned").mkdir()  # a folder of this name is not the model
    assert run("plan", "tuned")[0] == run("verify", "tuned", "--quick")[0] == 0
    assert run("download", "tuned")[::2] == (
        2,
        "gptoss: tuned was converted on this machine: there is nothing to download\n",
    )
    assert run("remove", "tuned", "-y")[0] == 0
    assert not (home / "tuned").exists()


def test_a_dry_run_shows_the_sizes_and_writes_nothing(run: Run, source: Path, home: Path) -> None:
    status, out, err = run("convert", "bf16", "tuned", "--dry-run")
    assert status == 0
    assert "model-00001-of-" in out
    assert "1.5 MB become 711 kB" in err
    values = json.loads(run("convert", "bf16", "tuned", "--dry-run", "--json")[1])
    assert values["bytes_to_write"] == values["bytes"] < values["source_bytes"]
    assert not home.exists()


def test_json_reports_what_was_rounded(run: Run, source: Path) -> None:
    values = json.loads(run("convert", "bf16", "tuned", "--json")[1])
    assert (values["model"], values["rounded_blocks"], values["largest_error"]) == ("tuned", 0, 0.0)
    assert values["blocks"] > 0


def test_rounding_is_reported_and_exact_refuses_it(run: Run, home: Path, tmp_path: Path) -> None:
    tensors = unpacked(random_tensors(SHAPE, 0))
    name = "model.layers.1.mlp.experts.down_proj"
    tensors[name][:3] ^= 1
    write_unpacked(tmp_path / "bf16", SHAPE, tensors=tensors)
    status, _, err = run("convert", "bf16", "tuned", "--exact")
    assert status == 4
    assert f"{name} would be rounded: 50 % of its blocks are not exact in MXFP4. Leave out --exact" in err
    assert run("ask", "-m", "tuned", "x")[0] == 3
    status, _, err = run("convert", "bf16", "tuned")
    assert status == 0
    assert "% of the blocks are exact, the others rounded; largest error 0.0" in err


def test_a_rounded_file_of_an_earlier_run_is_refused_by_exact(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = unpacked(random_tensors(SHAPE, 0))
    tensors["model.layers.0.mlp.experts.down_proj"] ^= 1
    write_unpacked(tmp_path / "bf16", SHAPE, tensors=tensors)
    _interrupted(run, 13, monkeypatch)
    status, _, err = run("convert", "bf16", "tuned", "--exact")
    assert (status, "was rounded by an earlier run" in err) == (4, True)


def _interrupted(run: Run, expert: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Stop a conversion with Ctrl-C at that expert; return stderr."""
    count = 0

    def pack_until_stopped(*arguments: object) -> PackedMatrix:
        nonlocal count
        count += 1
        if count == expert:
            raise KeyboardInterrupt
        return mxfp4.pack(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(convert, "pack", pack_until_stopped)
        status, _, err = run("convert", "bf16", "tuned")
    assert status == 130
    return err


def test_an_interrupted_conversion_continues(
    run: Run, source: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "run the same command to continue" in _interrupted(run, 16, monkeypatch)
    assert "incomplete" in run("list")[1]
    status, _, err = run("ask", "-m", "tuned", "x")
    assert status == 3
    assert "tuned is incomplete" in err
    assert "Convert it again: gptoss remove tuned, then gptoss convert SOURCE tuned" in err
    (home / "tuned" / ".model-00003-of-00009.safetensors.abc.part").touch()
    status, _, err = run("convert", "bf16", "tuned")
    assert status == 0
    assert "files here already" in err
    assert not list((home / "tuned").glob(".*"))


def test_a_full_disk_is_found_before_anything_is_written(
    run: Run, source: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 10**5))
    status, _, err = run("convert", "bf16", "tuned")
    assert status == 6
    assert "Free disk space, or set GPTOSS_HOME" in err
    assert not (home / "tuned").exists()


def test_a_file_that_was_not_written_correctly_is_written_again(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(command, "find_wrong_files", lambda folder, files, *rest: {files[-1].name: "0" * 64})
        status, _, err = run("convert", "bf16", "tuned")
    assert status == 4
    assert "was not written correctly. Run the same command again" in err
    assert run("convert", "bf16", "tuned")[0] == 0


def test_a_repository_in_the_hugging_face_cache_is_converted_by_its_name(
    run: Run, source: Path, home: Path, tmp_path: Path
) -> None:
    cache_repository(tmp_path / "hub", "some/tuned", source)
    assert "gptoss convert some/tuned NAME" in run("ask", "-m", "some/tuned", "x")[2]
    assert "gptoss convert some/tuned NAME" in run("download", "some/tuned")[2]
    assert "bf16 re-save, in the Hugging Face cache" in run("list")[1]
    assert run("convert", "some/tuned", "mine")[0] == 0
    assert (home / "mine" / "manifest.json").is_file()


@pytest.mark.parametrize("name", ["20b", "demo", "gpt-oss-120b", "a/b", "a--b", ".a", "", "a b", "a\n", "ä"])
def test_a_name_that_another_model_has_or_that_is_no_name_exits_2(name: str, run: Run, source: Path) -> None:
    assert run("convert", "bf16", name)[0] == 2


def test_a_name_that_is_taken_exits_2(run: Run, source: Path) -> None:
    assert run("convert", "bf16", "tuned")[0] == 0
    status, _, err = run("convert", "bf16", "tuned")
    assert (status, "There is a model tuned already" in err) == (2, True)


def _llama(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama"}')


def _without_index(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()


def _gguf(folder: Path) -> None:
    _without_index(folder)
    (folder / "model.gguf").touch()


def _adapter(folder: Path) -> None:
    _without_index(folder)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "openai/gpt-oss-20b"}')


def _unsloth(folder: Path) -> None:
    index = {"weight_map": {"model.layers.0.mlp.router.linear.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_llama, "a model of type llama"),
        (_gguf, "is GGUF"),
        (_adapter, "LoRA adapter for openai/gpt-oss-20b"),
        (_unsloth, "merged_16bit"),
    ],
)
def test_every_command_says_the_same_of_what_cannot_be_run_or_converted(
    change: Callable[[Path], None], words: str, run: Run, source: Path
) -> None:
    change(source)
    for arguments in (("ask", "-m", "bf16", "x"), ("verify", "bf16"), ("plan", "bf16"), ("convert", "bf16", "tuned")):
        status, out, err = run(*arguments)
        assert (status, out) == (4, ""), arguments
        assert words in err


@pytest.mark.parametrize("marked", [None, {"quant_method": "mxfp4"}], ids=["unmarked", "still-marked-mxfp4"])
def test_ask_verify_and_plan_say_the_same_of_a_bf16_copy(
    marked: dict[str, str] | None, run: Run, home: Path, tmp_path: Path
) -> None:
    write_unpacked(tmp_path / "bf 16", SHAPE, quantization_config=marked)
    told = {run(*arguments)[2] for arguments in (("ask", "-m", "bf 16", "x"), ("verify", "bf 16"), ("plan", "bf 16"))}
    assert len(told) == 1
    assert "bf 16 is a bf16 re-save (" in told.pop()


def test_a_gguf_file_is_named_for_what_it_is(run: Run, home: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    for arguments in (("ask", "-m", "x.gguf", "x"), ("verify", "x.gguf"), ("plan", "x.gguf")):
        status, _, err = run(*arguments)
        assert status == 4
        assert "x.gguf is GGUF, for llama.cpp" in err
    (tmp_path / "model.safetensors").touch()
    assert "model.safetensors is a file. Give the folder" in run("verify", "./model.safetensors")[2]


def test_a_packed_checkpoint_needs_no_conversion(run: Run, home: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "packed", SHAPE)
    status, _, err = run("convert", "packed", "tuned")
    assert (status, "packed already. Use it as it is: gptoss chat -m packed" in err) == (2, True)
