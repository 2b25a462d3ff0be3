"""A curl and a Python call that work as they are printed."""

from __future__ import annotations

import json
import math
import shlex
from textwrap import indent
from typing import TYPE_CHECKING, Any

from openmaas.cli.i18n import _

if TYPE_CHECKING:
    from pathlib import Path

    from openmaas.client import Client
    from openmaas.core.types import Signature, TensorSpec

_INLINE = 80  # values that a command line still shows
_LENGTH = 8  # along a dynamic axis that is not the batch's
_QUESTION = "What is on your mind?"
_BEGINNING = "Once upon a time"
_NUMPY = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64", "BF16": "float32"}


def print_snippets(client: Client, deployment: str, reference: str) -> None:
    """Print both, with one row of made-up input."""
    from openmaas.cli.console import Styled, write
    from openmaas.client.predictions import decode_signature

    manifest = client.show(reference).manifest
    given = (manifest.get("processing") or {}).get("input")
    generator = manifest.get("generator")
    if generator is not None:
        chats = bool(generator.get("chat_template"))
        snippets = text_curl(client, deployment, chats), text_python(client, deployment, chats)
    elif given is not None:
        snippets = raw_curl(client, deployment, given), raw_python(deployment, given)
    else:
        signature = decode_signature(manifest)
        snippets = curl(client, deployment, signature), python(deployment, signature)
    for title, code in zip((_("curl"), _("Python")), snippets, strict=True):
        write()
        write(Styled((title, "head")))
        write(indent(code, "  "))


def curl(client: Client, deployment: str, signature: Signature) -> str:
    """A request with JSON. What is too long to show is made by a line of Python."""
    command = _command(client, f"v2/models/{deployment}/infer", "application/json")
    tensors = [_tensor(spec) for spec in signature.inputs]
    if sum(len(tensor["data"]) for tensor in tensors) <= _INLINE:
        return f"{command}-d '{json.dumps({'inputs': tensors})}'"
    made = ", ".join(
        f'{{"name": {json.dumps(t["name"])}, "datatype": "{t["datatype"]}", "shape": {t["shape"]}, '
        f'"data": [{_literal(t["data"][0])}] * {len(t["data"])}}}'
        for t in tensors
    )
    return f"python3 -c 'import json; print(json.dumps({{\"inputs\": [{made}]}}))' | {command}-d @-"


def text_curl(client: Client, deployment: str, chats: bool) -> str:
    """A question to a generator, or a text to go on with where it has no chat template."""
    path = "v1/chat/completions" if chats else "v1/completions"
    asked = {"messages": [{"role": "user", "content": _QUESTION}]} if chats else {"prompt": _BEGINNING}
    return _command(client, path, "application/json") + f"-d '{json.dumps({'model': deployment, **asked})}'"


def text_python(client: Client, deployment: str, chats: bool) -> str:
    """The same by OpenAI's client."""
    lines = [
        "import openai, pathlib" if _key_file(client) else "import openai, os",
        "",
        f'client = openai.OpenAI(base_url="{client.server.gateway_url}/v1", api_key={_key_python(client)})',
    ]
    if chats:
        asked = f'messages=[{{"role": "user", "content": "{_QUESTION}"}}]'
        lines.append(f'for piece in client.chat.completions.create(model="{deployment}", {asked}, stream=True):')
        lines.append('    print(piece.choices[0].delta.content or "", end="", flush=True)')
    else:
        lines.append(f'print(client.completions.create(model="{deployment}", prompt="{_BEGINNING}").choices[0].text)')
    return "\n".join(lines)


def raw_curl(client: Client, deployment: str, given: dict[str, Any]) -> str:
    """A request as people have it: a picture, a text, a row of a table."""
    kind, body = _raw(given)
    data = f"--data-binary @{body}" if given["kind"] == "image" else f"-d {shlex.quote(body)}"
    return _command(client, f"predict/{deployment}", kind) + data


def raw_python(deployment: str, given: dict[str, Any]) -> str:
    """The same by the client."""
    kind, body = _raw(given)
    made, data = ("import pathlib, openmaas", f'pathlib.Path("{body}").read_bytes()') if given["kind"] == "image" else (
        "import openmaas", repr(body.encode())
    )  # fmt: skip
    return f'{made}\n\nclient = openmaas.Client()\nprint(client.predict_raw("{deployment}", {data}, "{kind}"))'


def _raw(given: dict[str, Any]) -> tuple[str, str]:
    """Content type and body; of an image the name of a file that the reader has."""
    if given["kind"] == "image":
        return "image/png", "photo.png"
    if given["kind"] == "text":
        return "application/json", json.dumps({"text": _QUESTION})
    return "application/json", json.dumps({column["name"]: _value(column) for column in given["columns"]})


def _value(column: dict[str, Any]) -> Any:
    categories = column.get("categories")
    return categories[0] if categories else _filler(column["datatype"])


def _command(client: Client, path: str, content_type: str) -> str:
    options = "" if not client.server.ca else f"--cacert {client.server.ca} "
    headers = f'-H "Authorization: Bearer {_key_text(client)}" -H "Content-Type: {content_type}"'
    return f"curl -s {options}{client.server.gateway_url}/{path} \\\n  {headers} \\\n  "


def _literal(value: Any) -> str:
    return str(value) if isinstance(value, bool) else json.dumps(value)


def _key_file(client: Client) -> Path | None:
    """Where the key that is used lies, if it does."""
    from openmaas.client import home_path

    path = home_path() / "admin.key"
    try:
        return path if path.read_text().strip() == client.server.api_key else None
    except OSError:
        return None


def _key_text(client: Client) -> str:
    """How a shell finds the key, without showing it."""
    path = _key_file(client)
    return "$OPENMAAS_API_KEY" if path is None else f"$(cat {path})"


def _key_python(client: Client) -> str:
    """The same for Python."""
    path = _key_file(client)
    return 'os.environ["OPENMAAS_API_KEY"]' if path is None else f'pathlib.Path("{path}").read_text().strip()'


def _shape(spec: TensorSpec) -> list[int]:
    return [axis if axis >= 0 else (1 if index == 0 else _LENGTH) for index, axis in enumerate(spec.shape)]


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = _shape(spec)
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": [_filler(spec.datatype)] * math.prod(shape)}


def _filler(datatype: str) -> Any:
    """Some value of a type."""
    if datatype.startswith(("FP", "BF")):
        return 0.5
    return {"BYTES": "text", "BOOL": False}.get(datatype, 0)


def python(deployment: str, signature: Signature) -> str:
    """The same by the client."""
    arrays = {spec.name: _array(spec) for spec in signature.inputs}
    if len(arrays) == 1:
        data = next(iter(arrays.values()))
    else:
        data = "{" + ", ".join(f"{name!r}: {array}" for name, array in arrays.items()) + "}"
    return f'import numpy, openmaas\n\nclient = openmaas.Client()\nprint(client.predict("{deployment}", {data}))'


def _array(spec: TensorSpec) -> str:
    shape = tuple(_shape(spec))
    if spec.datatype == "BYTES":
        return f'numpy.full({shape}, "text")'
    fill = 0.5 if spec.datatype.startswith(("FP", "BF")) else 0
    return f'numpy.full({shape}, {fill}, "{_NUMPY.get(spec.datatype, spec.datatype.lower())}")'
