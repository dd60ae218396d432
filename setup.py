"""Builds the extensions, every meshlb/_*.pyx, in one of four flavours chosen by MESHLB_FLAVOUR.

release  what users run
trace    line coverage of the Cython source
asan     AddressSanitizer and UBSan: run with LD_PRELOAD of gcc's libasan and libubsan
tsan     ThreadSanitizer: run with LD_PRELOAD of gcc's libtsan
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SANITIZED = ["-O0", "-g", "-fno-omit-frame-pointer", "-DMESHLB_DEBUG"]
FLAVOURS = {
    "release": (["-O3", "-g1"], []),
    "trace": (["-O0", "-DMESHLB_DEBUG", "-DCYTHON_TRACE_NOGIL=1", "-DCYTHON_USE_SYS_MONITORING=0"], []),
    "asan": ([*SANITIZED, "-fsanitize=address,undefined"], ["-fsanitize=address,undefined"]),
    "tsan": ([*SANITIZED, "-fsanitize=thread"], ["-fsanitize=thread"]),
}
flavour = os.environ.get("MESHLB_FLAVOUR", "release")
if flavour not in FLAVOURS:
    raise SystemExit(f"MESHLB_FLAVOUR={flavour}: is not one of {', '.join(FLAVOURS)}")
compile_args, link_args = FLAVOURS[flavour]


def extension(source: Path) -> Extension:
    """The module of one Cython source."""
    return Extension(
        f"meshlb.{source.stem}",
        [str(source)],
        extra_compile_args=["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter", *compile_args],
        extra_link_args=link_args,
        define_macros=[("_GNU_SOURCE", None)],
    )


CYTHON = {
    "nthreads": os.cpu_count() or 1,
    "force": True,  # a stale importer of a changed struct corrupts silently; a build takes seconds
    "emit_linenums": flavour in ("asan", "tsan"),
    "compiler_directives": {
        "language_level": "3",
        "auto_pickle": False,
        "boundscheck": flavour != "release",
        "cdivision": True,
        "initializedcheck": False,
        "linetrace": flavour == "trace",
        "wraparound": False,
    },
}


class Build(build_ext):
    """Cython runs when something is built, and not whenever pip asks what this package is."""

    def build_extensions(self) -> None:
        """All at once: each compiler takes some 120 MB."""
        self.parallel = self.parallel or os.cpu_count()
        made = {each.name: each.sources for each in cythonize(list(self.extensions), **CYTHON)}
        for each in self.extensions:
            each.sources = made[each.name]
        super().build_extensions()


setup(
    ext_modules=[extension(source) for source in sorted(Path("meshlb").glob("_*.pyx"))],
    cmdclass={"build_ext": Build},
)
