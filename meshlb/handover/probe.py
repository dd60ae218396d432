"""Whether the agent of this container is the node's agent: `python3 -m meshlb.handover.probe [SOCKET]`.

Docker asks this of a Swarm service's new task, and lets go of the task before only when the answer is yes. A
process of another container has no number here: that is how this one's own agent is told from it. It is
asked again and again, so it imports nothing but what is built into Python.
"""

import sys
from _socket import AF_UNIX, SO_PEERCRED, SOCK_SEQPACKET, SOL_SOCKET, socket

SOCKET = "/run/meshlb/agent.sock"


def is_ours(path: str) -> bool:
    """Whether a process that can be seen from here listens there."""
    asking = socket(AF_UNIX, SOCK_SEQPACKET)
    try:
        asking.settimeout(5)
        asking.connect(path)
        return int.from_bytes(asking.getsockopt(SOL_SOCKET, SO_PEERCRED, 4), sys.byteorder) != 0
    except OSError:
        return False
    finally:
        asking.close()


if __name__ == "__main__":
    sys.exit(not is_ours(*(sys.argv[1:] or [SOCKET])))
