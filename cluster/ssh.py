"""An engine behind ssh://: each connection is an ssh that runs `docker system dial-stdio` there, as docker's.

The SDK's own way takes paramiko, and with it packages that small boards compile; ssh is there, with its
keys, agent and configuration. Its process has one end of a socket pair for its input and output.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
from typing import Any
from urllib.parse import urlsplit

import docker.api.client
from docker.transport import unixconn

from meshlb.errors import EngineError
from meshlb.text import printable

ENDING = 2.0  # seconds that ssh gets once nobody speaks to it any more
_LONGEST = 300  # characters of what it says
# Ctrl-C is ours: the last requests go through ssh after it.
_DEAF = ("/bin/sh", "-c", 'trap "" INT; exec "$@"', "ssh")


def install() -> None:
    """Have the SDK take this for ssh://: it looks up a class by this name, and has none without paramiko."""
    setattr(docker.api.client, "SSHHTTPAdapter", Adapter)  # noqa: B010  the name is not there to be assigned


def command(address: str) -> list[str]:
    """What is run for `ssh://[USER@]HOST[:PORT]`; EngineError when it is not that."""
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not parts.hostname or port == 0 or parts.path.strip("/") or parts.password:
        shown = "ssh://" + address.removeprefix("ssh://").rpartition("@")[2]  # without a password
        raise EngineError(f'"{shown}" is not ssh://[USER@]HOST[:PORT], such as ssh://pi@192.168.1.11')
    user = ["-l", parts.username] if parts.username else []
    number = ["-p", str(port)] if port else []
    options = ["-o", "ConnectTimeout=30", "-T"]
    return ["ssh", *options, *user, *number, "--", parts.hostname, "docker", "system", "dial-stdio"]


class Connection(unixconn.UnixHTTPConnection):
    """One conversation with the engine. `unix_socket` is the address as DOCKER_HOST has it."""

    timeout: Any  # seconds; urllib3 wraps it where a request has its own
    _process: subprocess.Popen[bytes] | None = None
    _words = ""  # ssh's own, once it has ended

    def connect(self) -> None:
        """Starts ssh; whether it gets there is seen by what comes back."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115  as long as the connection
            self._process = subprocess.Popen(
                [*_DEAF, *command(self.unix_socket)],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._said,
            )
        ours.settimeout(self.timeout)
        self.sock = ours

    def request(self, *words: Any, **named: Any) -> None:
        """A question to the engine."""
        try:
            super().request(*words, **named)
        except ConnectionError as error:
            raise self._explained() from error

    def getresponse(self) -> Any:
        """The engine's answer; where there is none, ssh's own words."""
        try:
            return super().getresponse()
        except ConnectionError as error:
            raise self._explained() from error

    def close(self) -> None:
        """Ends ssh with it."""
        super().close()
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with self._said as said:
            said.seek(0)
            self._words = said.read(65536).decode(errors="replace")

    def _explained(self) -> EngineError:
        self.close()
        said = self._words.strip().splitlines()
        reason = printable(said[-1], _LONGEST) if said else "ssh ended without a word"
        return EngineError(
            f"cannot reach the Docker daemon at {self.unix_socket}: {reason} "
            "(does `ssh` get there without a question, is docker there, and may the user ask it?)"
        )


class _Pool(unixconn.UnixHTTPConnectionPool):
    def _new_conn(self) -> Any:
        return Connection(self.base_url, self.socket_path, self.timeout)  # type: ignore[arg-type]


class Adapter(unixconn.UnixHTTPAdapter):
    """What requests speaks through. `socket_path` is the address as DOCKER_HOST has it."""

    def __init__(
        self, base_url: str, timeout: int, pool_connections: int, max_pool_size: int, shell_out: bool
    ) -> None:
        super().__init__(base_url, timeout, pool_connections, max_pool_size)
        self.socket_path = base_url

    def get_connection(self, url: Any, proxies: Any = None) -> Any:
        """The one pool, whatever is asked for: starting ssh takes longer than most answers."""
        with self.pools.lock:
            if self.socket_path not in self.pools:
                pool = _Pool(self.socket_path, self.socket_path, self.timeout, maxsize=self.max_pool_size)
                self.pools[self.socket_path] = pool
            return self.pools[self.socket_path]
