"""The shares of tasks, which labels of their nodes set: of all tasks on a node, or of one service's. Pure.

docker node update --label-add meshlb.weight=3 --label-add meshlb.weight.web=5 node2
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from meshlb.model import Node
from meshlb.policy import LABEL_PREFIX
from meshlb.text import shown

LABEL = f"{LABEL_PREFIX}weight"
OF_SERVICE = f"{LABEL}."  # then the service's name
HEAVIEST = 256  # the highest weight

_NUMBER = re.compile(r"\d{1,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Weights:
    """By the node's address and the label's key. `problems` are sentences about labels that are not used."""

    found: Mapping[tuple[str, str], int]
    problems: tuple[str, ...] = ()

    def of(self, node: str, service: str) -> int:
        """The weight of a service's tasks on a node."""
        return self.found.get((node, OF_SERVICE + service)) or self.found.get((node, LABEL), 1)


def of_nodes(nodes: Iterable[Node]) -> Weights:
    """What the nodes' labels say. Of nodes with one address the last one counts: it has joined again."""
    found: dict[tuple[str, str], int] = {}
    problems: list[str] = []
    for node in {node.address: node for node in nodes if node.address}.values():
        for key, text in node.labels:
            problems += _problems(node, key, text)
            if _is_known(key) and _is_weight(text):
                found[node.address, key] = int(text)
    return Weights(found, tuple(problems))


def _problems(node: Node, key: str, text: str) -> Iterator[str]:
    where = f"node {shown(node.name or node.id)}: label {shown(key)}"
    if not _is_known(key):
        yield f"{where}: unknown; known are {LABEL} and {OF_SERVICE}SERVICE"
    elif not _is_weight(text):
        yield f'{where}: "{shown(text)}" is not a number from 1 to {HEAVIEST}'


def _is_known(key: str) -> bool:
    return key == LABEL or (key.startswith(OF_SERVICE) and key != OF_SERVICE)


def _is_weight(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and 1 <= int(text) <= HEAVIEST
