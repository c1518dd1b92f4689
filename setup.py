"""Builds the CPU kernels where there is a C compiler; without one the package installs and runs all the same."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("gptoss_cli/engine/kernels/native")
# Never -ffast-math: linked so, a library switches the whole process to flushing subnormals to zero.
# -g0 because Python's own flags ask for debug information, which is most of the library and would be in every wheel.
FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-g0"]


class BuildNative(build_ext):
    """Builds a library for ctypes instead of a module."""

    def build_extension(self, ext: Extension) -> None:
        """Build `ext` with this compiler's options."""
        if sys.platform == "win32":
            ext.extra_compile_args, ext.extra_link_args = ["/O2", "/std:c11"], []
        else:
            ext.extra_compile_args, ext.extra_link_args = [*FLAGS, "-pthread"], ["-pthread", "-lm"]
        super().build_extension(ext)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """None: it is loaded as a library and not imported, so it has no PyInit function to export."""
        return []


setup(
    ext_modules=[
        Extension(
            "gptoss_cli.engine.kernels._native",
            sources=sorted(str(path) for path in NATIVE.rglob("*.c")),
            depends=sorted(str(path) for path in NATIVE.rglob("*.h")),
            optional=True,
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildNative},
)
