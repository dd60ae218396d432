"""What the keeper does with an agent that hangs, and with one that ends well."""

from __future__ import annotations

import subprocess
import sys

# An agent that serves at once and then says nothing, or goes on for as long as it is told to.
AGENT = """
import os, socket, sys, time
def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(text.encode(), os.environ["NOTIFY_SOCKET"].replace("@", "\\0"))
say("READY=1")
print("serves", os.environ["WATCHDOG_USEC"], flush=True)
for _ in range(int(sys.argv[1])):
    time.sleep(0.1)
    say("WATCHDOG=1")
time.sleep(float(sys.argv[2]))
"""
KEEPER = """
import sys
from meshlb.handover.keeper import Keeper
sys.exit(Keeper([sys.executable, "-c", *sys.argv[2:]], watchdog=float(sys.argv[1])).run())
"""


def kept(watchdog: float, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KEEPER, str(watchdog), AGENT, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_agent_that_falls_silent_is_killed_and_started_again() -> None:
    with kept(0.5, "0", "60") as keeper:
        assert keeper.stdout is not None
        assert [keeper.stdout.readline() for _ in range(2)] == ["serves 500000\n"] * 2
        keeper.terminate()
        _, said = keeper.communicate(timeout=60)
    assert "meshlb-agent: the agent has been silent for 0.5 s, so it is killed" in said
    assert "the agent was ended by signal 9; it is started again" in said


def test_one_that_says_that_it_is_well_lives_and_is_not_started_again_after_a_good_end() -> None:
    with kept(3.0, "35", "0") as keeper:
        assert keeper.stderr is not None
        assert "another agent has this one's place" in keeper.stderr.readline()
        keeper.terminate()
        out, said = keeper.communicate(timeout=60)
    assert (keeper.returncode, out, said) == (0, "serves 3000000\n", "")
