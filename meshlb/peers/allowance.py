"""How much a peer may send: a bucket of messages and one of bytes, filled again as time passes. Pure."""

from __future__ import annotations

# More than an agent ever sends: it leaves PAUSE seconds between its messages, and more after a large one.
MESSAGES, MESSAGES_PER_SECOND = 100.0, 12.5
BYTES, BYTES_PER_SECOND = 16e6, 2e6

PAUSE = 0.2  # seconds, after a message of each kind
SENT_PER_SECOND = 1e6  # bytes


def pause_after(size: int) -> float:
    """The seconds for which a sender is silent after messages of `size` bytes in all."""
    return max(PAUSE, size / SENT_PER_SECOND)


class Allowance:
    """What one peer may still send. Times are seconds of any one clock."""

    def __init__(self, now: float) -> None:
        self._messages, self._bytes, self._then = MESSAGES, BYTES, now

    def take(self, size: int, now: float) -> bool:
        """Whether it may have sent one message of `size` bytes more."""
        passed, self._then = now - self._then, now
        self._messages = min(MESSAGES, self._messages + passed * MESSAGES_PER_SECOND) - 1
        self._bytes = min(BYTES, self._bytes + passed * BYTES_PER_SECOND) - size
        return self._messages >= 0 and self._bytes >= 0
