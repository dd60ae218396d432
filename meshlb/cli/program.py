"""How the command behaves as a whole: verbs that load late, errors as one sentence, docker's exit codes."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from meshlb.errors import MeshError

if TYPE_CHECKING:
    from meshlb.cluster.client import APIClient, Keys

FAILED = 1
BAD_FLAG = 125  # docker's exit code for a flag that it does not know or cannot read
INTERRUPTED = 130

# A group without a verb shows its help, and as with docker that is no failure; before click 8.2 it is no
# exception either.
_NO_VERB: tuple[type[click.UsageError], ...] = tuple(
    kind for kind in (getattr(click.exceptions, "NoArgsIsHelpError", None),) if kind
)

Table = Mapping[str, Mapping[str, tuple[str, str, str]]]


@dataclass(frozen=True, slots=True)
class Connection:
    """Which engine to talk to; empty leaves it to the environment and docker's context."""

    host: str = ""
    context: str = ""
    keys: Keys | None = None

    def open(self) -> APIClient:
        """A client of the engine, closed when the verb ends; EngineError when it cannot be reached."""
        from meshlb.cluster.client import connect  # noqa: PLC0415  the SDK takes longer to load than --help

        client = connect(self.host, self.context, keys=self.keys)
        click.get_current_context().call_on_close(client.close)
        return client


class Verb(click.Command):
    """A verb whose switches take a value, too, as docker's do: `--detach=false`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The arguments, with such switches as click knows them."""
        return super().parse_args(ctx, list(self._respelled(ctx, args)))

    def _respelled(self, ctx: click.Context, args: Sequence[str]) -> Iterator[str]:
        options = {
            name: param for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)
        }
        words = iter(args)
        for word in words:
            name, equals, value = word.partition("=")
            option = options.get(name)
            if word == "--" or not (word.startswith("-") or ctx.allow_interspersed_args):
                yield from (word, *words)
            elif isinstance(option, click.Option) and option.is_flag:
                yield from _switch(option, name, value, ctx) if equals else (word,)
            elif option is not None and equals and len(name) == 2:
                yield from (name, value)  # `-u=root`, whose = click would take for a part of the value
            else:
                yield word
                if option is not None and not equals:
                    yield from itertools.islice(words, 1)  # its value, whatever it looks like


def _switch(option: click.Option, name: str, value: str, ctx: click.Context) -> Sequence[str]:
    if value.lower() in ("1", "t", "true"):
        return (name,)
    if value.lower() not in ("0", "f", "false"):
        raise click.BadParameter(f'"{value}" is not true or false', ctx, option)
    return option.secondary_opts[:1]


class Verbs(click.Group):
    """A group of such verbs."""

    command_class = Verb

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The verb; docker's other names for some work, too."""
        return super().get_command(ctx, {"list": "ls", "remove": "rm"}.get(name, name))


class Program(click.Group):
    """The top group. `verbs` are, by heading and name, the module, its command and one line of help."""

    def __init__(self, *args: Any, verbs: Table, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of the help."""
        return [name for group in self._verbs.values() for name in group]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The verb, loaded now."""
        for group in self._verbs.values():
            if name in group:
                module, attribute, _ = group[name]
                return _load(module, attribute)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs under their headings, without loading them."""
        for heading, group in self._verbs.items():
            with formatter.section(heading):
                formatter.write_dl([(name, line) for name, (_, _, line) in group.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs the command and exits. What the user can mend is one sentence on stderr."""
        try:
            status = super().main(args, "meshlb", complete_var, standalone_mode=False, **extra)
        except _NO_VERB as error:
            click.echo(error.ctx.get_help() if error.ctx else str(error))
            status = 0
        except click.UsageError as error:
            status = _misused(error)
        except click.ClickException as error:
            status = _failed(error.format_message())
        except MeshError as error:
            status = _failed(str(error))
        except (click.Abort, KeyboardInterrupt):
            click.echo(err=True)
            status = INTERRUPTED
        sys.exit(status if isinstance(status, int) else 0)


def _load(module: str, attribute: str) -> click.Command:
    try:
        command: click.Command = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise click.ClickException(f"this installation lacks {error.name}: install meshlb again") from error
    return command


def _failed(message: str) -> int:
    click.echo(f"meshlb: {message}", err=True)
    return FAILED


def _misused(error: click.UsageError) -> int:
    message = error.format_message().rstrip(".")
    click.echo(f"meshlb: {message[:1].lower()}{message[1:]}", err=True)
    if error.ctx:
        click.echo(f"\n{error.ctx.get_usage()}", err=True)
        click.echo(f"\nRun '{error.ctx.command_path} --help' for more information", err=True)
    about_flag = isinstance(error, click.BadOptionUsage | click.NoSuchOption) or (
        isinstance(error, click.BadParameter) and isinstance(error.param, click.Option)
    )
    return BAD_FLAG if about_flag else FAILED
