"""A static file's text becomes a snapshot, or one sentence with file, line and reason."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlb.errors import ConfigError
from meshlb.model import Port, Protocol
from meshlb.policy import Policy
from meshlb.portfile import parse
from meshlb.table import build

WHOLE = """\
# comment
[[port]]
published = 80
service = "web"
backends = [
    "10.0.0.1:8001",
    "[fd00::2]:8002",
    "[::ffff:10.0.0.3]:8003",
]
connect-timeout = "250ms"

[[port]]
published = 53
protocol = "udp"
backends = ["10.0.0.1:53"]
"""


def test_every_entry_is_a_service_with_one_port() -> None:
    web, dns = parse(WHOLE, "mesh.toml").services
    assert (web.name, web.ports) == ("web", (Port(80, 80),))
    assert [(task.address, task.port) for task in web.tasks] == [
        ("10.0.0.1", 8001),
        ("fd00::2", 8002),
        ("10.0.0.3", 8003),
    ]
    assert [task.name for task in web.tasks] == ["10.0.0.1:8001", "[fd00::2]:8002", "10.0.0.3:8003"]
    assert (dns.name, dns.ports) == ("port-53-udp", (Port(53, 53, Protocol.UDP),))


def test_policy_keys_reach_the_table() -> None:
    table = build(parse(WHOLE, "mesh.toml"))
    assert table.problems == ()
    policies = {entry.service: entry.policy for entry in table.entries}
    assert policies["web"].connect_timeout == 0.25
    assert [backend.port for backend in table.entries[1].backends] == [8001, 8003, 8002]


OWN = frozenset({"127.0.0.1", "::1", "10.99.0.1", "10.99.0.2", "fd00::9"})


@pytest.mark.parametrize(
    ("backend", "listen"),
    [
        ("127.0.0.1", ""),
        ("127.1.2.3", ""),
        ("10.99.0.1", ""),
        ("[fd00::9]", ""),
        ("[::ffff:10.99.0.1]", ""),
        ("10.99.0.1", "0.0.0.0/0"),
        ("127.1.2.3", "0.0.0.0/0"),
        ("[fd00::9]", "::/0"),
        ("10.99.0.2", "192.168.0.0/16,10.99.0.0/16"),
        ("10.99.0.2", "10.99.0.2"),
        ("10.99.0.7", "10.99.0.7"),  # a virtual address that is elsewhere now
    ],
)
def test_a_backend_that_is_its_own_published_port_is_a_circle(backend: str, listen: str) -> None:
    text = f'{PORT}backends = ["10.0.0.1:1", "{backend}:80"]\nlisten = "{listen}"'
    with pytest.raises(ConfigError, match="is the published port itself: a circle") as refusal:
        parse(text, "f", OWN)
    assert str(refusal.value).startswith("f:3: ")


@pytest.mark.parametrize(
    ("backend", "listen"),
    [
        ("10.99.0.1:81", ""),
        ("10.99.0.3:80", ""),
        ("10.99.0.1:80", "::/0"),
        ("[fd00::9]:80", "0.0.0.0/0"),
        ("10.99.0.1:80", "10.99.0.2"),
        ("127.0.0.1:80", "10.99.0.0/16"),
        ("127.1.2.3:80", "127.0.0.0/8"),  # of which the node has 127.0.0.1 alone
    ],
)
def test_a_backend_of_this_node_where_the_port_does_not_listen_is_none(backend: str, listen: str) -> None:
    assert parse(f'{PORT}backends = ["{backend}"]\nlisten = "{listen}"', "f", OWN).services


@pytest.mark.parametrize("value", ["[]", "''", "['']"])
@pytest.mark.parametrize("key", ["allow", "deny", "listen", "accept-proxy"])
def test_an_empty_list_is_the_default(key: str, value: str) -> None:
    table = build(parse(f"{PORT}{OK}{key} = {value}", "f"))
    assert table.problems == ()
    assert table.entries[0].policy == Policy()


def test_two_entries_with_one_port_are_reported_and_the_others_served() -> None:
    entry = '[[port]]\npublished = {}\nservice = "{}"\nbackends = ["10.0.0.1:1"]\n'
    table = build(parse(entry.format(80, "a") + entry.format(80, "b") + entry.format(81, "c"), "f"))
    assert [entry.service for entry in table.entries] == ["a", "c"]
    assert table.problems == (
        "service b: port 80/tcp is already published by service a; publish another port",
    )


PORT = "[[port]]\npublished = 80\n"
OK = 'backends = ["10.0.0.1:1"]\n'

BAD = [
    ("", "f: no port is published; add a [[port]] entry with published and backends"),
    ("port = []", "f: no port is published"),
    ("[[port]\n", "f:1: "),
    ("a = 1\nb = \n", "f:2: Invalid value (column 5)"),
    ("a = [\n1,\n", "f:2: "),
    ("[[port]]\n[[ports]]\n", 'f:1: "ports" is not known here; a file consists of [[port]] entries'),
    ("title = 'x'\n" + PORT + OK, 'f:1: "title" is not known here'),
    ("[port]\npublished = 1", 'f:1: "port" must be written as [[port]]'),
    ("port = 3", 'f:1: "port" must be written as [[port]]'),
    ("port = [3]", 'f:1: "port" must be written as [[port]]'),
    ('port = [{published = 80, backends = [""]}]', 'f: backend "": must be ADDRESS:PORT'),
    ("\n[[port]]\n" + OK, "f:2: this [[port]] has no published; add it"),
    (PORT + OK + PORT, "f:4: this [[port]] has no backends; add it"),
    ("[[port]]\npublished = 0\n" + OK, "f:2: published = 0: not a port number from 1 to 65535"),
    ("[[port]]\npublished = true\n" + OK, "f:2: published = True: not a port number"),
    ('[[port]]\npublished = "80"\n' + OK, 'f:2: published = "80": not a port number'),
    (PORT + OK + "protocol = 'sctp'", 'f:4: protocol = "sctp": not "tcp" or "udp"'),
    (PORT + OK + "service = 'a b'", 'f:4: service = "a b": use up to 63 letters'),
    (PORT + OK + 'service = "a\\nb"', "f:4: service = "),
    (PORT + OK + "service = 5", "f:4: service = 5: use up to 63 letters"),
    (PORT + "backends = []", 'f:3: backends = []: must be a list such as ["10.0.0.1:8000"]'),
    (PORT + 'backends = "10.0.0.1:1"', 'f:3: backends = "10.0.0.1:1": must be a list'),
    (PORT + 'backends = [\n"10.0.0.1:1",\n5]', "f:5: backend 5: must be ADDRESS:PORT in quotes"),
    (PORT + 'backends = ["10.0.0.1"]', 'f:3: backend "10.0.0.1": must be ADDRESS:PORT'),
    (PORT + 'backends = ["10.0.0.1:0"]', 'f:3: backend "10.0.0.1:0": must be ADDRESS:PORT'),
    (PORT + 'backends = ["10.0.0.1:٣"]', 'f:3: backend "10.0.0.1:٣": must be ADDRESS:PORT'),
    (PORT + 'backends = ["::1:80"]', 'f:3: backend "::1:80": must be ADDRESS:PORT'),
    (PORT + 'backends = ["web:80"]', 'f:3: backend "web:80": "web" is not an IP address; names are not'),
    (PORT + 'backends = [\n"10.0.0.1:1",\n"0.0.0.0:1"]', 'f:5: backend "0.0.0.0:1": no connection'),
    (PORT + 'backends = ["224.0.0.1:1"]', 'f:3: backend "224.0.0.1:1": no connection'),
    (PORT + 'backends = ["[fe80::1%eth0]:1"]', 'f:3: backend "[fe80::1%eth0]:1": no connection'),
    (PORT + 'backends = ["127.0.0.1:80"]', 'f:3: backend "127.0.0.1:80" is the published port itself'),
    (PORT + 'backends = ["10.0.0.1:1", "10.0.0.1:1"]', 'f:3: backend "10.0.0.1:1" is listed twice'),
    (
        PORT + OK + "balanse = 'roundrobin'",
        'f:4: unknown key "balanse"; did you mean balance? known are publ',
    ),
    (
        PORT + OK + "zzz = 1",
        'f:4: unknown key "zzz"; known are published, protocol, service, backends, balance',
    ),
    (PORT + OK + "balance = 'x'", 'f:4: balance: "x" is not one of roundrobin'),
    (PORT + OK + "balance = ['x']", "f:4: balance = ['x']: must be one value"),
    (PORT + OK + "connect-timeout = 5", 'f:4: connect-timeout: "5" is not a duration'),
    (PORT + OK + "connect-timeout = true", 'f:4: connect-timeout: "true" is not a duration'),
    (PORT + OK + "[port.balance]\nx = 1", "f:1: balance = {'x': 1}: must be one value"),
    ("a = " + "9" * 5000, "f: not TOML that a port needs: a number with too many digits"),
    (PORT + OK + "queue = 0x" + "f" * 5000, 'f:4: queue: "something too large to be shown" is not a number'),
    (PORT + OK + '"\\u001b[2J\\n" = 1', 'f:1: unknown key "\\x1b[2J\\n"; known are'),
    (PORT + OK + "x" * 5000 + " = 1", 'f:4: unknown key "' + "x" * 100 + '…"; known are'),
    (PORT + 'backends = ["\\u202e:1"]', 'f:3: backend "\\u202e:1": "\\u202e" is not an IP address'),
    ("# \u2028 \x85 \n" + PORT + OK + "balance = 'x'", 'f:5: balance: "x" is not'),
    ("a." + "b" * 5000 + " = 1\na." + "b" * 5000 + " = 1", "f:2: Cannot overwrite"),
    ("a = " + "[" * 5000, "f: not TOML that a port needs: nested too deeply"),
]


@pytest.mark.parametrize(("text", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_a_bad_file_is_refused_with_file_line_and_reason(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse(text, "f")
    assert str(refusal.value).startswith(sentence)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 1000


def test_a_value_that_is_nested_deeply_is_refused_whether_it_can_be_shown_or_not() -> None:
    """Python 3.13 has no bound of its own on what it shows."""
    with pytest.raises(ConfigError) as refusal:
        parse(PORT + OK + "queue" + ".x" * 5000 + " = 1", "f")
    sentence = r"f:4: queue = (something too large to be shown|\{'x': \{'x'.*…): must be one value, .*"
    assert re.fullmatch(sentence, str(refusal.value))
    assert len(str(refusal.value)) < 1000


def test_a_text_that_looks_like_a_header_costs_the_line_and_nothing_else() -> None:
    text = PORT + OK + 'service = """\n[[port]]\n"""\n'
    with pytest.raises(ConfigError, match=r'^f: service = "\[\[port\]\]'):
        parse(text, "f")


SCRAPS = st.sampled_from(
    [*WHOLE.splitlines(), "[[port]]", "backends = [", "]", '"""', "published = -1", "x.y = 1"]
)


@given(st.lists(SCRAPS | st.text(max_size=20), max_size=20))
def test_any_text_is_a_snapshot_or_a_config_error(lines: list[str]) -> None:
    try:
        snapshot = parse("\n".join(lines), "f")
    except ConfigError as error:
        refusal = str(error)
    else:
        refusal = "" if snapshot.services else "an empty snapshot"
        build(snapshot)
    assert not refusal or refusal.startswith("f:")
