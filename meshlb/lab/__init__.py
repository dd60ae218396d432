"""A Swarm of several nodes on one machine, for the demo, the tests and anyone who wants to try things."""

from meshlb.errors import LabError
from meshlb.lab.image import IMAGE
from meshlb.lab.lab import Lab, NodeStatus, down
from meshlb.lab.node import Node
from meshlb.lab.prerequisites import why_not
from meshlb.lab.state import names

__all__ = ["IMAGE", "Lab", "LabError", "Node", "NodeStatus", "down", "names", "why_not"]
