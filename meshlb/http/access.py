"""What is asked of who reads the page from elsewhere: TLS, a password, or neither, as the options say.

Files are read again when they change, looked at when somebody connects; one with a mistake changes nothing.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Generic, TypeVar

from meshlb.errors import ConfigError
from meshlb.http.trials import Trials
from meshlb.http.users import LONGEST, Users, parse
from meshlb.text import printable

LOOK = 1.0  # seconds between two looks at the files
LARGEST = 2**20  # bytes of a file of users

log = logging.getLogger(__name__)
Of = TypeVar("Of")
Stamp = tuple[tuple[int, int, int], ...]


class Verdict(Enum):
    """About somebody who says a name and a password, or neither."""

    WELCOME = 200
    UNKNOWN = 401
    TOO_OFTEN = 429


class Access:
    """The options' files, as they are now. ConfigError when they are wrong at the beginning."""

    def __init__(
        self, certificate: Path | None = None, key: Path | None = None, users: Path | None = None
    ) -> None:
        if key and not certificate:
            raise ConfigError("--http-key needs --http-certificate, the file with the certificate")
        paths = [path for path in (certificate, key) if path]
        self._context = _Kept(paths, lambda: _context(*paths)) if certificate else None
        self._users = _Kept([users], lambda: _users(users)) if users else None
        self._trials, self._hashing = Trials(time.monotonic()), asyncio.Semaphore(1)
        self._looked = time.monotonic()

    @property
    def context(self) -> ssl.SSLContext | None:
        """TLS, where it is wanted."""
        return self._context.value if self._context else None

    @property
    def password(self) -> bool:
        """Whether one is wanted."""
        return self._users is not None

    def look(self) -> None:
        """Has files that have changed read again, at most once a second."""
        now = time.monotonic()
        if now - self._looked >= LOOK:
            self._looked = now
            for kept in (self._context, self._users):
                _renew(kept)

    async def judge(self, authorization: str, address: str) -> Verdict:
        """Whether somebody at this address may read."""
        if self._users is None:
            return Verdict.WELCOME
        said = _said(authorization)
        if said is None:
            return Verdict.UNKNOWN
        users = self._users.value
        if users.know(*said):
            return Verdict.WELCOME
        if not self._trials.allow(address, time.monotonic()):
            return Verdict.TOO_OFTEN
        async with self._hashing:  # one core at most, and as much memory as one hash takes
            right = await asyncio.to_thread(users.check, *said)
        if not right:
            log.warning("a wrong name or password for the page, from %s", printable(address, 64))
        return Verdict.WELCOME if right else Verdict.UNKNOWN


class _Kept(Generic[Of]):
    """What is read from files, and which files those were."""

    def __init__(self, paths: list[Path], read: Callable[[], Of]) -> None:
        self._paths, self._read = paths, read
        self._stamp = self._now()
        self.value = read()

    def renew(self) -> bool:
        """Read what has changed. ConfigError when it is wrong: what was known holds."""
        now = self._now()
        if now == self._stamp:
            return False
        self._stamp = now
        self.value = self._read()
        return True

    def __str__(self) -> str:
        return " with ".join(map(str, self._paths))

    def _now(self) -> Stamp:
        return tuple(_stamp(path) for path in self._paths)


def _renew(kept: _Kept[ssl.SSLContext] | _Kept[Users] | None) -> None:
    try:
        if kept and kept.renew():
            log.info("%s has changed and holds from now on", kept)
    except ConfigError as error:
        log.error("%s; what was read before holds", error)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_size, found.st_ino


def _context(certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        what = (
            "the key does not belong to the certificate"
            if "MISMATCH" in str(error.reason)
            else ("needs a certificate and its key in PEM, the key unencrypted")
        )
        raise ConfigError(f"--http-certificate {certificate}: {what}") from error
    except OSError as error:
        at = f"--http-key {key}" if key and not key.is_file() else f"--http-certificate {certificate}"
        raise ConfigError(f"{at}: cannot be read: {error.strerror}") from error
    return context


def _no_password() -> str:
    """Instead of a question on the terminal."""
    return ""


def _users(path: Path) -> Users:
    try:
        with path.open(encoding="utf-8") as file:
            return parse(file.read(LARGEST), f"--http-users {path}")
    except OSError as error:
        raise ConfigError(f"--http-users {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--http-users {path}: is not UTF-8") from error


def _said(authorization: str) -> tuple[str, str] | None:
    """Name and password of `Basic …`."""
    scheme, _, coded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(coded.strip(), validate=True).decode().partition(":")
    except ValueError:  # no Base64, or no UTF-8
        return None
    return (name, password) if colon and len(name) <= LONGEST and len(password) <= LONGEST else None
