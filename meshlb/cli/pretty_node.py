"""A node as `node inspect --pretty` shows it, in docker's lines (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshlb.cli.humanize import size

Json = dict[str, Any]


def node_lines(node: Json) -> list[str]:
    """The lines."""
    description, status = node.get("Description") or {}, node.get("Status") or {}
    engine, tls = description.get("Engine") or {}, description.get("TLSInfo") or {}
    platform, resources = description.get("Platform") or {}, description.get("Resources") or {}
    joined = f"{node.get('CreatedAt', '').replace('T', ' ').removesuffix('Z')} +0000 utc"
    return [
        f"ID:\t\t\t{node['ID']}",
        *_labels("Labels", node["Spec"].get("Labels") or {}),
        f"Hostname:              \t{description.get('Hostname', '')}",
        f"Joined at:             \t{joined}",
        "Status:",
        f" State:\t\t\t{str(status.get('State', '')).capitalize()}",
        *([f" Message:\t\t{status['Message'].capitalize()}"] if status.get("Message") else []),
        f" Availability:         \t{str(node['Spec'].get('Availability', '')).capitalize()}",
        *([f" Address:\t\t{status['Addr']}"] if status.get("Addr") else []),
        *_manager(node.get("ManagerStatus") or {}),
        "Platform:",
        f" Operating System:\t{platform.get('OS', '')}",
        f" Architecture:\t\t{platform.get('Architecture', '')}",
        "Resources:",
        f" CPUs:\t\t\t{resources.get('NanoCPUs', 0) // 10**9}",
        f" Memory:\t\t{size(resources.get('MemoryBytes', 0))}",
        *_plugins(engine.get("Plugins") or ()),
        f"Engine Version:\t\t{engine.get('EngineVersion', '')}",
        *_labels("Engine Labels", engine.get("Labels") or {}),
        *_tls(tls),
    ]


def _labels(title: str, labels: Mapping[str, str]) -> Iterator[str]:
    if labels:
        yield f"{title}:"
    for name in sorted(labels):
        yield f" - {name}{'=' if labels[name] else ''}{labels[name]}"


def _manager(status: Json) -> Iterator[str]:
    if status:
        yield "Manager Status:"
        yield f" Address:\t\t{status.get('Addr', '')}"
        yield f" Raft Status:\t\t{str(status.get('Reachability', '')).capitalize()}"
        yield f" Leader:\t\t{'Yes' if status.get('Leader') else 'No'}"


def _plugins(plugins: Any) -> Iterator[str]:
    by_type: dict[str, list[str]] = {}
    for plugin in plugins:
        by_type.setdefault(plugin["Type"], []).append(plugin["Name"])
    if by_type:
        yield "Plugins:"
    for kind in sorted(by_type):
        yield f" {kind}:\t\t{', '.join(by_type[kind])}"


def _tls(tls: Json) -> Iterator[str]:
    if tls:
        yield "TLS Info:"
        yield " TrustRoot:"
        yield tls.get("TrustRoot", "")
        yield f" Issuer Subject:\t{tls.get('CertIssuerSubject', '')}"
        yield f" Issuer Public Key:\t{tls.get('CertIssuerPublicKey', '')}"
