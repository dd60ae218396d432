"""What this node's own firewall does to connections from elsewhere, by the rules that `nft -j` lists."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from meshlb.cli.probe import Finding

PATIENCE = 5.0  # seconds
Json = Mapping[str, Any]
_DENIED, _ACCEPTED = ("drop", "reject"), ("accept",)
_OURS = "meshlb"


class _Verdict(NamedTuple):
    chain: str
    word: str


def ruleset() -> Sequence[Json]:
    """The kernel's rules; none where there is no nft, or where they are root's to read."""
    nft = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")
    try:
        command = [nft or "nft", "-j", "list", "ruleset"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        found = json.loads(done.stdout)["nftables"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return ()
    return found if isinstance(found, list) else ()


def findings(rules: Sequence[Json], port: int, protocol: str) -> Iterator[Finding]:
    """What keeps connections from other machines away from a port here, as far as rules tell (pure)."""
    chains = [rule["chain"] for rule in rules if "chain" in rule]
    filters = {_table(chain) for chain in chains if chain.get("hook") == "input"}
    named = list(_naming(rules, port, protocol, filters))
    for verdict in named:
        if verdict.word in _DENIED:
            text = f"a rule of this node's firewall {verdict.word}s {port}/{protocol} ({verdict.chain})"
            yield Finding(False, text, "take that rule away: connections from other machines meet it")
    if any(verdict.word in _ACCEPTED for verdict in named):
        return
    for chain in chains:
        if chain.get("hook") == "input" and chain.get("policy") == "drop":
            text = f"this node's firewall drops what no rule accepts, and none names {port}/{protocol}"
            advice = f"ufw allow {port}/{protocol}, or the like; a redirected port: see README, ufw"
            yield Finding(None, f"{text} ({_name(chain)})", advice)


def _naming(
    rules: Sequence[Json], port: int, protocol: str, tables: set[tuple[str, str]]
) -> Iterator[_Verdict]:
    """The verdicts of rules in these tables that name the port as what packets are for."""
    for entry in rules:
        rule = entry.get("rule") or {}
        if _table(rule) not in tables or rule.get("table") == _OURS:
            continue
        expressions = [one for one in rule.get("expr") or () if isinstance(one, dict)]
        if not any(_is_for(one.get("match"), port, protocol) for one in expressions):
            continue
        words = [word for one in expressions for word in (*_DENIED, *_ACCEPTED) if word in one]
        yield from (_Verdict(_name(rule), word) for word in words)


def _is_for(match: Any, port: int, protocol: str) -> bool:
    if not isinstance(match, dict) or match.get("op", "==") not in ("==", "in"):
        return False
    left = match.get("left")
    payload = left.get("payload") if isinstance(left, dict) else None
    if not isinstance(payload, dict) or payload.get("field") != "dport":
        return False
    return payload.get("protocol") in (protocol, "th") and _contains(match.get("right"), port)


def _contains(right: Any, port: int) -> bool:
    """A number, a range of them, or a set of both."""
    if isinstance(right, dict) and isinstance(right.get("set"), list):
        return any(_contains(one, port) for one in right["set"])
    if isinstance(right, dict) and isinstance(right.get("range"), list):
        low, high = right["range"]
        return isinstance(low, int) and isinstance(high, int) and low <= port <= high
    return isinstance(right, int) and right == port


def _table(entry: Json) -> tuple[str, str]:
    return str(entry.get("family")), str(entry.get("table"))


def _name(entry: Json) -> str:
    chain = entry.get("chain") or entry.get("name")
    return f"table {entry.get('family')} {entry.get('table')}, chain {chain}"
