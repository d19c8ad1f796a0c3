"""Build glue: the scan in C, which the package can do without. Everything else is in setup.cfg."""

import sys
import sysconfig
from glob import glob

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError

SOURCES = "monai_mamba_gen/ops/native"
OPENMP = "-fopenmp"
WINDOWS, MACOS = sys.platform == "win32", sys.platform == "darwin"
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")  # Python without the global lock has no limited API
FLAGS = ["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno"]


class LimitedWheel(bdist_wheel):
    """One wheel for every Python from 3.10 on."""

    def finalize_options(self):
        """Tag the wheel for the limited API."""
        self.py_limited_api = "cp310" if LIMITED else None
        super().finalize_options()


class BuildWithOrWithoutOpenMP(build_ext):
    """A compiler without OpenMP builds a kernel of one thread."""

    def build_extension(self, ext):
        """Build, and once more without OpenMP where that fails."""
        try:
            super().build_extension(ext)
        except CCompilerError:
            if OPENMP not in ext.extra_compile_args:
                raise
            self.warn("the compiler failed; trying again without OpenMP, for one thread")
            ext.extra_compile_args, ext.extra_link_args = FLAGS, []
            super().build_extension(ext)


setup(
    ext_modules=[
        Extension(
            "monai_mamba_gen.ops._native",
            sources=[f"{SOURCES}/{name}.c" for name in ("module", "run", "scan_avx512", "scan_avx2", "scan_base")],
            depends=sorted(glob(f"{SOURCES}/*.h")),
            define_macros=[("Py_LIMITED_API", "0x030A0000")] if LIMITED else [],
            # Apple's compiler has no OpenMP of its own: one thread there.
            extra_compile_args=[] if WINDOWS else FLAGS if MACOS else [*FLAGS, OPENMP],
            extra_link_args=[] if WINDOWS or MACOS else [OPENMP],
            py_limited_api=LIMITED,
            optional=True,  # without a compiler the installation goes on, and the scan runs in PyTorch
        )
    ],
    cmdclass={"bdist_wheel": LimitedWheel, "build_ext": BuildWithOrWithoutOpenMP},
)
