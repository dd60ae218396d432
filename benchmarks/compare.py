"""Two runs beside each other."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.results import Key, Results, rows


def compare(before: Results, after: Results) -> int:
    """Say what differs by more than both runs' spread; 0 always, as a judgement is the reader's."""
    for name in sorted({*before.about, *after.about}):
        one, other = before.about.get(name, ""), after.about.get(name, "")
        if one != other:
            print(f"{name}: {one or '-'} -> {other or '-'}")
    for line in differences(before, after):
        print(line)
    return 0


def differences(before: Results, after: Results) -> Iterator[str]:
    """A line for each figure that has changed."""
    known = dict(rows(before))
    for key, peers in rows(after):
        for peer, (value, spread) in peers.items():
            old, old_spread = known.get(key, {}).get(peer, (0.0, 0.0))
            if old and abs(value / old - 1) > max(0.02, spread + old_spread):
                yield _line(key, peer, old, value)


def _line(key: Key, peer: str, old: float, new: float) -> str:
    what = f"{key.stage} {key.axis}, {key.measure}, {peer}"
    return f"{what}: {old:.4g} -> {new:.4g} {key.unit} ({new / old - 1:+.0%})"
