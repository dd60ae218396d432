"""Go templates: what docker prints for them, and what is said about those that cannot be read."""

from __future__ import annotations

from typing import Any

import pytest

from meshlb.cli.template import Template
from meshlb.errors import ConfigError

SERVICE: dict[str, Any] = {
    "ID": "002g0gimp7rb",
    "Spec": {"Name": "web", "Labels": {"b": "2", "a": "1"}, "Env": ["A=1", "B=2"], "Init": False},
    "Ports": [{"PublishedPort": 80}, {"PublishedPort": 443}],
    "None": None,
    "Empty": [],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Spec.Name}}", "web"),
        ("{{ .ID }}: {{.Spec.Name}}!", "002g0gimp7rb: web!"),
        ("{{json .Spec.Labels}}", '{"b":"2","a":"1"}'),
        ("{{.Spec.Labels}} {{.Spec.Env}}", "map[a:1 b:2] [A=1 B=2]"),
        ('{{index .Spec.Labels "a"}}{{index .Spec.Labels "nope"}}', "1"),
        ("{{index .Spec.Env 1}}", "B=2"),
        ("{{range .Ports}}{{.PublishedPort}} {{end}}", "80 443 "),
        ("{{range .Spec.Labels}}{{.}},{{end}}", "1,2,"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{if .Empty}}yes{{else}}no{{end}}", "no"),
        ('{{if eq .Spec.Name "web"}}it is{{end}}', "it is"),
        ("{{if not .Empty}}{{range .Ports}}{{if eq .PublishedPort 80}}!{{end}}{{end}}{{end}}", "!"),
        ('{{join .Spec.Env ","}}', "A=1,B=2"),
        ("{{.Spec.Name | upper | json}}", '"WEB"'),
        ("{{truncate .ID 3}} {{len .Spec.Env}} {{title .Spec.Name}}", "002 2 Web"),
        ("{{println .ID}}", "002g0gimp7rb\n"),
        (r"a\tb\n", "a\tb\n"),
        ("a {{- .Spec.Name -}} b", "awebb"),
        ("a{{/* a comment */}}b", "ab"),
        ("{{.Spec.Init}} {{.None}} {{`raw`}}", "false <no value> raw"),
        (r"a\n\t{{- .Spec.Name -}}\n b", "awebb"),
        (r'{{.ID}}{{"\n"}}{{"\t\x41"}}', "002g0gimp7rb\n\tA"),
        (r'{{join .Spec.Env "\n"}}', "A=1\nB=2"),
        ("", ""),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert Template(template).fill(SERVICE) == text


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{.Foo}}", '"Foo" is not there: there is ID, Spec, '),
        ("{{.ID.Foo}}", '"Foo" is not there: there is no fields'),
        ("{{.ID", "a {{ has no }}"),
        ("{{foo .ID}}", '"foo" is not one of json, '),
        ("{{json foo}}", '"foo" is not a field'),
        ("{{if .ID}}x", "{{if}} lacks its {{end}}"),
        ("{{range .Ports}}{{else}}", "{{range}} lacks its {{end}}"),
        ("x{{end}}", "{{end}} stands alone"),
        ("{{index .Spec.Env 9}}", "cannot be worked out"),
        ("{{len .Spec.Init}}", "cannot be worked out"),
        ("{{join .Spec.Env}}", "cannot be worked out"),
        ('{{join "," .Spec.Env}}', "cannot be worked out"),
        ("{{range .ID}}x{{end}}", '".ID" is no list'),
        ("{{range .Spec.Name}}x{{end}}", '".Spec.Name" is no list'),
        (r'{{"\q"}}', "has an escape that is none"),
        ("{{}}", "is not one of"),
    ],
)
def test_templates_that_cannot_be_read(template: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"^--format: ") as caught:
        Template(template).fill(SERVICE)
    assert says in str(caught.value)
