"""Swarm's certificates become TLS contexts, and peers' certificates become names."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
from pathlib import Path

import pytest
from swarm_ca import KEY_HEADERS, SwarmCA, certificates, identifier, lock

from meshlb.errors import MeshError
from meshlb.peers.identity import (
    MANAGER,
    WORKER,
    Identity,
    IdentityError,
    Keeper,
    MissingError,
    Peer,
    load,
    load_patiently,
    peer_of,
    plain_key,
)


@pytest.fixture
def ca(tmp_path: Path) -> SwarmCA:
    return SwarmCA(tmp_path / "ca")


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str = MANAGER) -> list[ssl.SSLObject]:
    inwards, outwards = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(outwards, inwards, server_hostname=name),
        server.wrap_bio(inwards, outwards, server_side=True),
    ]
    waiting = list(ends)
    for _ in range(10):
        for end in tuple(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not waiting
    return ends


@pytest.mark.parametrize("role", [MANAGER, WORKER])
def test_a_node_knows_who_it_is(ca: SwarmCA, role: str) -> None:
    node = identifier()
    identity = load(ca.root("node", role, node_id=node))
    assert (identity.node_id, identity.role, identity.cluster) == (node, role, ca.cluster)


def test_two_nodes_of_a_swarm_know_each_other(ca: SwarmCA) -> None:
    manager, worker = load(ca.root("one", MANAGER)), load(ca.root("two", WORKER))
    client, server = shake_hands(manager.server, worker.client)
    assert peer_of(client, ca.cluster) == Peer(manager.node_id, MANAGER, ca.cluster)
    assert peer_of(server, ca.cluster) == Peer(worker.node_id, WORKER, ca.cluster)
    assert peer_of(client).manager
    assert not peer_of(server).manager
    assert client.version() == "TLSv1.3"


def test_older_tls_is_refused(ca: SwarmCA) -> None:
    identity = load(ca.root("one", MANAGER))
    old = load(ca.root("two")).client
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake_hands(identity.server, old)


def test_a_worker_is_known_as_one_whatever_it_calls_itself(ca: SwarmCA) -> None:
    rogue = ca.root("one", WORKER, names=(MANAGER,))
    client, _ = shake_hands(load(rogue).server, load(ca.root("two")).client)
    assert not peer_of(client).manager


def test_another_authority_is_refused_on_both_sides(ca: SwarmCA, tmp_path: Path) -> None:
    ours, theirs = load(ca.root("one", MANAGER)), load(SwarmCA(tmp_path / "other").root("two", MANAGER))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(theirs.server, ours.client)
    theirs.client.check_hostname, theirs.client.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(ours.server, theirs.client)


def test_another_swarm_under_the_same_authority_is_refused(ca: SwarmCA) -> None:
    ours, theirs = load(ca.root("one", MANAGER)), load(ca.root("two", cluster="elsewhere"))
    _, server = shake_hands(ours.server, theirs.client)
    with pytest.raises(IdentityError, match=r"belongs to another Swarm \(elsewhere\)"):
        peer_of(server, ours.cluster)


def test_no_certificate_names_nobody() -> None:
    with pytest.raises(IdentityError, match="no certificate"):
        peer_of(None)


@pytest.mark.parametrize(
    ("unit", "said"),
    [("swarm-king", "swarm-king"), ("swarm-worker/OU=swarm-manager", "2 times organizationalUnitName")],
)
def test_an_unclear_role_is_refused(ca: SwarmCA, unit: str, said: str) -> None:
    with pytest.raises(IdentityError, match=said):
        load(ca.root("node", MANAGER, unit=unit))


def test_headers_are_stripped_from_a_key() -> None:
    text = b"-----BEGIN PRIVATE KEY-----\n" + KEY_HEADERS + b"MIGH\nAgEA\n-----END PRIVATE KEY-----\n"
    assert plain_key(text) == b"-----BEGIN PRIVATE KEY-----\nMIGH\nAgEA\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "text",
    [
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nkek-version: 16\n\nM\n-----END ENCRYPTED PRIVATE KEY-----\n",
        b"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMI\n-----END EC PRIVATE KEY-----\n",
    ],
)
def test_a_locked_key_is_said_to_be_locked(text: bytes) -> None:
    with pytest.raises(IdentityError, match=r"autolock .* docker swarm update --autolock=false"):
        plain_key(text)


@pytest.mark.parametrize("text", [b"", b"\0" * 300, b"-----BEGIN PRIVATE KEY-----\nMIGH\n"])
def test_a_key_file_without_a_key(text: bytes) -> None:
    with pytest.raises(IdentityError, match="holds no key"):
        plain_key(text)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"swarm-node.crt is missing; is this node in a Swarm\?"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["swarm-node.crt", "swarm-node.key", "swarm-root-ca.crt"])
@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_damaged_file_is_one_sentence(ca: SwarmCA, name: str, text: bytes) -> None:
    root = ca.root("node")
    (certificates(root) / name).write_bytes(text)
    with pytest.raises(MeshError) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_belong_together_are_waited_for(ca: SwarmCA, tmp_path: Path) -> None:
    root, after = ca.root("node"), ca.root("after", node_id="n" * 25)
    shutil.copy(certificates(after) / "swarm-node.key", certificates(root))

    async def scenario() -> Identity:
        loading = asyncio.create_task(load_patiently(root))
        await asyncio.sleep(0.12)
        shutil.copy(certificates(after) / "swarm-node.crt", certificates(root))
        return await loading

    with pytest.raises(IdentityError, match="do not belong together"):
        load(root)
    assert asyncio.run(scenario()).node_id == "n" * 25


def test_a_certificate_of_another_authority_cannot_be_used(ca: SwarmCA, tmp_path: Path) -> None:
    root = ca.root("node")
    shutil.copy(certificates(SwarmCA(tmp_path / "other").root("x")) / "swarm-root-ca.crt", certificates(root))
    with pytest.raises(IdentityError, match="cannot be used"):
        load(root)


class Kept:
    """A keeper, and what it says."""

    def __init__(self, root: Path) -> None:
        self.said: list[str] = []
        self.changes = 0
        self.keeper = Keeper(root, self.said.append, self._changed, every=60)

    def _changed(self) -> None:
        self.changes += 1

    def look(self) -> Identity | None:
        asyncio.run(self.keeper.look())
        return self.keeper.current


def test_files_are_read_again_only_when_they_change(ca: SwarmCA) -> None:
    root = ca.root("node", WORKER, node_id="a" * 25)
    kept = Kept(root)
    first = kept.look()
    assert first is not None
    assert kept.look() is first
    ca.issue(root, MANAGER, node_id="a" * 25)
    second = kept.look()
    assert second is not None
    assert (second.role, kept.changes, set(kept.said)) == (MANAGER, 0, {""})


def test_a_good_identity_outlives_its_unreadable_files(ca: SwarmCA) -> None:
    root = ca.root("node")
    kept = Kept(root)
    first = kept.look()
    lock(root)
    assert kept.look() is first
    assert "autolock" in kept.said[-1]
    ca.issue(root, WORKER)
    assert kept.look() is not first
    assert (kept.said[-1], kept.changes) == ("", 0)


def test_a_node_that_left_its_swarm_is_nobody(ca: SwarmCA, tmp_path: Path) -> None:
    root = ca.root("node")
    kept = Kept(root)
    kept.look()
    shutil.rmtree(root / "swarm")
    assert kept.look() is None
    assert "missing" in kept.said[-1]
    assert kept.changes == 1
    SwarmCA(tmp_path / "other").issue(root, WORKER)
    assert kept.look() is not None
    assert (kept.said[-1], kept.changes) == ("", 1)


def test_a_node_in_another_swarm_has_changed(ca: SwarmCA, tmp_path: Path) -> None:
    root = ca.root("node")
    kept = Kept(root)
    kept.look()
    other = SwarmCA(tmp_path / "other")
    other.issue(root, WORKER)
    identity = kept.look()
    assert identity is not None
    assert (identity.cluster, kept.changes) == (other.cluster, 1)


def test_no_key_is_ever_written_or_logged(ca: SwarmCA, caplog: pytest.LogCaptureFixture) -> None:
    root = ca.root("node")
    before = sorted(root.rglob("*"))
    with caplog.at_level(logging.DEBUG):
        load(root)
    assert sorted(root.rglob("*")) == before
    assert "PRIVATE" not in caplog.text
