"""Files are replaced whole or not at all."""

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from gptoss_cli.files import public_mode, replace_file, replacing


def test_the_new_content_replaces_the_old_and_leaves_no_other_file(tmp_path: Path) -> None:
    target = tmp_path / "notes.txt"
    target.write_bytes(b"old")
    replace_file(target, b"new", sync=True)
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_content_and_no_other_file(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "notes.txt"
    target.write_bytes(b"old")
    with suppress(failure), replacing(target) as file:
        file.write(b"half of the ne")
        raise failure
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_file_is_private_unless_another_mode_is_asked_for(tmp_path: Path) -> None:
    private, public = tmp_path / "private", tmp_path / "public"
    mask = os.umask(0o027)
    try:
        replace_file(private, b"")
        replace_file(public, b"", mode=public_mode())
    finally:
        os.umask(mask)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o640
