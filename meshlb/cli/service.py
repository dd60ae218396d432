"""`meshlb service`: create, list, scale, change and remove services."""

from __future__ import annotations

import click

from meshlb.cli.program import Verbs
from meshlb.cli.service_change import create, rm, rollback, scale, update
from meshlb.cli.service_logs import logs
from meshlb.cli.service_show import inspect, ls, ps


@click.group(cls=Verbs)
def service() -> None:
    """Create, list, scale, change and remove services."""


for command in (create, update, scale, rollback, rm, ls, ps, inspect, logs):
    service.add_command(command)
