"""What all tests share: helpers on the path, signals that work, and no file of this machine's own."""

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("MESHLB_STATE_DIR", "off")
sys.path.insert(0, str(Path(__file__).parent / "support"))

# A shell that starts us in the background has SIGINT ignored, and our children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
