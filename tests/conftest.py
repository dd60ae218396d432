"""What all tests share: helpers on the path, signals that work, and no file of this machine's own."""

import os
import signal
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

os.environ.setdefault("MESHLB_STATE_DIR", "off")
sys.path.insert(0, str(Path(__file__).parent / "support"))

# A busy machine may take its time for any example.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# A shell that starts us in the background has SIGINT ignored, and our children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
