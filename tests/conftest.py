"""No test reads or writes the user's own files or settings."""

import os
from collections.abc import Iterator

import pytest

_OWN = ("GPTOSS_", "HF_", "XDG_", "TIKTOKEN_")
_COLOR = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS")


@pytest.fixture(autouse=True, scope="session")
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_OWN) or name in _COLOR:
                patch.delenv(name)
        home = tmp_path_factory.mktemp("home")
        patch.setenv("GPTOSS_HOME", str(home / "gptoss"))
        patch.setenv("HF_HOME", str(home / "huggingface"))
        patch.setenv("TERM", "xterm-256color")
        yield
