"""Families of samples as the text that Prometheus scrapes, classic or OpenMetrics. Pure.

prometheus-client makes an object of every sample and a text of all its labels anew: 0.6 s of a core for a
node of 200 ports with 50 backends each. Here the labels of a row are written once for all families.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from meshlb.text import printable

CLASSIC = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
LONGEST = 128  # characters of a label's value: names are anybody's


@dataclass(frozen=True, slots=True)
class Family:
    """Samples of one name, each as what follows that: `{port="80"} 5`. `labels` are for the reader.

    A counter's name has no `_total`: that is written.
    """

    name: str
    kind: str  # counter | gauge | histogram | summary
    help: str
    labels: tuple[str, ...] = ()
    samples: Sequence[str] = ()

    @property
    def sample_name(self) -> str:
        """The name that a query asks for."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def labels(**values: str) -> str:
    """`{port="80"}`, whatever the values are."""
    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in values.items()) + "}"


def inserted(tail: str, name: str, value: str) -> str:
    """Labels with one more."""
    return f'{tail[:-1]},{name}="{escaped(value)}"}}'


def text(families: Iterable[Family], openmetrics: bool = False) -> str:
    """All families, each with its HELP and TYPE; the last line is as the format wants it."""
    parts = [part for family in families for part in _family(family, openmetrics)]
    return "".join(parts) + ("# EOF\n" if openmetrics else "")


def wants_openmetrics(accept: str) -> bool:
    """Whether an Accept header prefers it: what is named without `q` or with a higher one."""
    offers = dict(map(_offer, accept.lower().split(",")))
    openmetrics = offers.get("application/openmetrics-text", 0.0)
    return openmetrics > 0 and openmetrics >= offers.get("text/plain", 0.0)


def _offer(part: str) -> tuple[str, float]:
    kind, *parameters = (each.strip() for each in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return kind, float(parameter[2:])
            except ValueError:
                return kind, 0.0
    return kind, 1.0


def _family(family: Family, openmetrics: bool) -> Iterator[str]:
    name = family.name if openmetrics else family.sample_name
    yield f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n"
    if family.samples:
        yield family.sample_name
        yield f"\n{family.sample_name}".join(family.samples)
        yield "\n"


def escaped(value: str) -> str:
    """A label's value, bounded. Both formats escape these two characters, and line ends, which are gone."""
    return printable(value, LONGEST).replace("\\", "\\\\").replace('"', '\\"')
