"""What of the balancers is made by Python: their names, and the schedules that they read."""

from array import array
from collections.abc import Sequence

BALANCERS: tuple[str, ...]
MAGLEV_SIZES: tuple[int, ...]
LONGEST_MAGLEV: int
LONGEST_SCHEDULE: int

def schedule(weights: Sequence[int]) -> array[int]:
    """The order of turns of smooth weighted round robin, as indices into `weights`."""

def maglev(keys: Sequence[int], weights: Sequence[int]) -> array[int]:
    """The maglev table, as indices into `keys`: a 32-bit number for each backend, the same on every node."""
