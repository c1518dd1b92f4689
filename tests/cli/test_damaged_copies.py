"""One damaged repository in the Hugging Face cache is a notice of every command that looks there."""

from pathlib import Path

import pytest

from gptoss_cli.chat.opening import choose_checkpoint
from gptoss_cli.errors import Hint
from tests.checkpoint.hub_server import HubServer
from tests.checkpoint.repository import repository_files
from tests.cli.conftest import Run


@pytest.fixture(autouse=True)
def ref(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a ref of gpt-oss-120b that holds rubbish; nothing else is on this machine."""
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    file = tmp_path / "hub" / "models--openai--gpt-oss-120b" / "refs" / "main"
    file.parent.mkdir(parents=True)
    file.write_text("rubbish")
    return file


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["list"], 0), (["doctor"], 0), (["plan", "20b"], 0), (["plan"], 0), (["remove", "20b", "--yes"], 3)],
)
def test_a_command_names_the_damaged_copy_and_goes_on(arguments: list[str], status: int, ref: Path, run: Run) -> None:
    found, _, err = run(*arguments)
    assert found == status
    assert f"{ref} does not hold a commit. Delete {ref.parent.parent}" in err


def test_a_download_goes_on(ref: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ref.parents[2] / "models--openai--gpt-oss-20b"
    ref.parents[1].rename(own)
    with HubServer(repository_files()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        status, _, err = run("download", "20b")
    assert status == 0
    assert f"{own / 'refs' / 'main'} does not hold a commit" in err


def test_ask_without_a_model_goes_on_with_the_demo(ref: Path) -> None:
    notices: list[str] = []

    def notice(text: str, *hints: Hint, subject: str = "") -> None:
        notices.append(text)

    assert choose_checkpoint(None, notice)[0] == "demo"
    assert notices[0].startswith(f"{ref} does not hold a commit")
