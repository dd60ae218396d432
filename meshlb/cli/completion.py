"""`meshlb completion`: what a shell needs to complete meshlb's words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from meshlb.cli.program import Verb

SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Verb, options_metavar="")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete the words of this command.

    \b
    Examples:
      meshlb completion bash > /etc/bash_completion.d/meshlb
      meshlb completion zsh > "${fpath[1]}/_meshlb"
      meshlb completion fish > ~/.config/fish/completions/meshlb.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"this click knows nothing of {shell}")
    click.echo(found(ctx.find_root().command, {}, "meshlb", "_MESHLB_COMPLETE").source())
