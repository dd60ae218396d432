"""Who may come in: what of it can be asked from Python. Addresses have 16 bytes, IPv4 as ::ffff:a.b.c.d."""

from typing import final

def contains(networks: bytes, address: bytes) -> bool:
    """Whether one of the networks, 17 bytes each (address, length of the prefix), holds the address."""

@final
class RateLimit:
    """One new connection per `interval_us` of each source, `burst` of them at once."""

    def __new__(cls, interval_us: int, burst: int) -> RateLimit: ...
    def allows(self, address: bytes, now_us: int) -> bool:
        """Whether a source may open one more connection now; then it is counted."""
