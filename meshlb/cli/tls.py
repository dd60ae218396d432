"""docker's flags for an engine that speaks TLS. The help is one screen and leaves them to the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from meshlb.cluster.client import Keys

F = TypeVar("F", bound=Callable[..., Any])

_SWITCHES = {
    "--tls": "Use TLS; implied by --tlsverify",
    "--tlsverify": "Use TLS and verify the remote (DOCKER_TLS_VERIFY)",
}
_FILES = {
    "--tlscacert": "Trust certs signed only by this CA",
    "--tlscert": "Path to TLS certificate file",
    "--tlskey": "Path to TLS key file",
}


def tls_options(function: F) -> F:
    """Adds them."""
    for name, help_ in reversed(_FILES.items()):
        click.option(name, default="", metavar="FILE", help=help_, hidden=True)(function)
    for name, help_ in reversed(_SWITCHES.items()):
        click.option(name, is_flag=True, help=help_, hidden=True)(function)
    return function


def keys(*, tls: bool, tlsverify: bool, tlscacert: str, tlscert: str, tlskey: str) -> Keys | None:
    """What they say; None where they say nothing. As with docker a file alone asks for no TLS."""
    if not (tls or tlsverify):
        return None
    from meshlb.cluster.client import Keys  # noqa: PLC0415  the SDK loads slowly

    return Keys(tlscacert, tlscert, tlskey, verify=tlsverify)
