"""Numbers as docker's flags write them: durations, sizes, shares of a CPU (pure)."""

from __future__ import annotations

import re
from decimal import Decimal, DecimalException

from meshlb.errors import ConfigError

_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ns|us|µs|ms|s|m|h)", re.ASCII)
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?) ?(?:([kmgtp])(?:i?b)?|b)?", re.ASCII | re.IGNORECASE)
_LARGEST = 2**63 - 1  # the engine's numbers are int64


def nanoseconds(text: str) -> int:
    """Nanoseconds from Go's notation: `10s`, `1m30s`, `250ms`, `0`."""
    if text == "0":
        return 0
    parts = _PART.findall(text)
    value = int(sum(Decimal(number) * _NANOSECONDS[unit] for number, unit in parts))
    if not parts or "".join(number + unit for number, unit in parts) != text or value > _LARGEST:
        raise ConfigError(f'"{text}" is not a duration like 10s, 1m30s or 250ms')
    return value


def size(text: str) -> int:
    """Bytes from `64m`, `1.5g`, `512k` or a plain number; the steps are of 1024."""
    match = _SIZE.fullmatch(text)
    power = "kmgtp".index(match[2].lower()) + 1 if match and match[2] else 0
    value = int(Decimal(match[1]) * 1024**power) if match else _LARGEST + 1
    if value > _LARGEST:
        raise ConfigError(f'"{text}" is not a size in bytes like 512k, 64m or 1g')
    return value


def count(text: str) -> int:
    """A whole number from 0."""
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise ConfigError(f'"{text}" is not a whole number such as 3')
    return int(text)


def nanocpus(text: str) -> int:
    """Billionths of a CPU from a decimal number of CPUs, such as `0.5`."""
    try:
        value = Decimal(text) * 10**9
    except DecimalException:
        value = Decimal(-1)
    if not value.is_finite() or not 0 <= value <= _LARGEST or value != int(value):
        raise ConfigError(f'"{text}" is not a number of CPUs like 0.5 or 2 (at most nine decimals)')
    return int(value)


def pair(text: str, what: str) -> tuple[str, str]:
    """`key` and `value` of `key=value`; a key alone has an empty value."""
    key, _, value = text.partition("=")
    if not key.strip():
        raise ConfigError(f'"{text}" is not {what}=value')
    return key, value


def fields(text: str) -> list[tuple[str, str]]:
    """The `key=value` fields of docker's comma-separated long syntax. Quotes keep a comma, as in CSV."""
    parts = re.findall(r'(?:^|,)((?:"(?:[^"]|"")*"|[^,])*)', text)
    found = []
    for part in parts:
        plain = part[1:-1].replace('""', '"') if part[:1] == part[-1:] == '"' and len(part) > 1 else part
        key, _, value = plain.partition("=")
        found.append((key.strip().lower(), value.strip()))
    return found
