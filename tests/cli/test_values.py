"""Values of options that are typed as text."""

import pytest
import typer

from gptoss_cli.cli.values import parse_device, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("0", 0), ("0GiB", 0), ("24GiB", 24 << 30), ("24g", 24 << 30), ("24 GB", 24 * 10**9)),
        *(("1.5GiB", 3 << 29), ("512MiB", 512 << 20), ("7B", 7), ("1TiB", 1 << 40)),
    ],
)
def test_a_size_is_read_with_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "24", "GiB", "-1GiB", "1e9GiB", "24GX", "9999999TiB", "nan", "٣GiB"])
def test_a_text_that_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a size"):
        parse_size(text)


def test_a_device_may_have_a_number() -> None:
    assert [parse_device(text) for text in ("auto", "cpu", "mps", "cuda", "cuda:1")][-1] == "cuda:1"
    for text in ("", "tpu", "cuda:", "cuda:x", "CPU", "cpu\n"):
        with pytest.raises(typer.BadParameter, match="is not a device"):
            parse_device(text)
