"""Lists in docker's layout."""

import json
from datetime import timedelta

import pytest

from meshlb.cli.columns import render, table
from meshlb.cli.humanize import duration, size
from meshlb.errors import ConfigError

HEADERS = {"ID": "ID", "Name": "NAME", "Ports": "PORTS"}
ROWS = [
    {"ID": "002g0gimp7rb", "Name": "whoami", "Ports": "*:80->8000/tcp"},
    {"ID": "rjivtaehb8xd", "Name": "x", "Ports": ""},
]


def test_a_table_is_docker_s_to_the_space() -> None:
    # `docker service ls` of Engine 20.10, by the client 28.2, with and without rows
    header = ["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"]
    row = ["002g0gimp7rb", "whoami", "replicated", "3/3", "whoami:latest", "*:80->8000/tcp"]
    assert table([header]) == "ID        NAME      MODE      REPLICAS   IMAGE     PORTS\n"
    assert table([header, row]) == (
        "ID             NAME      MODE         REPLICAS   IMAGE           PORTS\n"
        "002g0gimp7rb   whoami    replicated   3/3        whoami:latest   *:80->8000/tcp\n"
    )


def test_formats() -> None:
    assert render(HEADERS, ROWS).startswith("ID             NAME      PORTS\n002g0gimp7rb   whoami    *:80")
    assert [json.loads(line) for line in render(HEADERS, ROWS, "json").splitlines()] == ROWS
    assert render(HEADERS, ROWS, "{{json .}}") == render(HEADERS, ROWS, "json")
    assert render(HEADERS, ROWS, "{{.Name}}: {{ .Ports }}") == "whoami: *:80->8000/tcp\nx: \n"
    assert render(HEADERS, ROWS, r"table {{.Name}}\t{{.ID}}") == (
        "NAME      ID\nwhoami    002g0gimp7rb\nx         rjivtaehb8xd\n"
    )
    assert render(HEADERS, ROWS, r"table {{.Name}}{{if .Ports}}\t{{.Ports}}{{end}}").splitlines()[1:] == [
        "whoami    *:80->8000/tcp",
        "x         ",
    ]
    assert render(HEADERS, ROWS, "table") == render(HEADERS, ROWS)
    assert render(HEADERS, [], "json") == ""


def test_formats_that_are_not_understood() -> None:
    with pytest.raises(ConfigError, match='"Foo" is not one of ID, Name, Ports'):
        render(HEADERS, ROWS, "{{.Foo}}")


def test_functions_leave_the_titles_alone() -> None:
    assert render(HEADERS, ROWS, r"table {{upper .Name}}\t{{truncate .ID 3}}") == (
        "NAME      ID\nWHOAMI    002\nX         rji\n"
    )
    assert render(HEADERS, ROWS, "table {{.Name | lower}}") == "NAME\nwhoami\nx\n"


def test_json_is_escaped_as_go_does() -> None:
    assert r"*:80-\u003e8000/tcp" in render(HEADERS, ROWS, "json")


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(seconds=-5), "Less than a second"),
        (timedelta(milliseconds=999), "Less than a second"),
        (timedelta(seconds=1.9), "1 second"),
        (timedelta(seconds=59), "59 seconds"),
        (timedelta(seconds=60), "About a minute"),
        (timedelta(minutes=2), "2 minutes"),
        (timedelta(minutes=59, seconds=59), "59 minutes"),
        (timedelta(hours=1), "About an hour"),
        (timedelta(hours=1, minutes=31), "2 hours"),
        (timedelta(hours=47), "47 hours"),
        (timedelta(days=2), "2 days"),
        (timedelta(days=13), "13 days"),
        (timedelta(days=14), "2 weeks"),
        (timedelta(days=60), "2 months"),
        (timedelta(days=730), "2 years"),
    ],
)
def test_durations_are_docker_s(span: timedelta, words: str) -> None:
    assert duration(span) == words


def test_sizes_are_docker_s() -> None:
    assert [size(count) for count in (0, 1023, 1536, 25275973632, 2**40)] == [
        "0B",
        "1023B",
        "1.5KiB",
        "23.54GiB",
        "1TiB",
    ]
