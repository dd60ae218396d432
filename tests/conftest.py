"""Puts the tests' shared helpers on the path, and keeps agents under test off this machine's own files."""

import os
import sys
from pathlib import Path

os.environ.setdefault("MESHLB_STATE_DIR", "off")
sys.path.insert(0, str(Path(__file__).parent / "support"))
