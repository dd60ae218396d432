"""The syntax of -p."""

import pytest

from meshlb.cluster.publish import PublishedPort, parse, parse_target
from meshlb.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80:8000", [PublishedPort(8000, 80)]),
        ("8000", [PublishedPort(8000)]),
        (":8000", [PublishedPort(8000)]),
        ("53:53/udp", [PublishedPort(53, 53, "udp")]),
        ("53:53/UDP", [PublishedPort(53, 53, "udp")]),
        ("99-100:80", [PublishedPort(80, 99), PublishedPort(80, 100)]),
        ("99-100:80-81", [PublishedPort(80, 99), PublishedPort(81, 100)]),
        ("80-81", [PublishedPort(80), PublishedPort(81)]),
        ("published=80,target=8000", [PublishedPort(8000, 80)]),
        ("target=8000", [PublishedPort(8000)]),
        ("mode=host,published=80,target=8000,protocol=udp", [PublishedPort(8000, 80, "udp", "host")]),
    ],
)
def test_every_form_that_docker_takes(text: str, ports: list[PublishedPort]) -> None:
    assert list(parse(text)) == ports


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("foo:80", '"foo" in "foo:80" is not a published port'),
        ("99999:80", '"99999"'),
        ("0:80", "from 1 to 65535"),
        ("", "is not a target port"),
        ("80:", "is not a target port"),
        ("٨٠:80", "is not a published port"),
        ("127.0.0.1:99:80", 'write "99:80"'),
        ("99:80/foo", "it is one of tcp, udp, sctp"),
        ("99-101:80-81", "publishes 3 ports to 2"),
        ("101-99:80", "is not a published port"),
        ("published=99", "lacks target="),
        ("published=99,tar=80", "is not one of target, published, protocol, mode"),
        ("published=99-100,target=80", "is a range"),
        ("published=99,target=80,mode=x", "it is one of ingress, host"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert says in str(caught.value)


def test_a_port_is_removed_by_its_target() -> None:
    texts = ("8000", "80:8000", "53/udp", "target=8000,published=80", "target=8000,mode=host")
    assert [parse_target(text) for text in texts] == [
        (8000, "tcp", "ingress"),
        (8000, "tcp", "ingress"),
        (53, "udp", "ingress"),
        (8000, "tcp", "ingress"),
        (8000, "tcp", "host"),
    ]
    with pytest.raises(ConfigError, match="not one target port"):
        parse_target("80-81")


def test_the_engine_chooses_a_port_that_is_not_published() -> None:
    assert "PublishedPort" not in PublishedPort(80).spec()
    assert PublishedPort(80, 99).spec()["PublishedPort"] == 99
