"""The takeover of published ports from Swarm's own mesh: a redirect ahead of Docker's rules.

On a kernel with IPVS dockerd holds every published port and leads its connections away with DNAT rules in
`DOCKER-INGRESS`, an iptables chain that runs at priority -100. Our nftables table runs at -110, and the first
chain to translate a connection wins. Only new connections are translated, so those that Docker's rules
already carry go on. Only the port is rewritten: the client's address and the one it called stay as they are.

It fails open: the table vanishes with the agent, and Docker's rules rule again.

    no child ── first redirect ──► child holds the table ── close() ──► no child
       ▲                                │ ends, hangs or refuses
       └──── `set`, not sooner than ────┘
             the delay after the last start: it rebuilds the whole state
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

from meshlb.kernel.nft import (
    NftChild,
    NftError,
    PublishedPort,
    Redirects,
    change,
    creation,
    own_table,
    too_old,
)
from meshlb.ports.ingress import IngressRules

MODES = ("auto", "always", "never")
SHORTEST_DELAY = 1.0  # seconds from one start of the child to the next, doubled each time
LONGEST_DELAY = 60.0
CAP_NET_ADMIN = 12
LOG = logging.getLogger(__name__)

ENDED = "the nft child that held the redirects ended; until it is started again Swarm's own mesh serves"


def has_net_admin(status: Path = Path("/proc/self/status")) -> bool:
    """Whether this process may change the kernel's packet rules."""
    line = next(line for line in status.read_text().splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> CAP_NET_ADMIN & 1)


def explained(error: NftError | OSError) -> str:
    """What went wrong, and what the user can do about it."""
    text = str(error)
    if isinstance(error, FileNotFoundError):
        return (
            "nft is not installed, so ports that Docker holds cannot be redirected: apt-get install nftables"
        )
    if needed := too_old(error):
        return f"nft refused the table of redirects ({text}): {needed}"
    return f"ports that Docker holds cannot be redirected: {text}"


class Takeover:
    """Holds the redirects from published ports to ports of the agent's own.

    `mode` is what the user chose: `auto` (take over what Docker holds), `always` or `never`; `Listeners` acts
    on it. Not thread-safe: one thread at a time calls.
    """

    def __init__(
        self,
        mode: str = "auto",
        *,
        rules: IngressRules | None = None,
        start: Callable[[], NftChild] = NftChild,
        permitted: Callable[[], bool] = has_net_admin,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mode = mode
        self.table = own_table()
        self.problem = ""  # one sentence; empty while all redirects are in force
        self._rules = rules or IngressRules()
        self._start, self._permitted, self._clock = start, permitted, clock
        self._child: NftChild | None = None
        self._in_force: dict[PublishedPort, int] = {}
        self._started = float("-inf")
        self._delay = 0.0

    @property
    def redirects(self) -> Redirects:
        """What is in force: published port to own port."""
        return MappingProxyType(self._in_force)

    def docker_publishes(self) -> frozenset[PublishedPort]:
        """The ports that Docker's own mesh leads away. Costs microseconds where nothing has changed."""
        return self._rules.ports()

    def set(self, redirects: Redirects) -> None:
        """Make these, and no others, the redirects. Called again with the same it heals a child that died."""
        if self._child and not self._child.alive:
            self._lose(ENDED)
        if self._child is None:
            self._begin(redirects)
        else:
            self._update(redirects)

    def close(self) -> None:
        """Take the table away. Redirected connections still open may end with it: drain them first."""
        self._drop()
        self._delay = 0.0
        self.problem = ""

    def _begin(self, redirects: Redirects) -> None:
        if not redirects:
            self.problem = ""
        elif not self._permitted():
            self.problem = (
                "redirecting ports that Docker holds needs the capability CAP_NET_ADMIN: run the agent as "
                "root, or its container with --cap-add NET_ADMIN"
            )
        elif self._may_start():
            try:
                self._child = self._start()
            except OSError as error:
                self._lose(explained(error))
            else:
                self._run(creation(self.table, redirects), redirects)

    def _update(self, redirects: Redirects) -> None:
        # A table without redirects stays: with its hooks would go the translation of connections still open.
        if transaction := change(self.table, self._in_force, redirects):
            self._run(transaction, redirects)

    def _run(self, transaction: str, redirects: Redirects) -> None:
        assert self._child is not None  # noqa: S101  both callers have one
        try:
            with self._rules.our_change():
                self._child.run(transaction)
        except (NftError, OSError) as error:
            self._lose(explained(error))
        else:
            self._in_force = dict(redirects)
            self.problem = ""

    def _may_start(self) -> bool:
        now = self._clock()
        if now < self._started + self._delay:
            return False
        self._delay = min(max(self._delay * 2, SHORTEST_DELAY), LONGEST_DELAY)
        self._started = now
        return True

    def _lose(self, problem: str) -> None:
        if problem != self.problem:
            LOG.warning("%s", problem)
        if self._clock() >= self._started + LONGEST_DELAY:
            self._delay = 0.0  # it was in force for long: no reason to wait
        self.problem = problem
        self._drop()

    def _drop(self) -> None:
        self._in_force = {}
        if self._child:
            self._child.end()
            self._child = None
