"""The schedules that balancers read: exact shares, and little disruption."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from meshlb import policy
from meshlb._balance import BALANCERS, maglev, schedule

KEYS = random.Random(7).sample(range(1 << 32), 200)


def test_the_plane_and_the_policy_number_balancers_alike() -> None:
    assert BALANCERS == policy.BALANCERS


def test_turns_are_exact_and_smooth() -> None:
    turns = list(schedule([1, 2, 3])) * 100
    assert Counter(turns) == {0: 100, 1: 200, 2: 300}
    assert all(Counter(turns[i : i + 6]) == {0: 1, 1: 2, 2: 3} for i in range(590))
    assert list(schedule([1, 2, 3])) == [2, 1, 0, 2, 1, 2], "nobody gets all its turns at once"


def test_a_schedule_is_as_short_as_it_can_be() -> None:
    assert len(schedule([100, 200])) == 3
    assert len(schedule([256] * 254 + [255] * 2)) <= 65535


@pytest.mark.parametrize("count", [1, 3, 10, 50])
def test_maglev_shares_are_even(count: int) -> None:
    shares = Counter(maglev(KEYS[:count], [1] * count))
    assert len(shares) == count
    assert max(shares.values()) - min(shares.values()) <= 1


def test_maglev_honours_weights() -> None:
    table = maglev(KEYS[:3], [1, 2, 3])
    shares = Counter(table)
    for index, weight in enumerate((1, 2, 3)):
        assert shares[index] == pytest.approx(len(table) * weight / 6, rel=0.02)


def test_every_node_makes_the_same_maglev_table() -> None:
    order = random.Random(1).sample(range(20), 20)
    straight = [KEYS[i] for i in maglev(KEYS[:20], [1] * 20)]
    shuffled = [KEYS[order[i]] for i in maglev([KEYS[i] for i in order], [1] * 20)]
    assert straight == shuffled


@pytest.mark.parametrize("count", [3, 10, 50])
def test_few_clients_move_when_a_backend_goes(count: int) -> None:
    """Those of the backend that went, and some 2 % of the others."""
    keys = KEYS[:count]
    before = [keys[i] for i in maglev(keys, [1] * count)]
    for gone in range(0, count, max(1, count // 5)):
        left = keys[:gone] + keys[gone + 1 :]
        table = maglev(left, [1] * len(left))
        after = (
            [left[table[i % len(table)]] for i in range(len(before))] if len(table) == len(before) else None
        )
        if after is None:
            continue  # another size of table: seldom, and then all move
        moved = sum(one != other for one, other in zip(before, after, strict=True) if one != keys[gone])
        assert moved / len(before) < 0.06
