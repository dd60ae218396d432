"""An agent's own state, its process and the nodes around it, collected for prometheus-client. Pure."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator, Mapping
from itertools import islice

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from meshlb.metrics.exposition import bounded
from meshlb.metrics.usage import Usage
from meshlb.model import ChannelStatus, Status

MOST_NODES = 1_000
NODE = ("node", "address")


class AgentCollector(Collector):
    """What there is once for an agent, or for each node: few samples. `nodes` are the names by address."""

    def __init__(self, status: Status, usage: Usage, nodes: Mapping[str, str]) -> None:
        self._status, self._usage, self._nodes = status, usage, nodes

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield from _of_agent(self._status)
        yield from _of_process(self._usage)
        yield from _of_nodes(self._status, self._nodes)


def _of_agent(status: Status) -> Iterator[Metric]:
    """How it is."""
    about = {"version": status.version, "python": platform.python_version(), "machine": platform.machine()}
    yield _one("meshlb_build_info", "The agent's version.", 1, **about)
    yield _one("meshlb_draining", "1 while the agent ends: no new connections.", int(status.draining))
    yield _one(
        "meshlb_problems",
        "Sentences about what is wrong; meshlb agent status shows them.",
        len(status.problems),
    )
    yield _count("meshlb_table_changes", "Tables that have been served so far.", status.table)
    changed = status.table_changed
    yield _one("meshlb_table_changed_timestamp_seconds", "When the table that is served came.", changed)
    text = "Connections that the access log lacks: more ended than could be written."
    yield _count("meshlb_access_log_lost", text, status.unlogged)
    source, connected = status.source.kind, int(status.source.connected)
    text = "1 while the source of tables is there: the engine (swarm), or a file (static)."
    yield _one("meshlb_source_connected", text, connected, source=source)


def _of_process(usage: Usage) -> Iterator[Metric]:
    """By the names that every exporter has for them."""
    yield _count("process_cpu_seconds", "CPU time, of all threads.", usage.cpu)
    yield _one("process_resident_memory_bytes", "Resident memory.", usage.memory)
    yield _one("process_open_fds", "File descriptors that are open.", usage.descriptors)
    yield _one("process_max_fds", "File descriptors that may be open.", usage.most_descriptors)
    yield _one("process_threads", "Threads.", usage.threads)
    yield _one("process_start_time_seconds", "When the process started.", usage.started)


def _of_nodes(status: Status, names: Mapping[str, str]) -> Iterator[Metric]:
    """What is known of other nodes and heard of their agents."""
    channel = status.source.channel or ChannelStatus()
    yield _one("meshlb_peers", "Other nodes that the channel between agents knows.", channel.peers)
    yield _one("meshlb_peers_connected", "Those of them whose agents are heard.", channel.connected)
    yield _count("meshlb_peer_states", "States taken from other agents.", channel.heard)
    yield _count("meshlb_peer_stale_states", "States of other agents that were not newer.", channel.stale)
    text = "Agents that were refused or hung up on, and claims about others' tasks."
    yield _count("meshlb_peer_refusals", text, channel.refused)
    known = dict.fromkeys(islice((node.address for node in status.snapshot.nodes), MOST_NODES))
    nodes = [*known, *sorted({*channel.suspected} - known.keys())[:MOST_NODES]]
    named = {address: (bounded(names.get(address, address)), bounded(address)) for address in nodes}
    yield _marked("meshlb_node_suspected", "1 for a node that has fallen silent.", named, channel.suspected)
    yield _marked("meshlb_node_dead", "1 for a node that has been silent for long.", named, channel.dead)


def _marked(
    name: str, text: str, named: Mapping[str, tuple[str, str]], marked: Collection[str]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=NODE)
    for address, labels in named.items():
        family.add_metric(labels, int(address in marked))
    return family


def _one(name: str, text: str, value: float, **about: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=tuple(about))
    family.add_metric([bounded(each) for each in about.values()], value)
    return family


def _count(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value)
