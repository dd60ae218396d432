"""A pytest plugin that puts a sanitizer's builds of the extensions before the usual ones."""

import os

import meshlb

meshlb.__path__.insert(0, os.environ["MESHLB_EXTENSIONS"])
