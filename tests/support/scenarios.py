"""The scenarios: what happens to Swarms, what users must not notice of it, and how it is brought about."""

from __future__ import annotations

import math
import time
from functools import partial

from aim import Aim, Seen
from front import ASIDE
from scenario import LOOKS, Scenario, Stage
from waiting import eventually
from watch import containers

from meshlb.lab import Node

HOLD = ("--label", "meshlb.hold=30s")
SLOW_START = 5  # seconds
CUT_SECONDS = 3.0
CUT_LATE = (
    0.5  # seconds more, on a machine too busy to plug it in again in time: another thing than what is played
)
SICK = "/sick"
PROBE = (
    *("--health-cmd", f"test ! -e {SICK}", "--health-interval", "1s"),
    *("--health-retries", "1", "--restart-delay", "1s"),
)
DOWN_SECONDS = 60.0
APART_SECONDS = 3.0  # between crashes: one that crashes again within ten seconds is started ever later
KEPT_SECONDS = 6.0  # until what managers have told is on disk
UNHEALTHY = "last new connection after unhealthy"
RESET = "dead connections reset after"
BACK = "back after"
POLICIES = "policies intact"
SERVES = "the agent restarted meanwhile serves"


# -- The service changes


def roll(stage: Stage, rounds: int, order: str) -> None:
    for number in range(rounds):
        stage.say(f"update {number + 1} of {rounds}, {order}")
        stage.update(f"--update-order={order}", f"--update-parallelism={2 if stage.short_form else 1}")


def roll_start_first(stage: Stage, rounds: int) -> None:
    """Swarm starts each new task before it stops the old one."""
    roll(stage, rounds, "start-first")


def roll_stop_first(stage: Stage, rounds: int) -> None:
    """Swarm stops each old task before it starts the new one."""
    roll(stage, rounds, "stop-first")


def scale(stage: Stage, rounds: int) -> None:
    """1, 8, 2, 5 tasks; then 1 again."""
    for number in range(rounds):
        for replicas in (8, 2, 5, 1)[: 3 if number == rounds - 1 else 4]:
            stage.say(f"round {number + 1} of {rounds}: {replicas} tasks")
            stage.scale(replicas)


def kill_tasks(stage: Stage, rounds: int) -> None:
    """SIGKILL to one task after the other, on each node in turn; Swarm starts another one each time."""
    for number in range(rounds):
        stage.say(f"docker kill {number + 1} of {rounds}")
        node, victim = stage.victim(number)
        began = time.time()
        node.run(["docker", "kill", victim])
        eventually(partial(_is_dead, stage, victim), timeout=30, what="the engine to tell of its death")
        stage.kills.append((began, stage.watch.deaths()[victim]))
        stage.await_running(5)


def _is_dead(stage: Stage, victim: str) -> bool:
    return victim in stage.watch.deaths()


def add_slow_starters(stage: Stage, rounds: int) -> None:
    """More tasks of a server that needs a while until it listens; in the full form they are replaced, too."""
    for number in range(rounds):
        stage.say(f"round {number + 1} of {rounds}: twice as many")
        stage.scale(4)
        time.sleep(SLOW_START + 1)
        if not stage.short_form:
            stage.say("all replaced, with time to start between them")
            stage.update(f"--update-delay={SLOW_START + 1}s", "--update-order=start-first")
            time.sleep(SLOW_START + 1)
        stage.scale(2)


def turn_unhealthy(stage: Stage, rounds: int) -> None:
    """A task's health check begins to fail."""
    for number in range(rounds):
        stage.say(f"sick task {number + 1} of {rounds}")
        node, victim = stage.victim(number)
        node.run(["docker", "exec", victim, "/bin/busybox", "touch", SICK])
        over = partial(_is_over, stage, victim)
        eventually(over, timeout=60, what="the sick task to end", every=LOOKS)
        stage.await_running(5)


def _is_over(stage: Stage, victim: str) -> bool:
    return victim in stage.watch.unhealthy() and victim not in [name for _, name in stage.containers()]


def look_unhealthy(stage: Stage, seen: Seen) -> None:
    for name, when in stage.watch.unhealthy().items():
        last = [
            names[name] for address, names in seen.short.last.items() if seen.at(address) and name in names
        ]
        stage.measure(UNHEALTHY, max(0.0, max(last, default=0.0) - when))


# -- Nodes fail


def power_off(stage: Stage, rounds: int) -> None:
    """The link is cut, then everything on the node dies. After a while it comes back."""
    node, other = stage.lab.node("node3"), stage.lab.node("node2")
    for number in range(rounds):
        stage.say(f"power-off {number + 1} of {rounds}")
        began = stage.power_off(node)
        if ASIDE not in stage.front.untold:
            eventually(
                lambda: stage.front.set_aside(node, other), timeout=30, what="the node to be set aside"
            )
            stage.measure(ASIDE, time.time() - began)
        time.sleep(max(0.0, began + 11 - time.time()))  # whatever waits for the dead node has timed out
        stage.power_on(node)
        stage.await_running(3)
        time.sleep(1)


def look_reset(stage: Stage, seen: Seen) -> None:
    for end in seen.ended:
        if end.task in stage.watch.lost:
            never = end.reason == "timeout"  # it is the client that has given up
            stage.measure(RESET, math.inf if never else end.wall - stage.watch.lost[end.task])


def cut_link(stage: Stage, rounds: int) -> None:
    """The node's cable is pulled and plugged in again."""
    node = stage.lab.node("node3")
    for number in range(rounds):
        stage.say(f"cut {number + 1} of {rounds}")
        began = time.monotonic()
        stage.lab.cut(node)
        time.sleep(CUT_SECONDS)
        stage.lab.heal(node)
        if (took := time.monotonic() - began) > CUT_SECONDS + CUT_LATE:
            stage.spoilt = f"the link was cut for {took:.1f} s: after that agents have to give connections up"
        time.sleep(6)  # the kernel sends again what was lost, ever more rarely


def lose_manager(stage: Stage, rounds: int) -> None:
    """The only manager is off for a minute; meanwhile an agent elsewhere is restarted from nothing."""
    manager, other = stage.lab.node("node1"), stage.lab.node("node3")
    seconds = 12.0 if stage.short_form else DOWN_SECONDS
    for _ in range(rounds):
        before = time.monotonic()
        stage.say(f"the manager is off for {seconds:g} s")
        stage.power_off(manager)
        time.sleep(KEPT_SECONDS)
        stage.say("an agent is restarted")
        stage.front.replace(other)
        stage.find(SERVES, all(stage.answers(other) for _ in range(10)))
        stage.find(POLICIES, _is_by_source(stage, other))
        time.sleep(max(0.0, before + seconds - time.monotonic()))
        stage.power_on(manager)
        stage.await_running(3)


def _is_by_source(stage: Stage, node: Node) -> bool:
    """Whether all from here go to one task soon; at first some may fail over to another one."""
    for _ in range(10):
        if len({stage.answers(node, 81) for _ in range(10)}) == 1:
            return True
        time.sleep(0.5)
    return False


def restart_engine(stage: Stage, rounds: int) -> None:
    """dockerd ends as at `systemctl restart docker`, with its tasks, and comes back."""
    node = stage.lab.node("node3")
    for number in range(rounds):
        stage.say(f"restart {number + 1} of {rounds}")
        pid = node.run(["cat", "/run/docker.pid"]).stdout
        stage.watch.lose(containers(node), time.time())
        node.run(["kill", pid.strip()])
        eventually(partial(_is_another, node, pid), timeout=60, what="another dockerd", every=LOOKS)
        node.wait_engine()
        stage.watch.start(node.name)
        stage.await_running(3)


def _is_another(node: Node, pid: str) -> bool:
    found = node.run(["cat", "/run/docker.pid"], check=False).stdout
    return bool(found) and found != pid


# -- What stands in front is restarted


def replace(stage: Stage, rounds: int) -> None:
    """On each node in turn, as for an upgrade."""
    for number in range(rounds):
        node = stage.lab.nodes[number % len(stage.lab.nodes)]
        stage.say(f"{node.name}, {number + 1} of {rounds}")
        stage.front.replace(node)


def crash(stage: Stage, rounds: int) -> None:
    """On each node in turn, with SIGKILL."""
    for number in range(rounds):
        node = stage.lab.nodes[number % len(stage.lab.nodes)]
        stage.say(f"{node.name}, {number + 1} of {rounds}")
        seconds = stage.crash(node)
        stage.say(f"back after {seconds:.2f} s")
        stage.measure(BACK, seconds)
        time.sleep(APART_SECONDS)


def keep_all(stage: Stage) -> None:
    for node in stage.lab.nodes:
        stage.front.keep(node)


GLOBAL = ("--mode", "global", "--restart-delay", "1s")
ALL = (
    Scenario("update-start-first", "rolling update of 5 replicas, start-first", Aim(), roll_start_first, 10),
    Scenario("update-stop-first", "rolling update of 5 replicas, stop-first", Aim(), roll_stop_first, 10),
    Scenario(
        "update-single",
        "update of 1 replica, stop-first, with hold",
        Aim(),
        roll_stop_first,
        5,
        service=("--replicas", "1", *HOLD),
        tasks=1,
    ),
    Scenario("scale", "scale 1, 8, 2, 5", Aim(), scale, 10, service=("--replicas", "1"), tasks=1),
    Scenario(
        "kill-task",
        "docker kill of tasks",
        Aim(),
        kill_tasks,
        20,
        3,
        service=("--replicas", "5", "--restart-delay", "1s"),
    ),
    Scenario(
        "slow-start",
        f"tasks that listen {SLOW_START} s after their start",
        Aim(),
        add_slow_starters,
        3,
        service=("--replicas", "2", "--env", f"START_DELAY={SLOW_START}"),
        tasks=2,
    ),
    Scenario(
        "unhealthy",
        "health check turning unhealthy",
        Aim(within={UNHEALTHY: 1.0}),
        turn_unhealthy,
        5,
        service=("--replicas", "5", *PROBE),
        look=look_unhealthy,
    ),
    Scenario(
        "power-off",
        "node powered off",
        Aim(slowest=1.0, within={ASIDE: 1.0, RESET: 4.0}),
        power_off,
        5,
        service=GLOBAL,
        tasks=3,
        spared=("node3",),
        renew=8.0,  # so that some are on the node again when it is lost again
        look=look_reset,
    ),
    Scenario(
        "cut-link", f"link cut {CUT_SECONDS:g} s and healed", Aim(), cut_link, 5, service=GLOBAL, tasks=3
    ),
    Scenario(
        "no-manager",
        f"the only manager down for {DOWN_SECONDS:g} s",
        Aim(true=(POLICIES, SERVES)),
        lose_manager,
        service=GLOBAL,
        tasks=3,
        spared=("node1",),
    ),
    Scenario(
        "restart-engine",
        "dockerd restarted on one node",
        Aim(),
        restart_engine,
        5,
        service=GLOBAL,
        tasks=3,
        spared=("node3",),
    ),
    Scenario("handover", "agent restarted by handover", Aim(), replace, 50, 4),
    Scenario(
        "crash",
        "agent SIGKILLed, restarted by its keeper",
        Aim(lost=None, within={BACK: 1.0}),
        crash,
        10,
        3,
        prepare=keep_all,
    ),
)
