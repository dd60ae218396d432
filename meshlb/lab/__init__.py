"""A Swarm of several nodes on one machine, for the demo, the tests and anyone who wants to try things."""

from meshlb.errors import LabBusyError, LabError
from meshlb.lab.image import IMAGE
from meshlb.lab.lab import DEFAULT_NODES, MOST_NODES, Lab, down
from meshlb.lab.node import Node
from meshlb.lab.prerequisites import why_not
from meshlb.lab.state import DEFAULT_NAME, names
from meshlb.lab.status import NodeStatus

__all__ = [
    "DEFAULT_NAME",
    "DEFAULT_NODES",
    "IMAGE",
    "MOST_NODES",
    "Lab",
    "LabBusyError",
    "LabError",
    "Node",
    "NodeStatus",
    "down",
    "names",
    "why_not",
]
