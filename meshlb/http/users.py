"""Who may read the page from elsewhere: names with hashes of their passwords.

    prometheus:$scrypt$ln=14,r=8,p=1$SALT$HASH

One a line, as passlib writes them and `meshlb agent password NAME` makes them. scrypt because it is in
Python's own library; bcrypt, which Prometheus' exporters read, would be one more that 32-bit ARM has to get.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from meshlb.errors import ConfigError
from meshlb.text import printable

MOST = 1000  # users
LONGEST = 128  # characters of a name or a password
_MEMORY = 64 * 2**20  # bytes that one hash may take
_SIZE = 32  # bytes of a hash
_HASH = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d)\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)", re.ASCII)
_NAME = re.compile(r"[^:\s]+")


@dataclass(frozen=True, slots=True)
class Hash:
    """What is kept of a password."""

    ln: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    def __str__(self) -> str:
        return f"$scrypt$ln={self.ln},r={self.r},p={self.p}${_encoded(self.salt)}${_encoded(self.digest)}"

    def fits(self, password: str) -> bool:
        """Whether it is this one's hash: some 50 ms of a core, half a second of a small board's."""
        return hmac.compare_digest(_digest(password, self, len(self.digest)), self.digest)


# Nobody's: an unknown name takes as long as a known one.
_NOBODY = Hash(14, 8, 1, os.urandom(16), os.urandom(_SIZE))


class Users:
    """All users of a file, and the passwords that were right before, as digests under a key of our own."""

    def __init__(self, hashes: Mapping[str, Hash]) -> None:
        self._hashes = dict(hashes)
        self._secret = secrets.token_bytes(32)
        self._right: dict[str, bytes] = {}

    def know(self, name: str, password: str) -> bool:
        """Whether this password has been right before. Takes microseconds."""
        return hmac.compare_digest(self._right.get(name, b""), self._mark(name, password))

    def check(self, name: str, password: str) -> bool:
        """Whether this password is right. May run in a thread."""
        found = self._hashes.get(name)
        right = (found or _NOBODY).fits(password) and found is not None
        if right:
            self._right[name] = self._mark(name, password)
        return right

    def _mark(self, name: str, password: str) -> bytes:
        return hmac.digest(self._secret, f"{name}:{password}".encode(), "sha256")


def hashed(password: str) -> Hash:
    """A fresh hash; ConfigError for a password that could not be sent."""
    if not password or len(password) > LONGEST or not password.isprintable():
        raise ConfigError(f"a password is 1 to {LONGEST} printable characters")
    blank = Hash(14, 8, 1, os.urandom(16), b"")
    return Hash(blank.ln, blank.r, blank.p, blank.salt, _digest(password, blank, _SIZE))


def checked_name(name: str) -> str:
    """The name; ConfigError when it cannot be a user's."""
    if not _NAME.fullmatch(name) or len(name) > LONGEST or not name.isprintable():
        raise ConfigError(
            f'"{printable(name, LONGEST)}" is not 1 to {LONGEST} characters without spaces and colons'
        )
    return name


def parse(text: str, where: str) -> Users:
    """The users of a file's text, without empty lines and those that begin with #. `where` is the file."""
    found: dict[str, Hash] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            name, of = _user(line.strip(), f"{where}:{number}")
            if found.setdefault(name, of) is not of:
                raise ConfigError(f"{where}:{number}: a second line for a user that is there already")
    if not found or len(found) > MOST:
        raise ConfigError(f"{where}: must have 1 to {MOST} users; `meshlb agent password NAME` prints a line")
    return Users(found)


def _user(line: str, place: str) -> tuple[str, Hash]:
    """What is wrong is told without a word of the line: it may hold a password."""
    name, _, text = line.partition(":")
    if text.startswith("$2"):
        raise ConfigError(f"{place}: a bcrypt hash; `meshlb agent password NAME` makes one of scrypt")
    match = _HASH.fullmatch(text)
    if not match:
        raise ConfigError(f"{place}: not NAME:$scrypt$…; `meshlb agent password NAME` prints such a line")
    try:
        ln, r, p = int(match[1]), int(match[2]), int(match[3])
        of = Hash(ln, r, p, _decoded(match[4]), _decoded(match[5]))
        if not (ln >= 1 and r and p and p * r * 128 << ln <= _MEMORY and 16 <= len(of.digest) <= 64):
            raise ValueError(text)
    except ValueError:
        raise ConfigError(f"{place}: a hash that asks for too much, or is none") from None
    return checked_name(name), of


def _digest(password: str, of: Hash, size: int) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=of.salt, n=1 << of.ln, r=of.r, p=of.p, dklen=size, maxmem=2 * _MEMORY
    )


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
