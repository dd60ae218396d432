"""A pytest plugin that puts a sanitizer's build of the extension in the place of the usual one."""

import importlib.util
import os
import sys

_spec = importlib.util.spec_from_file_location("meshlb._fastpath", os.environ["MESHLB_EXTENSION"])
assert _spec
assert _spec.loader
_module = importlib.util.module_from_spec(_spec)
sys.modules["meshlb._fastpath"] = _module
_spec.loader.exec_module(_module)
