"""The lab: N dockerds on one machine that are N machines to each other, and form one Swarm."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType

from meshlb.errors import LabError
from meshlb.lab import cgroups, image, network, prerequisites, process, state, status, storage, swarm
from meshlb.lab.node import SWITCH_SCRIPT, Node, Plan
from meshlb.lab.process import SWITCH, Birth, Init
from meshlb.lab.state import DEFAULT_NAME, HOME, State
from meshlb.lab.status import NodeStatus

DEFAULT_NODES = 3
MOST_NODES = network.LAST_NODE - network.FIRST_NODE + 1

Report = Callable[[str], None]


class Lab:
    """A lab that is up. `nodes` are node1, node2, …; as a context manager it is taken down at the end."""

    def __init__(self, plan: State) -> None:
        self.name, self.subnet = plan.name, plan.subnet
        addresses = {f"node{k}": network.node_address(plan.subnet, k) for k in range(1, plan.nodes + 1)}
        hosts = "".join(f"{address} {name}\n" for name, address in addresses.items())
        self.nodes = tuple(
            Node(Plan(plan.name, name, address, plan.storage_driver, HOME / plan.name / name, hosts))
            for name, address in addresses.items()
        )

    @classmethod
    def up(
        cls,
        nodes: int | None = None,
        *,
        name: str = DEFAULT_NAME,
        swarm: bool = True,
        managers: int = 1,
        subnet: str | None = None,
        report: Report = lambda line: None,
    ) -> Lab:
        """Bring a lab up, or mend the one of that name; with `swarm=False` its engines only.

        Interrupted or failing, a new lab leaves nothing behind; one that was there before stays.
        """
        state.check_name(name)
        prerequisites.check()
        with state.locked(name):
            plan = _existing(name)
            if plan is None:
                return cls._up_anew(
                    name, nodes or DEFAULT_NODES, subnet, swarm=swarm, managers=managers, report=report
                )
            if nodes not in (None, plan.nodes):
                raise LabError(
                    f"lab {name} is up with {plan.nodes} nodes; first: meshlb lab down --name {name}"
                )
            lab = cls(plan)
            lab._bring_up(swarm, managers, report)
            return lab

    @classmethod
    def _up_anew(
        cls, name: str, nodes: int, subnet: str | None, *, swarm: bool, managers: int, report: Report
    ) -> Lab:
        try:
            lab = cls(_new_plan(name, nodes, subnet))
            lab._bring_up(swarm, managers, report)
        except BaseException:
            _remove(name)
            raise
        return lab

    @classmethod
    def find(cls, name: str = DEFAULT_NAME) -> Lab:
        """The lab of that name; LabError when it is not up."""
        state.check_name(name)
        prerequisites.check_root()
        plan = _existing(name)
        if plan is None:
            raise LabError(f"lab {name} is not up; start it with: meshlb lab up{state.option(name)}")
        return cls(plan)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def node(self, name: str) -> Node:
        """A node by its name."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise LabError(f"lab {self.name} has no node {name}; it has {known}")

    def status(self) -> list[NodeStatus]:
        """How every node is, just now."""
        links = network.links(self._switch)
        return [status.of(node, link=links.get(node.name, False)) for node in self.nodes]

    def cut(self, node: Node) -> None:
        """Pull the node's cable: it runs on, alone."""
        self._require(node)
        network.set_link(self._switch, node.name, up=False)

    def heal(self, node: Node) -> None:
        """Plug the cable in again."""
        self._require(node)
        network.set_link(self._switch, node.name, up=True)

    def kill(self, node: Node) -> None:
        """Power off: no process of the node says goodbye. Its disk stays."""
        network.unplug(self._switch, node.name)
        process.kill([init for init in [node.init] if init])

    def start(self, node: Node) -> None:
        """Power on again, with the disk it had; returns when its engine answers."""
        if node.init:
            raise LabError(f"{node.name} of lab {self.name} is running")
        self._power_on([node])
        node.wait_engine()

    def restart(self, node: Node) -> None:
        """Power off and on again."""
        self.kill(node)
        self.start(node)

    def down(self) -> None:
        """Take it all away: processes, links, control groups, files."""
        with state.locked(self.name):
            _remove(self.name)

    @property
    def _switch(self) -> Init:
        switch = _switch_of(self.name)
        if switch is None:
            raise LabError(
                f"lab {self.name} has lost its switch; mend it with: meshlb lab up --name {self.name}"
            )
        return switch

    def _require(self, node: Node) -> None:
        if node.name not in network.links(self._switch):
            raise node.powered_off()

    def _bring_up(self, with_swarm: bool, managers: int, report: Report) -> None:
        if _switch_of(self.name) is None:
            self._build_switch()
        off = [node for node in self.nodes if not node.init]
        report(f"lab {self.name}: {len(self.nodes)} nodes on {self.subnet}, {len(off)} to start")
        self._power_on(off)
        for node in self.nodes:  # they come up side by side
            node.wait_engine()
        self._mend_links()
        image.ensure([node.engine for node in self.nodes])
        if with_swarm:
            report("forming the swarm")
            swarm.form(self.nodes, managers)

    def _build_switch(self) -> None:
        with (HOME / self.name / "switch.log").open("ab") as log:
            birth = Birth(self.name, SWITCH, ["-c", SWITCH_SCRIPT], log)
        birth.wait_ready()
        network.remove_host_link(self.name)
        network.build_switch(birth.init, self.subnet)
        birth.go()

    def _power_on(self, nodes: Iterable[Node]) -> None:
        switch, started = self._switch, []
        for node in nodes:
            birth = node.prepare()
            started.append((node, birth))
        for node, birth in started:
            birth.wait_ready()
            network.plug(switch, birth.init, self.subnet, node.address)
            birth.go()

    def _mend_links(self) -> None:
        for name, up in network.links(self._switch).items():
            if not up and name in {node.name for node in self.nodes}:
                network.set_link(self._switch, name, up=True)


def down(name: str = DEFAULT_NAME) -> bool:
    """Take a lab down, whatever is left of it. Returns whether there was anything."""
    state.check_name(name)
    prerequisites.check_root()
    if name not in state.names():
        return False
    with state.locked(name):
        _remove(name)
    return True


def _remove(name: str) -> None:
    process.kill(process.find(name))
    network.remove_host_link(name)
    left = cgroups.remove(name)
    state.forget(name)
    if left:
        raise LabError(f"lab {name}: control groups are still in use: {', '.join(map(str, left))}")


def _existing(name: str) -> State | None:
    """The plan of a lab that can be used as it is, or mended; what cannot be is removed by the next `up`."""
    plan = state.load(name)
    return plan if plan and _switch_of(name) else None


def _switch_of(name: str) -> Init | None:
    return next((init for init in process.find(name) if init.node == SWITCH), None)


def _new_plan(name: str, nodes: int, subnet: str | None) -> State:
    if not 1 <= nodes <= MOST_NODES:
        raise LabError(f"--nodes: {nodes} is not from 1 to {MOST_NODES}")
    _remove_leftovers(name)
    with state.all_locked():
        taken = state.subnets()
        chosen = network.check_subnet(subnet, taken) if subnet else network.choose_subnet(taken)
        plan = State(name, chosen, nodes, storage.driver(HOME / name))
        plan.save()
    return plan


def _remove_leftovers(name: str) -> None:
    process.kill(process.find(name))
    network.remove_host_link(name)
    cgroups.remove(name)
    state.forget_home(name)
