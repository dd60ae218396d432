"""Families of samples as the text that Prometheus scrapes, classic or OpenMetrics. Pure.

What there is once for an agent or a node comes as prometheus-client's families, and that writes it. Of ports
and backends there are so many that it would take a second of a core, for 200 ports with 50 backends each:
it makes an object of every sample and a text of all its labels anew. Here those of a row are written once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import generate_latest as classic
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.registry import Collector

from meshlb.metrics.histogram import samples
from meshlb.model import Histogram
from meshlb.text import printable

CLASSIC = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
_TYPES = {  # of two that are liked as much the first
    "application/vnd.google.protobuf": PROTOBUF,
    "application/openmetrics-text": OPENMETRICS,
    "text/plain": CLASSIC,
}
LONGEST = 128  # characters of a label's value: names are anybody's


@dataclass(frozen=True, slots=True)
class Family:
    """Samples of one name, each as what follows that: `{port="80"} 5`. `labels` are for the reader.

    A counter's name has no `_total`: that is written. Histograms come with their labels, `{port="80"}`.
    """

    name: str
    kind: str  # counter | gauge | histogram | summary
    help: str
    labels: tuple[str, ...] = ()
    samples: Sequence[str] = ()
    histograms: Sequence[tuple[str, Histogram]] = ()

    @property
    def sample_name(self) -> str:
        """The name that a query asks for."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


class Head(NamedTuple):
    """What a reader wants to know of a family."""

    name: str  # that a query asks for
    kind: str
    labels: tuple[str, ...]
    help: str


def head(of: Family | Metric) -> Head:
    """The same of both kinds of family; of one of the library's with a sample at least."""
    if isinstance(of, Family):
        return Head(of.sample_name, of.kind, of.labels, of.help)
    name = f"{of.name}_total" if of.type == "counter" else of.name
    return Head(name, of.type, tuple(of.samples[0].labels) if of.samples else (), of.documentation)


def labels(**values: str) -> str:
    """`{port="80"}`, whatever the values are."""
    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in values.items()) + "}"


def inserted(tail: str, name: str, value: str) -> str:
    """Labels with one more."""
    return f'{tail[:-1]},{name}="{escaped(value)}"}}'


def text(families: Iterable[Family | Metric], openmetrics: bool = False) -> str:
    """All families, each with its HELP and TYPE; the last line is as the format wants it."""
    parts = [part for family in families for part in _written(family, openmetrics)]
    return "".join(parts) + ("# EOF\n" if openmetrics else "")


def wanted(accept: str) -> str:
    """Which of the three formats an Accept header prefers: what is named without `q`, or with the highest."""
    offers = dict(map(_offer, reversed(accept.lower().split(","))))
    best = max(_TYPES, key=lambda kind: offers.get(kind, 0.0))
    return _TYPES[best] if offers.get(best, 0.0) > 0 else CLASSIC


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
    written = [sample for tail, of in family.histograms for sample in samples(tail, of)] or family.samples
    if written:
        yield family.sample_name
        yield f"\n{family.sample_name}".join(written)
        yield "\n"


def _written(family: Family | Metric, openmetrics: bool) -> Iterator[str]:
    return _family(family, openmetrics) if isinstance(family, Family) else _of_library(family, openmetrics)


class _Only(Collector):
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def _of_library(family: Metric, openmetrics: bool) -> Iterator[str]:
    written = (openmetrics_text if openmetrics else classic)(_Only(family))
    yield written.decode().removesuffix("# EOF\n")


def bounded(value: str) -> str:
    """A label's value as text of one line that is not too long."""
    return printable(value, LONGEST)


def escaped(value: str) -> str:
    """The same as it is written. Both formats escape these two characters, and line ends, which are gone."""
    return bounded(value).replace("\\", "\\\\").replace('"', '\\"')
