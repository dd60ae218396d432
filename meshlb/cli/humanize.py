"""Spans of time and sizes in docker's words (pure)."""

from __future__ import annotations

from datetime import timedelta

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def duration(span: timedelta) -> str:
    """`4 seconds`, `About a minute`, `3 weeks`: the steps of docker's go-units."""
    exact = max(span.total_seconds(), 0.0)
    seconds, minutes, hours = int(exact), int(exact / 60), int(exact / 3600 + 0.5)
    if seconds < 60:
        return {0: "Less than a second", 1: "1 second"}.get(seconds, f"{seconds} seconds")
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for limit, step, unit in (
        (24 * 14, 24, "days"),
        (24 * 60, 24 * 7, "weeks"),
        (24 * 730, 24 * 30, "months"),
    ):
        if hours < limit:
            return f"{hours // step} {unit}"
    return f"{int(exact / 3600) // 24 // 365} years"


def size(count: int) -> str:
    """`23.54GiB`: four significant digits."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.4g}{_UNITS[unit]}"


def exact_duration(nanoseconds: int) -> str:
    """`1m30s`, `250ms`, `2160h0m0s`: the notation of Go, and of docker's flags."""
    for unit, size_ in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if nanoseconds and nanoseconds < size_ * 1000 and nanoseconds < 10**9:
            return f"{nanoseconds / size_:g}{unit}"
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / 10**9:.9f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + seconds
