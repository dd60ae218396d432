"""How often passwords may be tried: so often by one address, and so often by all. Pure.

A hash costs a core 50 ms, and guessing needs many. Who knows the password needs one alone.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

REMEMBERED = 1024  # addresses; the oldest is forgotten first


@dataclass(slots=True)
class Bucket:
    """Trials that are left: `most` at once, and one more every `interval` seconds."""

    most: int
    interval: float
    left: float
    at: float

    def take(self, now: float) -> bool:
        """Whether there was one left; it is gone now."""
        self.left = min(self.most, self.left + (now - self.at) / self.interval)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Trials:
    """Five at once and then one every two seconds for an address, twenty and four a second for all."""

    def __init__(self, now: float = 0.0) -> None:
        self._all = Bucket(20, 0.25, 20, now)
        self._of: OrderedDict[str, Bucket] = OrderedDict()

    def allow(self, address: str, now: float) -> bool:
        """Whether somebody at this address may try now."""
        key = _source(address)
        bucket = self._of.pop(key, None) or Bucket(5, 2.0, 5, now)
        self._of[key] = bucket
        if len(self._of) > REMEMBERED:
            self._of.popitem(last=False)
        return bucket.take(now) and self._all.take(now)


def _source(address: str) -> str:
    """The address, or of IPv6 its /64: who has one address there has them all."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if found.version == 4:
        return str(found)
    return str(ipaddress.ip_network((found, 64), strict=False))
