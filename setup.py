"""Builds the CPU kernels where there is a C compiler; without one the package installs and runs all the same."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, LinkError

NATIVE = Path("gptoss_cli/engine/kernels/native")
# Never -ffast-math: linked so, a library switches the whole process to flushing subnormals to zero.
FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden"]


class BuildNative(build_ext):
    """Tries with OpenMP, then without: some compilers have none."""

    def build_extension(self, ext: Extension) -> None:
        """Build `ext` for ctypes."""
        if sys.platform == "win32":
            ext.extra_compile_args, ext.extra_link_args = ["/O2", "/std:c11"], []
        else:
            ext.extra_compile_args, ext.extra_link_args = [*FLAGS, "-fopenmp"], ["-fopenmp", "-lm"]
        try:
            super().build_extension(ext)
        except (CCompilerError, CompileError, LinkError):
            for flags in (ext.extra_compile_args, ext.extra_link_args):
                flags[:] = [flag for flag in flags if flag != "-fopenmp"]
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
