"""A curl and a Python call that work as they are printed."""

from __future__ import annotations

import json
import math
from textwrap import indent
from typing import TYPE_CHECKING, Any

from openmaas.cli.i18n import _

if TYPE_CHECKING:
    from openmaas.client import Client
    from openmaas.core.types import Signature, TensorSpec

_INLINE = 80  # values that a command line still shows
_LENGTH = 8  # along a dynamic axis that is not the batch's
_NUMPY = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64", "BF16": "float32"}


def print_snippets(client: Client, deployment: str, reference: str) -> None:
    """Print both, with one row of made-up input."""
    from openmaas.cli.console import Styled, write
    from openmaas.client.predictions import decode_signature

    signature = decode_signature(client.show(reference).manifest)
    for title, code in ((_("curl"), curl(client, deployment, signature)), (_("Python"), python(deployment, signature))):
        write()
        write(Styled((title, "head")))
        write(indent(code, "  "))


def curl(client: Client, deployment: str, signature: Signature) -> str:
    """A request with JSON. What is too long to show is made by a line of Python."""
    url = f"{client.server.gateway_url}/v2/models/{deployment}/infer"
    options = "" if not client.server.ca else f"--cacert {client.server.ca} "
    headers = f'-H "Authorization: Bearer {_key_text(client)}" -H "Content-Type: application/json"'
    command = f"curl -s {options}{url} \\\n  {headers} \\\n  "
    tensors = [_tensor(spec) for spec in signature.inputs]
    if sum(len(tensor["data"]) for tensor in tensors) <= _INLINE:
        return f"{command}-d '{json.dumps({'inputs': tensors})}'"
    made = ", ".join(
        f'{{"name": {json.dumps(t["name"])}, "datatype": "{t["datatype"]}", "shape": {t["shape"]}, '
        f'"data": [{_literal(t["data"][0])}] * {len(t["data"])}}}'
        for t in tensors
    )
    return f"python3 -c 'import json; print(json.dumps({{\"inputs\": [{made}]}}))' | {command}-d @-"


def _literal(value: Any) -> str:
    return str(value) if isinstance(value, bool) else json.dumps(value)


def _key_text(client: Client) -> str:
    """How a shell finds the key, without showing it."""
    from openmaas.client import home_path

    path = home_path() / "admin.key"
    try:
        return f"$(cat {path})" if path.read_text().strip() == client.server.api_key else "$OPENMAAS_API_KEY"
    except OSError:
        return "$OPENMAAS_API_KEY"


def _shape(spec: TensorSpec) -> list[int]:
    return [axis if axis >= 0 else (1 if index == 0 else _LENGTH) for index, axis in enumerate(spec.shape)]


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = _shape(spec)
    value: Any = "text" if spec.datatype == "BYTES" else False if spec.datatype == "BOOL" else 0
    if spec.datatype.startswith(("FP", "BF")):
        value = 0.5
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": [value] * math.prod(shape)}


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
