"""Which engine the command talks to, and how: DOCKER_HOST, contexts, TLS, ssh."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from daemon import Daemon, running, running_tls
from swarm_ca import KEY_HEADERS, SwarmCA, certificates

from meshlb.cli import main
from meshlb.cluster.ssh import command
from meshlb.errors import EngineError

Run = Callable[..., Result]
SERVICE: dict[str, Any] = {
    "ID": "002g0gimp7rbo6ot1vcvkkrsx",
    "Spec": {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "web"}}, "Mode": {"Global": {}}},
    "ServiceStatus": {"RunningTasks": 1, "DesiredTasks": 1},
}
NAMES = ("service", "ls", "--format", "{{.Name}}")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as table:
        table.answers["GET /services"] = [SERVICE]
        yield table


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command as somebody types it whose settings are in `tmp_path`."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    own = {"DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)}
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return lambda *words, **environment: CliRunner().invoke(main, words, env=own | environment)


def context(folder: Path, name: str, host: str) -> None:
    """What `docker context create` writes."""
    place = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    place.mkdir(parents=True)
    endpoints = {"docker": {"Host": host, "SkipTLSVerify": False}}
    (place / "meta.json").write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": endpoints}))


def test_flag_variable_and_context_name_the_engine(run: Run, daemon: Daemon, tmp_path: Path) -> None:
    nowhere = "unix:///nowhere.sock"
    context(tmp_path, "lab", daemon.address)
    context(tmp_path, "off", nowhere)
    for words, environment in (
        (("-H", daemon.address), {"DOCKER_HOST": nowhere}),
        ((), {"DOCKER_HOST": daemon.address, "DOCKER_CONTEXT": "off"}),
        (("--context", "lab"), {}),
        (("-c", "lab"), {"DOCKER_HOST": nowhere}),
        ((), {"DOCKER_CONTEXT": "lab"}),
    ):
        found = run(*words, *NAMES, **environment)
        assert (found.exit_code, found.stdout, found.stderr) == (0, "web\n", ""), (words, environment)
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "lab"}))
    assert run(*NAMES).stdout == "web\n"
    missing = run("-c", "nope", *NAMES)
    assert missing.stderr == 'meshlb: there is no docker context "nope" (`docker context ls` lists them)\n'


# The SDK forgets to close a socket that could not be connected.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_a_context_whose_engine_is_off(run: Run, tmp_path: Path) -> None:
    context(tmp_path, "off", "unix:///nowhere.sock")
    off = run("-c", "off", *NAMES)
    says = "meshlb: cannot connect to the Docker daemon at unix:///nowhere.sock: is it running?"
    assert off.stderr.startswith(says)
    del off
    gc.collect()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Endpoints": null}', '{"Endpoints": {"docker": []}}'])
def test_a_context_that_cannot_be_read(run: Run, tmp_path: Path, text: str) -> None:
    context(tmp_path, "bad", "unix:///nowhere.sock")
    (meta,) = tmp_path.glob("contexts/meta/*/meta.json")
    meta.write_text(text)
    refused = run("-c", "bad", *NAMES)
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (1, 1)
    assert refused.stderr.startswith('meshlb: the docker context "bad" cannot be read: ')


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Daemon, dict[str, str]]]:
    """A daemon for who shows a certificate of its authority, and what such a client's settings are."""
    ca = SwarmCA(tmp_path / "ca")
    keys = {}
    for name in ("server", "client"):
        place = certificates(ca.root(name, names=("localhost",)))
        key = place / "swarm-node.key"
        key.write_bytes(key.read_bytes().replace(KEY_HEADERS, b""))
        keys[name] = place
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(keys["server"] / "swarm-node.crt", keys["server"] / "swarm-node.key")
    tls.load_verify_locations(keys["server"] / "swarm-root-ca.crt")
    tls.verify_mode = ssl.CERT_REQUIRED
    for name, found in (("ca", "swarm-root-ca.crt"), ("cert", "swarm-node.crt"), ("key", "swarm-node.key")):
        (tmp_path / f"{name}.pem").write_bytes((keys["client"] / found).read_bytes())
    with running_tls(tls) as table:
        table.answers["GET /services"] = [SERVICE]
        settings = {"DOCKER_HOST": table.address, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
        yield table, settings


def _files(folder: Path) -> list[str]:
    names = (("--tlscacert", "ca"), ("--tlscert", "cert"), ("--tlskey", "key"))
    return [word for flag, name in names for word in (flag, str(folder / f"{name}.pem"))]


def test_tls(run: Run, secure: tuple[Daemon, dict[str, str]], tmp_path: Path) -> None:
    _, settings = secure
    other = SwarmCA(tmp_path / "other")
    # another authority in the environment is for the web, not for the engine
    assert run(*NAMES, **settings, REQUESTS_CA_BUNDLE=str(other.place / "ca.crt")).stdout == "web\n"
    context(tmp_path, "secure", settings["DOCKER_HOST"])
    keys = tmp_path / "contexts" / "tls" / hashlib.sha256(b"secure").hexdigest() / "docker"
    keys.mkdir(parents=True)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (keys / name).write_bytes((tmp_path / name).read_bytes())
    assert run("-c", "secure", *NAMES).stdout == "web\n"
    flags = ("-H", settings["DOCKER_HOST"], "--tlsverify", *_files(tmp_path))
    assert run(*flags, *NAMES).stdout == "web\n"
    assert run(*flags[:3], *NAMES, DOCKER_CERT_PATH=str(tmp_path)).stdout == "web\n"
    unchecked = (*flags[:2], "--tls", *flags[5:])  # whoever the daemon is
    assert run(*unchecked, *NAMES).stdout == "web\n"
    lacks = run(*flags[:3], *NAMES)  # there is nothing in ~/.docker
    assert (lacks.exit_code, len(lacks.stderr.splitlines())) == (1, 1), lacks.stderr
    (tmp_path / "ca.pem").write_bytes((tmp_path / "other" / "ca.crt").read_bytes())
    refused = run(*NAMES, **settings)
    assert refused.exit_code == 1
    assert refused.stderr.startswith(
        f"meshlb: cannot talk to the Docker daemon at {settings['DOCKER_HOST']}: "
    )
    assert "CERTIFICATE_VERIFY_FAILED" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    (tmp_path / "ca.pem").unlink()
    missing = run(*NAMES, **settings)
    assert (missing.exit_code, len(missing.stderr.splitlines())) == (1, 1)


# What is called instead of ssh: tells its words, and leads to the daemon's socket as dial-stdio does.
SSH = """#!{python}
import os, socket, sys, threading
open({words!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
engine = socket.socket(socket.AF_UNIX)
engine.connect({path!r})
def pump(read, write, end):
    while data := read(65536):
        write(data)
    end()
threading.Thread(target=pump, daemon=True, args=(
    lambda size: os.read(0, size), engine.sendall, lambda: engine.shutdown(socket.SHUT_WR))).start()
pump(engine.recv, lambda data: os.write(1, data), lambda: None)
"""


@pytest.fixture
def ssh(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The words that ssh was called with, a line each; `fails` beside it has it fail."""
    words, programs = tmp_path / "words", tmp_path / "bin"
    programs.mkdir()
    program = programs / "ssh"
    path = daemon.address.removeprefix("unix://")
    program.write_text(SSH.format(python=sys.executable, words=str(words), path=path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return words


def test_ssh(run: Run, ssh: Path, tmp_path: Path) -> None:
    assert run("-H", "ssh://pi@pi1:2222", *NAMES).stdout == "web\n"
    (line,) = ssh.read_text().splitlines()  # one connection carries all requests
    assert line.endswith("-l pi -p 2222 -- pi1 docker system dial-stdio")
    context(tmp_path, "pi", "ssh://pi1")
    assert run("-c", "pi", *NAMES).stdout == "web\n"


def test_ssh_that_does_not_get_there_says_why(run: Run, ssh: Path) -> None:
    program = ssh.with_name("bin") / "ssh"
    program.write_text(
        "#!/bin/sh\necho banner >&2; echo 'pi@pi1: Permission denied (publickey).' >&2; exit 255\n"
    )
    refused = run("-H", "ssh://pi@pi1", *NAMES)
    assert refused.exit_code == 1
    assert refused.stderr.startswith(
        "meshlb: cannot reach the Docker daemon at ssh://pi@pi1:22: pi@pi1: Permission denied (publickey). ("
    )
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "address", ["ssh://", "ssh://pi1:x", "ssh://pi1:0", "ssh://pi1/run", "ssh://pi:secret@pi1"]
)
def test_what_is_no_address_of_ssh(address: str) -> None:
    with pytest.raises(EngineError, match="is not ssh://") as caught:
        command(address)
    assert "secret" not in str(caught.value)


def test_no_option_of_ssh_can_be_smuggled_in() -> None:
    *options, last = command("ssh://-oProxyCommand=x@-oProxyCommand=y")[:-3]
    assert (options[-1], last) == ("--", "-oproxycommand=y")


def test_help_of_a_verb_needs_no_engine() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meshlb", "-H", "unix:///nowhere.sock", "service", "create", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
