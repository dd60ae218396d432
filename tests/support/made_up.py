"""A mesh that does not exist, for what shows one: statuses, and counts that grow with every look."""

from __future__ import annotations

from dataclasses import replace

from meshlb.counts import _BACKEND, _PORT, Statistics
from meshlb.model import (
    BackendState,
    ChannelStatus,
    Counters,
    Node,
    Port,
    PortState,
    PortStatus,
    Service,
    Snapshot,
    SourceStatus,
    Status,
    Task,
)
from meshlb.table import build

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&\u202e"


class MadeUp:
    """Three nodes, or as many as are named, and services with so many tasks each."""

    def __init__(
        self, services: dict[str, int], nodes: tuple[str, ...] = ("node1", "node2", "node3")
    ) -> None:
        found = tuple(Node(f"n{at}", name, f"192.0.2.{at}") for at, name in enumerate(nodes, 1))
        made = tuple(
            self._service(at, name, count, found) for at, (name, count) in enumerate(services.items())
        )
        snapshot = Snapshot(made, found, node=found[0].address)
        ports = tuple(
            PortStatus(port, service.name, PortState.SERVING) for service in made for port in service.ports
        )
        source = SourceStatus("swarm", True, node="n1", channel=ChannelStatus(len(nodes) - 1, len(nodes) - 1))
        self.status = Status("0.1.0", source, snapshot, ports)
        self._looks = 0

    @staticmethod
    def _service(at: int, name: str, count: int, nodes: tuple[Node, ...]) -> Service:
        tasks = tuple(
            Task(f"t{at}.{slot}", f"{name}.{slot}", f"10.0.{at}.{slot}", nodes[slot % len(nodes)].address)
            for slot in range(1, count + 1)
        )
        return Service(f"s{at}", name, (Port(8000 + at, 80),), tasks)

    def set_state(self, task: str, state: BackendState) -> None:
        """One task is in another state from now on."""
        services = tuple(
            replace(
                one,
                tasks=tuple(replace(each, state=state) if each.id == task else each for each in one.tasks),
            )
            for one in self.status.snapshot.services
        )
        self.status = replace(self.status, snapshot=replace(self.status.snapshot, services=services))

    def publish(self, service: str, port: Port) -> None:
        """One service publishes this port from now on; its tasks may still listen where they did."""
        ports = tuple(
            replace(each, port=port) if each.service == service else each for each in self.status.ports
        )
        services = tuple(
            replace(
                one,
                ports=(port,),
                tasks=tuple(replace(each, former=(*each.former, *one.ports)) for each in one.tasks),
            )
            if one.name == service
            else one
            for one in self.status.snapshot.services
        )
        self.status = replace(
            self.status, ports=ports, snapshot=replace(self.status.snapshot, services=services)
        )

    async def ask(self) -> Status:
        return replace(self.status, counters=Counters(failovers=self._looks // 5))

    async def statistics(self) -> Statistics:
        """More at each look."""
        self._looks += 1
        table = build(self.status.snapshot)
        backends = tuple((entry.port, backend) for entry in table.entries for backend in entry.backends)
        port_rows = b"".join(self._port(at) for at in range(len(table.entries)))
        rows = b"".join(self._backend(at) for at in range(len(backends)))
        ports = tuple(entry.port for entry in table.entries)
        return Statistics(ports, bytearray(port_rows), backends, bytearray(rows))

    def _port(self, at: int) -> bytes:
        n = self._looks
        totals = (
            n * 97 * (at + 1),
            n * 97 * (at + 1) - 12 * at,
            n // 5,
            0,
            n * 40_000,
            n * 900_000 * (at + 1),
            0,  # dropped
            0,  # masked
        )
        return _PORT.pack(*totals, *(0, 0, 0, 0, 0, 0), *self._histograms(n))

    def _backend(self, at: int) -> bytes:
        n = self._looks
        numbers = (
            n * (13 + at),
            0,
            n * (13 + at),
            at % 4,
            n * 4_000,
            n * 300_000,
            0,
            0,
            0,
            at * 7 % 23,
            at == 5,
        )
        return _BACKEND.pack(*numbers, *self._histograms(n))

    @staticmethod
    def _histograms(looks: int) -> list[int]:
        buckets = [0, 0, looks * 5, looks * 60, looks * 25, looks * 6, looks, *[0] * 17]
        return [looks * 90_000, sum(buckets), *buckets] * 3
