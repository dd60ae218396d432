"""Builds the load generator in place: `python benchmarks/setup.py build_ext --inplace`."""

from Cython.Build import cythonize
from setuptools import Extension, setup

LOAD = Extension(
    "benchmarks._load",
    ["benchmarks/_load.pyx"],
    extra_compile_args=["-O2", "-std=gnu11", "-Wall"],
    define_macros=[("_GNU_SOURCE", None)],
)
DIRECTIVES = {"language_level": "3", "boundscheck": False, "wraparound": False, "cdivision": True}

setup(
    name="meshlb-benchmarks",
    packages=[],
    ext_modules=cythonize([LOAD], compiler_directives=DIRECTIVES, build_dir="build"),
)
