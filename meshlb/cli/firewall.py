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


def closed(rules: Sequence[Json]) -> Iterator[Finding]:
    """Chains that let in nobody whom no rule of theirs names: what a mesh wants to be told of (pure)."""
    chains = [rule["chain"] for rule in rules if "chain" in rule]
    refusing = {_table_and_chain(rule["rule"]) for rule in rules if "rule" in rule and _refuses(rule["rule"])}
    names = [_name(chain) for chain in chains if _is_closed(chain, refusing)]
    if names:
        text = f"this node's firewall keeps out what no rule of it lets in ({'; '.join(names)})"
        yield Finding(None, text, "let clients in to published ports: README, Network and firewall")


def _is_closed(chain: Json, refusing: set[tuple[str, str, str]]) -> bool:
    if chain.get("hook") != "input" or chain.get("table") == _OURS:
        return False
    name = (*_table(chain), str(chain.get("name")))
    return chain.get("policy") == "drop" or name in refusing


def _refuses(rule: Json) -> bool:
    """Whether it refuses whatever comes as far as it."""
    words = {word for one in rule.get("expr") or () if isinstance(one, dict) for word in one}
    return bool(words & set(_DENIED)) and not words & {"match", "xt", "lookup", "limit"}


def _table_and_chain(rule: Json) -> tuple[str, str, str]:
    return (*_table(rule), str(rule.get("chain")))


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
            advice = f"ufw allow {port}/{protocol}, or the like; redirected: README, Network and firewall"
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
