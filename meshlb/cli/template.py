"""Go templates, as far as people use them with `--format`: fields, a few functions, if and range (pure).

{{.Name}}  {{.Spec.Labels}}  {{json .}}  {{.Name | upper}}  {{index .Spec.Labels "a"}}
{{if .Ports}}…{{else}}…{{end}}  {{range .Endpoint.Ports}}{{.PublishedPort}} {{end}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshlb.errors import ConfigError

_TAG = re.compile(r"(?:(?:\s|\\[nt])*\{\{-\s|\{\{)\s*(.*?)\s*(?:\s-\}\}(?:\s|\\[nt])*|\}\})", re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|\||[^\s|"`]+')
_ESCAPES = {r"\t": "\t", r"\n": "\n"}  # as docker reads them outside of {{ }}; inside they are Go's
_HEX = re.compile(r"(?<!\\)\\x([0-9a-fA-F]{2})")  # what JSON lacks of Go's escapes


@dataclass(frozen=True, slots=True)
class _Block:
    """`if` and `range`: what is done, with what, and the parts of the text inside."""

    kind: str
    words: tuple[str, ...]
    inside: tuple[_Part, ...]
    otherwise: tuple[_Part, ...]


_Part = str | tuple[str, ...] | _Block  # text, an expression, a block


class Template:
    """A template, read once; ConfigError says what of it is not understood."""

    def __init__(self, text: str, *, titles: bool = False) -> None:
        self._text = text
        self._functions = _TITLES if titles else _FUNCTIONS
        self._parts, end = self._read(iter(_pieces(text)))
        if end:
            raise self._wrong(f"{{{{{end}}}}} stands alone")

    def fill(self, value: Any) -> str:
        """The text for one value; a field that is not there is a ConfigError."""
        return "".join(self._filled(self._parts, value))

    def fields(self) -> list[str]:
        """The names of the value's own fields that the template asks for outside of blocks."""
        words = [word for part in self._parts if isinstance(part, tuple) for word in part]
        return [word[1:].partition(".")[0] for word in words if re.fullmatch(r"\.\w[\w.]*", word)]

    def _read(self, pieces: Iterator[_Part]) -> tuple[tuple[_Part, ...], str]:
        """Parts up to `else`, `end` or the end; which of them it was."""
        parts: list[_Part] = []
        for piece in pieces:
            if not isinstance(piece, tuple):
                parts.append(piece)
            elif piece[:1] in (("end",), ("else",)):
                return tuple(parts), piece[0]
            elif piece[:1] in (("if",), ("range",)):
                parts.append(self._block(piece, pieces))
            else:
                parts.append(piece)
        return tuple(parts), ""

    def _block(self, words: tuple[str, ...], pieces: Iterator[_Part]) -> _Block:
        inside, end = self._read(pieces)
        otherwise: tuple[_Part, ...] = ()
        if end == "else":
            otherwise, end = self._read(pieces)
        if end != "end":
            raise self._wrong(f"{{{{{words[0]}}}}} lacks its {{{{end}}}}")
        return _Block(words[0], words[1:], inside, otherwise)

    def _filled(self, parts: Iterable[_Part], value: Any) -> Iterator[str]:
        for part in parts:
            if isinstance(part, str):
                yield part
            elif isinstance(part, _Block):
                yield from self._block_filled(part, value)
            else:
                yield _shown(self._value(part, value))

    def _block_filled(self, block: _Block, value: Any) -> Iterator[str]:
        found = self._value(block.words, value)
        if not found:
            yield from self._filled(block.otherwise, value)
        elif block.kind == "if":
            yield from self._filled(block.inside, value)
        else:
            for item in self._items(found, block):
                yield from self._filled(block.inside, item)

    def _items(self, found: Any, block: _Block) -> Iterable[Any]:
        if isinstance(found, Mapping):  # Go goes through them in the order of their keys
            return (found[key] for key in sorted(found))
        if not isinstance(found, list | tuple):
            raise self._wrong(f'"{" ".join(block.words)}" is no list')
        return found

    def _value(self, words: tuple[str, ...], value: Any) -> Any:
        stages = _split(words)
        result: list[Any] = []
        for stage in stages:
            result = [self._called(stage, value, result)]
        return result[0] if result else ""

    def _called(self, words: list[str], value: Any, last: list[Any]) -> Any:
        first, *rest = words or [""]
        function = self._functions.get(first)
        if function is None:
            if rest or last or not first.startswith((".", '"', "`")):
                raise self._wrong(f'"{first}" is not one of {", ".join(_FUNCTIONS)}, nor a field such as .ID')
            return self._argument(first, value)
        try:
            return function(*(self._argument(word, value) for word in rest), *last)
        except (TypeError, KeyError, IndexError, ValueError, AttributeError):
            raise self._wrong(f'"{" ".join(words)}" cannot be worked out') from None

    def _argument(self, word: str, value: Any) -> Any:
        if word[:1] in ('"', "`"):
            return self._text_of(word)
        if re.fullmatch(r"-?\d{1,9}", word):
            return int(word)
        if not word.startswith("."):
            raise self._wrong(f'"{word}" is not a field such as .ID')
        for name in filter(None, word.split(".")):
            if not isinstance(value, Mapping) or name not in value:
                known = ", ".join(map(str, value)) if isinstance(value, Mapping) else "no fields"
                raise self._wrong(f'"{name}" is not there: there is {known}')
            value = value[name]
        return value

    def _text_of(self, word: str) -> str:
        if word[0] == "`":
            return word[1:-1]
        try:
            return str(json.loads(_HEX.sub(r"\\u00\1", word), strict=False))
        except ValueError:
            raise self._wrong(f"{word} has an escape that is none") from None

    def _wrong(self, why: str) -> ConfigError:
        return ConfigError(f"--format: in {self._text!r}, {why}")


def _pieces(text: str) -> Iterator[_Part]:
    place = 0
    for match in _TAG.finditer(text):
        if match.start() > place:
            yield _unescaped(text[place : match.start()])
        if not match[1].startswith("/*"):
            yield tuple(_WORD.findall(match[1]))
        place = match.end()
    if "{{" in text[place:]:
        raise ConfigError(f"--format: in {text!r}, a {{{{ has no }}}}")
    if text[place:]:
        yield _unescaped(text[place:])


def _unescaped(text: str) -> str:
    for escape, mark in _ESCAPES.items():
        text = text.replace(escape, mark)
    return text


def _split(words: Iterable[str]) -> list[list[str]]:
    stages: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            stages.append([])
        else:
            stages[-1].append(word)
    return stages


def _shown(value: Any) -> str:
    """A value as Go prints it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "<no value>"
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{key}:{_shown(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(_shown, value))}]"
    return str(value)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key, "") if isinstance(value, Mapping) else value[key]
    return value


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": _json,
    "upper": lambda text: _shown(text).upper(),
    "lower": lambda text: _shown(text).lower(),
    "title": lambda text: _shown(text).title(),
    "len": len,
    "index": _index,
    "join": lambda items, by: by.join(map(_shown, items)),
    "split": lambda text, by: str(text).split(by),
    "truncate": lambda text, most: _shown(text)[:most],
    "println": lambda *items: " ".join(map(_shown, items)) + "\n",
    "eq": lambda one, *others: one in others,
    "ne": lambda one, other: one != other,
    "not": lambda value: not value,
}

# What they make of a column's title: nothing.
_TITLES = dict.fromkeys(
    _FUNCTIONS, lambda *words: next((word for word in words if isinstance(word, str)), "")
)
