"""What the agent counts, as families of samples for Prometheus. Pure.

Series are those of the table that is served: a task that is gone has none. A port has at most 100, a backend
13; there are at most `meshlb.metrics.backend.MOST` of these.
"""

from __future__ import annotations

from prometheus_client.core import Metric

from meshlb.counts import Statistics
from meshlb.metrics.agent import AgentCollector
from meshlb.metrics.backend import of_backends
from meshlb.metrics.exposition import Family, labels
from meshlb.metrics.port import of_counts, of_ports
from meshlb.metrics.usage import Usage
from meshlb.metrics.worker import of_workers
from meshlb.model import Port, Status


def families(status: Status, statistics: Statistics | None, usage: Usage) -> list[Family | Metric]:
    """All families. Those of ports and backends have no samples where there are no `statistics`."""
    ports = {of.port: labels(**_names(of.service, of.port)) for of in status.ports}
    nodes = {node.address: node.name or node.address for node in status.snapshot.nodes}
    return [
        *AgentCollector(status, usage, nodes).collect(),
        *of_ports(status, ports),
        *of_counts(statistics, ports),
        *of_backends(statistics, ports, nodes),
        *of_workers(statistics),
    ]


def _names(service: str, port: Port) -> dict[str, str]:
    return {"service": service, "port": str(port.published), "protocol": port.protocol}
