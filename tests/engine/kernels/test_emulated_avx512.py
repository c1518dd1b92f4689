"""The AVX-512 kernels with VNNI and VBMI agree with the scalar ones on a processor that Bochs emulates.

Bochs has no user mode, so the check runs without an operating system, from a boot sector. Bochs 2.7 does not know
AVX512_BF16, which is tested where the machine has it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gptoss_cli

_SOURCES = Path(gptoss_cli.__file__).parent / "engine/kernels/native"
_HERE = Path(__file__).parent
_BIOS, _VGA_BIOS = Path("/usr/share/bochs/BIOS-bochs-latest"), Path("/usr/share/vgabios/vgabios.bin")
_CYLINDERS = 2
_DISK_BYTES = _CYLINDERS * 16 * 63 * 512
_SECONDS = 3_000  # a minute or two on a quiet machine
# Hosted, because math functions should be instructions, but without threads, mmap and a C library.
_FLAGS = [
    *("-std=gnu11", "-O2", "-fno-pic", "-no-pie", "-nostdlib", "-static", "-U__unix__", "-U__linux__"),
    *("-fno-stack-protector", "-mno-red-zone", "-fno-math-errno", "-fno-asynchronous-unwind-tables"),
    *("-fno-tree-loop-distribute-patterns", "-fcf-protection=none", "-U_FORTIFY_SOURCE", "-DBEST_TABLE_ONLY"),
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or not all(map(shutil.which, ("bochs", "gcc", "ld", "objcopy"))),
        reason="needs bochs and gcc",
    ),
    pytest.mark.skipif(not (_BIOS.exists() and _VGA_BIOS.exists()), reason="needs bochsbios and vgabios"),
]


def _build_disk(folder: Path) -> Path:
    """Build the boot sector and the program behind it -> the image of a disk."""
    bochs, program, sector = _HERE / "bochs", folder / "program", folder / "boot.o"
    checks = [_HERE / "native_check.c", _HERE / "attention_check.c", bochs / "freestanding.c"]
    link = [f"-Wl,-T,{bochs / 'program.ld'}", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments"]
    sources = [*map(str, checks), *map(str, _SOURCES.rglob("*.c"))]
    for command in (
        ["gcc", *_FLAGS, f"-I{_SOURCES}", *link, *sources, "-lgcc", "-o", str(program)],
        ["objcopy", "-O", "binary", str(program), f"{program}.bin"],
        ["gcc", "-c", str(bochs / "boot.S"), "-o", str(sector)],
        ["ld", "-Ttext", "0x7C00", "--oformat", "binary", "-o", f"{sector}.bin", str(sector)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    content = Path(f"{sector}.bin").read_bytes() + Path(f"{program}.bin").read_bytes()
    assert len(content) <= 8 * 64 * 512, "the boot sector loads no more"
    disk = folder / "disk.img"
    disk.write_bytes(content.ljust(_DISK_BYTES, b"\0"))
    return disk


def test_vnni_and_vbmi_kernels_agree_with_the_scalar_ones_on_an_emulated_processor(tmp_path: Path) -> None:
    disk = _build_disk(tmp_path)
    settings = tmp_path / "bochsrc"
    settings.write_text(
        f"megs: 256\nromimage: file={_BIOS}\nvgaromimage: file={_VGA_BIOS}\n"
        "cpu: model=tigerlake, ips=100000000\n"
        'display_library: rfb, options="timeout=0"\n'
        f"ata0-master: type=disk, path={disk}, mode=flat, cylinders={_CYLINDERS}, heads=16, spt=63\n"
        f"ata1: enabled=0\nboot: disk\nport_e9_hack: enabled=1\nlog: {tmp_path / 'log'}\npanic: action=fatal\n",
        "utf-8",
    )
    commands = tmp_path / "commands"
    commands.write_text("c\n", "utf-8")  # Debian's Bochs starts in its debugger
    command = ["bochs", "-q", "-f", str(settings), "-rc", str(commands)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    lines = done.stdout.splitlines() + done.stderr.splitlines()
    assert "avx512 checked against scalar" in lines, done.stdout[-2000:]
    assert "passed" in lines
