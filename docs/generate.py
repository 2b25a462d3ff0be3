"""Pages that are made from the code: `python -m docs.generate` writes them, `--check` says which are stale.

docs/commands/*.md   from the command line's own description
docs/passes.md       from core/recipes.py
docs/settings.md     from core/settings.py
docs/errors.md       from core/errors.py, and from every error that the source raises with a code
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import typing
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import typer.main

from openmaas.cli.app import PANELS, build_app
from openmaas.core import errors
from openmaas.core.recipes import PASSES
from openmaas.core.settings import Settings, variable

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "openmaas"
_MADE = "<!-- Made by `make docs` from the code; edit there. -->\n"


def main() -> int:
    """Write the pages, or with --check only compare them. Exit code 1 when a page is stale."""
    pages = dict(generated_pages())
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text() != text]
    stale += [path for path in (DOCS / "commands").glob("*.md") if path not in pages]
    if "--check" in sys.argv[1:]:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(DOCS.parent)} is stale: run `make docs`.\n")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(pages[path]) if path in pages else path.unlink()
        sys.stdout.write(f"{path.relative_to(DOCS.parent)}\n")
    return 0


def generated_pages() -> Iterator[tuple[Path, str]]:
    """Each page's path and text."""
    group: Any = typer.main.get_command(build_app())
    yield DOCS / "commands" / "README.md", _command_index(group)
    for name, command in group.commands.items():
        yield DOCS / "commands" / f"{name}.md", _command_page(name, command)
    yield DOCS / "passes.md", _passes_page()
    yield DOCS / "settings.md", _settings_page()
    yield DOCS / "errors.md", _errors_page()


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


# ── passes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _passes_page() -> str:
    parts = [
        _MADE,
        "# Passes\n\n",
        "What a [recipe](compression.md) may do to a model. Each pass also takes a `seed` of its own.\n",
    ]
    for name, kind in PASSES.items():
        parts += [f"\n## {name}\n\n", inspect.cleandoc(kind.__doc__ or ""), "\n"]
        fields = [field for field in msgspec.structs.fields(kind) if field.name != "seed"]
        if fields:
            rows = ((f"`{one.name}`", _kind(one.type), _parameter_default(one.default)) for one in fields)
            parts += ["\n", _table(("parameter", "", "default"), rows)]
    return "".join(parts)


def _kind(type_: Any) -> str:
    if typing.get_origin(type_) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(type_) if value)
    return {int: "whole number", float: "number", str: "text", bool: "true or false"}.get(type_, "list")


def _parameter_default(value: Any) -> str:
    if value is msgspec.NODEFAULT:
        return "needed"
    return "" if value in ("", ()) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _command_index(group: Any) -> str:
    parts = [
        _MADE,
        "# Commands\n\n",
        "Every command that lists something takes `--json`. Exit codes: 0 done, 1 it failed and says",
    ]
    parts.append(" why, 2 it was written wrongly, 130 interrupted.\n")
    for panel, commands in PANELS.items():
        rows = ((f"[`{name}`]({name}.md)", _first_line(group.commands[name])) for name in commands)
        parts += [f"\n## {panel}\n\n", _table(("command", "what it does"), rows)]
    return "".join(parts)


def _first_line(command: Any) -> str:
    return str(command.help).strip().splitlines()[0]


def _command_page(name: str, command: Any) -> str:
    if not hasattr(command, "commands"):
        return _MADE + _command_text(name, command, "#")
    parts = [_MADE, f"# openmaas {name}\n\n{inspect.cleandoc(command.help)}\n"]
    parts += ["\n" + _command_text(f"{name} {inner}", one, "##") for inner, one in command.commands.items()]
    return "".join(parts)


def _command_text(name: str, command: Any, heading: str) -> str:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option"]
    usage = " ".join(["openmaas", name, *(_argument(param) for param in arguments), "[OPTIONS]"])
    parts = [f"{heading} openmaas {name}\n\n", f"```text\n{usage}\n```\n\n", inspect.cleandoc(command.help), "\n"]
    if arguments:
        rows = ((f"`{param.human_readable_name}`", param.help or "") for param in arguments)
        parts += [f"\n{heading}# Arguments\n\n", _table(("argument", "meaning"), rows)]
    rows = ((_option(param), param.help or "", _default(param)) for param in options)
    parts += [f"\n{heading}# Options\n\n" if options else "", _table(("option", "meaning", "default"), rows) if options else ""]
    return "".join(parts)


def _argument(param: Any) -> str:
    name = param.human_readable_name
    return name if param.required else f"[{name}]"


def _option(param: Any) -> str:
    value = "" if param.is_flag else f" {param.metavar or param.type.name.split()[0].upper()}"
    return ", ".join(f"`{name}{value}`" for name in reversed(param.opts))


def _default(param: Any) -> str:
    return "" if param.is_flag or param.default is None else f"`{param.default}`"


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _settings_page() -> str:
    rows = (
        (f"`{variable(name)}`", f"`{default}`" if default not in ("", None) else "", text)
        for name, default, text in _settings()
    )
    client = (
        ("`OPENMAAS_URL`", "URL of control; without it the server of `OPENMAAS_HOME` is used."),
        ("`OPENMAAS_GATEWAY_URL`", "URL of the gateway; without it the host of `OPENMAAS_URL` at port 8000."),
        ("`OPENMAAS_API_KEY`", "The key; without it `admin.key` of the local server."),
        ("`OPENMAAS_CA`", "PEM file that the server's certificate is checked with; the system's authorities without."),
        ("`OPENMAAS_DEBUG`", "`1` shows the traceback of an unexpected error of the command line."),
    )
    return (
        f"{_MADE}# Settings\n\n"
        "A server reads its settings from the environment; `openmaas up` has options of the same names for some of them, and\n"
        "an option wins. Sizes are bytes, times seconds. A value that is not allowed stops the start with the setting's name\n"
        "and what is allowed.\n\n"
        f"{_table(('variable', 'default', 'meaning'), rows)}\n"
        "## Clients\n\n"
        "The command line and the Python client find their server by these; arguments of `openmaas.Client` win. Proxies named\n"
        "in the environment are not used.\n\n"
        f"{_table(('variable', 'meaning'), iter(client))}"
    )


def _settings() -> Iterator[tuple[str, Any, str]]:
    for field in msgspec.json.schema(Settings)["$defs"]["Settings"]["properties"].items():
        name, schema = field
        yield name, schema.get("default"), schema["description"]


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, order=True)
class Raised:
    """One place in the source that raises an error with a code of its own."""

    code: str
    kind: str
    message: str


def _errors_page() -> str:
    kinds = {kind.__name__: kind for kind in _kinds(errors.OpenMaaSError)}
    tree = (
        (f"`{name}`", str(kind.status), f"`{kind.default_code}`", inspect.getdoc(kind) or "") for name, kind in kinds.items()
    )
    by_code: dict[str, list[Raised]] = defaultdict(list)
    for raised in sorted(set(_raised(set(kinds)))):
        by_code[raised.code].append(raised)
    rows = (
        (
            f"`{code}`",
            "<br>".join(sorted({f"{raised.kind} ({kinds[raised.kind].status})" for raised in found})),
            "<br>".join(dict.fromkeys(raised.message for raised in found)),
        )
        for code, found in sorted(by_code.items())
    )
    return (
        f"{_MADE}# Errors\n\n"
        "Every error that OpenMaaS raises on purpose names its cause, with the value and the limit, and one next step. Over\n"
        'HTTP it is `{"error": message, "code": code, "next_step": …, "request_id": …}` with the status below; 429 and 503\n'
        "carry `Retry-After`. In Python it is the class below, all of them `openmaas.OpenMaaSError`.\n\n"
        f"{_table(('class', 'status', 'code without a closer one', 'meaning'), tree)}\n"
        "## Codes\n\n"
        "`…` stands for what the message names.\n\n"
        f"{_table(('code', 'class', 'message'), rows)}"
    )


def _kinds(kind: type[errors.OpenMaaSError]) -> Iterator[type[errors.OpenMaaSError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _kinds(child)


def _raised(kinds: set[str]) -> Iterator[Raised]:
    """Every call in the source of one of these classes with `code="…"`."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds and node.args:
                for keyword in node.keywords:
                    if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                        yield Raised(str(keyword.value.value), node.func.id, _text(node.args[0]))


def _text(node: ast.expr) -> str:
    """A message as it is written, with … for what is filled in."""
    match node:
        case ast.Constant(str(value)):
            return value
        case ast.JoinedStr(values):
            return "".join(value.value if isinstance(value, ast.Constant) else "…" for value in values)
        case ast.BinOp(left, ast.Add(), right):
            return _text(left) + _text(right)
        case ast.Call(ast.Attribute(ast.Call(ast.Name("_"), [template]), "format")) | ast.Call(ast.Name("_"), [template]):
            return re.sub(r"\{[^}]*\}", "…", _text(template))
        case _:
            return "…"


if __name__ == "__main__":
    sys.exit(main())
