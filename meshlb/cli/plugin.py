"""`docker meshlb …`: the same command as a plugin of docker's own.

docker asks a plugin for its metadata, and runs it with all its words: `docker-meshlb --context x meshlb ps`.
Where a shell completes docker's words it asks with `__complete` in front, as its library for commands has it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence

from meshlb import __version__

NAME = "meshlb"
METADATA = {
    "SchemaVersion": "0.1.0",
    "Vendor": "meshlb",
    "Version": __version__,
    "ShortDescription": "The routing mesh and load balancer for Docker Swarm",
}
_COMPLETE = ("__complete", "__completeNoDesc")
_NO_FILES = ":4"  # the library's sign that names of files are not meant
# What docker takes before the plugin's name, and says nothing to us: its own log. The second takes a value.
_SILENT, _SILENT_VALUES = ("-D", "--debug"), ("-l", "--log-level")


def main() -> None:
    """The entry point `docker-meshlb`."""
    given = sys.argv[1:]
    if given[:1] == ["docker-cli-plugin-metadata"]:
        print(json.dumps(METADATA))
        return
    if given[:1] and given[0] in _COMPLETE:
        print("\n".join([*completions(given[1:], described=given[0] == _COMPLETE[0]), _NO_FILES]))
        return
    from meshlb.cli import main as command  # noqa: PLC0415  metadata are asked for at each `docker --help`

    command(words(given))


def words(given: Sequence[str]) -> list[str]:
    """What the command is given: docker's words without the plugin's name (pure)."""
    before, name, after = _around(given)
    return [*_ours(iter(before)), *after] if name else list(given)


def _around(given: Sequence[str]) -> tuple[Sequence[str], bool, Sequence[str]]:
    if NAME not in given:
        return given, False, ()
    place = list(given).index(NAME)
    return given[:place], True, given[place + 1 :]


def _ours(before: Iterator[str]) -> Iterator[str]:
    """Flags of docker that mean something to us."""
    for word in before:
        if word in _SILENT_VALUES:
            next(before, None)
        elif word not in _SILENT and not word.startswith("--log-level="):
            yield word


def completions(given: Sequence[str], described: bool) -> Iterator[str]:
    """What the last word may become, with what it means after a tab."""
    from click.shell_completion import ShellComplete  # noqa: PLC0415

    from meshlb.cli import main as command  # noqa: PLC0415

    *typed, begun = words(given) or [""]
    for item in ShellComplete(command, {}, NAME, "").get_completions(typed, begun):
        if item.type == "plain":
            yield f"{item.value}\t{item.help}" if described and item.help else str(item.value)
