"""Descriptors are shared out so that whatever is accepted can be served."""

from __future__ import annotations

import errno

import pytest

from meshlb.descriptors import Descriptors, out

LIMITS = (64, 128, 256, 1024, 20_000, 1_048_576)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_listening_sockets_leave_room_for_clients(limit: int, workers: int) -> None:
    of = Descriptors(limit, workers)
    of.sockets = of.most
    assert 0 < of.most * 2 <= limit // 2
    taken = 24 + 2 * workers + 2 * of.sockets
    assert taken < of.clients < of.end < limit


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_pipes_take_a_sixteenth_of_the_descriptors_and_256_mebibytes_at_most(
    limit: int, workers: int
) -> None:
    pipes = Descriptors(limit, workers).pipes * workers
    assert 2 * (pipes - workers) <= limit // 16
    assert pipes <= 1024 + workers
    assert pipes > 0 or limit < 512


def test_where_there_is_room_each_worker_has_a_socket() -> None:
    assert Descriptors(20_000, 4).each(addresses=1, ports=500) == 4


def test_where_there_is_little_ports_share_it_evenly() -> None:
    of, given = Descriptors(1024, 4), []
    for port in range(200):
        given.append(of.each(1, 200 - port))
        of.sockets += given[-1]
    assert set(given) == {1, 2} or set(given) == {1}
    assert of.sockets <= of.most


def test_a_port_for_which_not_one_is_left_gets_none() -> None:
    of = Descriptors(64, 2)
    of.sockets = of.most
    assert of.each(1, 1) == 0


def test_each_address_counts() -> None:
    of = Descriptors(256, 2)
    assert of.each(of.most, 1) == 1
    assert of.each(of.most + 1, 1) == 0


@pytest.mark.parametrize(("error", "what"), [(errno.EMFILE, "LimitNOFILE"), (errno.ENFILE, "fs.file-max")])
def test_what_is_out_is_told_with_what_to_do(error: int, what: str) -> None:
    assert what in out(error)
