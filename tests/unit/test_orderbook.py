"""An operator's orders on disk: there after a crash, and no file can do harm."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from meshlb import orderbook
from meshlb.orderbook import FILE, OrderBook
from meshlb.orders import MOST, Orders

ORDERS = {"task1": "drained", "task2": "paused"}


def test_what_is_kept_is_there_for_the_next_agent(tmp_path: Path) -> None:
    place = tmp_path / "new" / "state"
    assert OrderBook(place).keep(ORDERS) == ""
    assert OrderBook(place).recall() == ORDERS
    assert (place / FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in place.iterdir()] == [FILE]


def test_nothing_is_written_where_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(orderbook, "replace", lambda path, data: written.append(data))
    book = OrderBook(tmp_path)
    book.keep({})
    assert not written
    book.keep(ORDERS)
    book.keep(dict(ORDERS))
    assert len(written) == 1
    book.keep({})
    assert len(written) == 2


def test_who_has_recalled_need_not_write_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    OrderBook(tmp_path).keep(ORDERS)
    book = OrderBook(tmp_path)
    book.recall()
    monkeypatch.setattr(orderbook, "replace", lambda path, data: pytest.fail("written"))
    assert book.keep(ORDERS) == ""


def test_without_a_directory_nothing_is_kept() -> None:
    book = OrderBook(None)
    assert (book.recall(), book.keep(ORDERS)) == (None, "")


def test_nothing_kept_is_nothing_to_complain_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert OrderBook(tmp_path / "state").recall() is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "Expecting value"),
        (b"\xff", "can't decode"),
        (b"[]", "not a file of meshlb's"),
        (b'{"format": 2, "orders": {}}', "of another release"),
        (b'{"format": 1, "orders": []}', "it has no orders"),
        (b"[" * 60_000, "maximum recursion"),
        (b" " * 70_000, "larger than 65536 bytes"),
    ],
)
def test_what_is_no_file_of_ours_is_told_and_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes, says: str
) -> None:
    (tmp_path / FILE).write_bytes(data)
    assert OrderBook(tmp_path).recall() is None
    (record,) = caplog.records
    assert f"the orders in {tmp_path / FILE} are ignored: " in record.getMessage()
    assert says in record.getMessage()


def test_a_bad_disk_is_told_once_in_the_log_and_to_everybody_who_asks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    blocked = tmp_path / "file"
    blocked.write_text("")
    book = OrderBook(blocked)
    for _ in range(2):
        assert book.keep(ORDERS) == f"{blocked / FILE} cannot be written: File exists"
    assert len(caplog.records) == 1
    blocked.unlink()
    assert book.keep(ORDERS) == ""


def test_as_many_orders_as_there_may_be_fit(tmp_path: Path) -> None:
    many = {f"{number:0128}": "drained" for number in range(MOST)}
    OrderBook(tmp_path).keep(many)
    known = Orders()
    known.adopt(OrderBook(tmp_path).recall(), 0.0)
    assert known.told() == many


def test_words_of_the_file_that_are_no_orders_are_left_out(tmp_path: Path) -> None:
    words = {"task1": "up", "task2": ["drained"], "task3": "paused"}
    (tmp_path / FILE).write_text(json.dumps({"format": 1, "orders": words}))
    known = Orders()
    known.adopt(OrderBook(tmp_path).recall(), 0.0)
    assert known.told() == {"task3": "paused"}
