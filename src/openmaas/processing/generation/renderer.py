"""The child process that renders a chat template: `python -I renderer.py`, started by template.py and probe.py.

A template is a program that came with a model. Here it runs in Jinja's sandbox, in a process without secrets in its
environment, that can open no file and no socket, and whose memory and time are limited. It is run by its path, so that it
imports nothing of OpenMaaS and is there within a tenth of a second. Over stdin and stdout go JSON texts behind their length in
4 bytes (the most significant first), never pickle. The first is an Order, each later one what a template is given; each is
answered by {"text": …} or {"error": kind, "message": …}. It ends with its input.

Conventions are those of transformers.utils.chat_template_utils, by which templates are written.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, BinaryIO, NoReturn, TypedDict

import jinja2.debug
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


class Order(TypedDict):
    """template: its text. memory: bytes. seconds: of processor time for one rendering, up to one more.
    output: the most characters of one."""

    template: str
    memory: int
    seconds: int
    output: int


class Refused(TemplateError):
    """The template's own words: it does not take this conversation."""


class TooLong(Exception):
    """What was rendered is longer than allowed."""


class GenerationTag(Extension):
    """{% generation %}…{% endgeneration %} marks for training what a model wrote; here it is as if the tags were not there."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class PlainNamespace(Namespace):
    """Without attributes that begin with an underscore, as transformers has it."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # as Jinja's own, so that `self` may be a name
        self, rest = args[0], args[1:]
        given = dict(*rest, **kwargs)
        for name in given:
            _require_plain(name)
        Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_plain(name)
        super().__setitem__(name, value)


def _require_plain(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"A namespace has no attribute {name!r}.")


def environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals |= {"raise_exception": _refuse, "strftime_now": _now, "namespace": PlainNamespace}
    return made


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: Any) -> NoReturn:
    raise Refused(str(message))


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def main() -> None:
    source, target = sys.stdin.buffer, sys.stdout.buffer
    if (first := _read(source)) is None:
        return
    order: Order = json.loads(first)
    # What is read from files at its first use (codecs, the time zone) is used while they can still be opened.
    environment().from_string(r"{{ ['\n', strftime_now('%c')] | tojson | wordwrap | pprint }}").render()
    for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_DATA, order["memory"])):
        _limit(limit, value)
    _limit(resource.RLIMIT_NOFILE, 3)
    renderer = Renderer(order)
    _write(target, renderer.made)
    while (given := _read(source)) is not None:
        _write(target, renderer.reply(given))


def _limit(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    # That of the processor's time is raised again and again, so its hard limit stays.
    resource.setrlimit(limit, (allowed, hard if limit == resource.RLIMIT_CPU else allowed))


class Renderer:
    """made: whether the template could be compiled, in the form of a reply."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._template: jinja2.Template | None = None
        self.made = self._guarded(self._compile)

    def reply(self, given: bytes) -> dict[str, str]:
        """given: JSON of an object with what the template may name."""
        return self._guarded(lambda: self._render(given))

    def _compile(self) -> str:
        self._template = environment().from_string(self._order["template"])
        return ""

    def _render(self, given: bytes) -> str:
        if self._template is None:
            raise TemplateError("it could not be compiled")
        pieces, room = [], self._order["output"]
        for piece in self._template.generate(json.loads(given)):
            room -= len(piece)
            if room < 0:
                raise TooLong
            pieces.append(piece)
        return "".join(pieces)

    def _guarded(self, work: Callable[[], str]) -> dict[str, str]:
        # Kills also what hangs after the process that waits for it has died.
        _limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + self._order["seconds"])
        try:
            return {"text": work()}
        except MemoryError:
            return {"error": "memory", "message": ""}
        except TooLong:
            return {"error": "output", "message": ""}
        except Refused as refused:
            return {"error": "refused", "message": str(refused)[:2000]}
        except Exception as error:
            return {"error": "failed", "message": f"{type(error).__name__}: {str(error)[:2000]}"}


def _read(source: BinaryIO) -> bytes | None:
    """None at the end of the input."""
    head = source.read(4)
    return source.read(int.from_bytes(head, "big")) if len(head) == 4 else None


def _write(target: BinaryIO, reply: Mapping[str, str]) -> None:
    data = json.dumps(reply).encode()
    target.write(len(data).to_bytes(4, "big") + data)
    target.flush()


if __name__ == "__main__":
    main()
