"""What the workers have counted, as it is read."""

from __future__ import annotations

import struct

from meshlb import counts
from meshlb._counts import histogram_row


def test_a_bucket_counts_for_longer_than_a_port_lives() -> None:
    """At a thousand connections a second, 2 ** 32 is fifty days."""
    most = 2**32 - 1
    total, count, *buckets = struct.unpack("=" + counts._HISTOGRAM, histogram_row([most] * 24, 0))
    assert (total, count) == (0, 2 * (24 * most + 1))
    assert buckets == [2**33, *[2 * most] * 23]
