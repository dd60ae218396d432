"""Puts the tests' shared helpers on the path, and gets the session ready for signals."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

# A shell that starts us in the background has SIGINT ignored, and our children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
