"""TorchScript: its code is read before it is loaded, and its compiled graphs before they run.

TorchScript is an interpreter of its own, without Python's functions; but some of its operators open files or call other
machines, and loading an archive may run code of it (`__setstate__`). So what the code may call is a list of ours.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from openmaas.core.errors import EngineFailed, OpenMaaSError, Refused, without_paths
from openmaas.engines.torch.archive import Archive
from openmaas.engines.torch.inert import NotInert, fits, read_script

FORBIDDEN = frozenset(
    {"from_file", "save", "load_tensor", "rpc_async", "rpc_remote", "rpc_sync", "PythonOp", "IgnoredPythonOp"}
)
"""Operators that read or write files, call other machines, or run Python."""
_LIBRARIES = frozenset({"aten", "prim", "quantized", "_quantized", "mkldnn", "mkldnn_prepacked", "sparse", "prepacked"})
_CLASSES = frozenset({"quantized", "sparse", "mkldnn", "xnnpack"})
_PICKLES = ("data.pkl", "constants.pkl")
_UNREAD = ("traced_inputs.pkl",)
_PLAIN = re.compile(rb"[\x20-\x7e\n]*")  # where line ends and names are the same to Python's parser and to TorchScript's
_MAX_CODE = 64 << 20


def check_script(archive: Archive) -> None:
    """Raises Refused (unsafe_model) where the archive holds more than tensors, numbers, text and code that only computes."""
    check_pickles(archive)
    names = [name for name in archive.members if name.startswith("code/") and name.endswith(".py")]
    if sum(archive.size(name) for name in names) > _MAX_CODE:
        raise _unsafe(f"has more than {_MAX_CODE} bytes of code")
    for name in names:
        _check_code(archive.read(name))


def check_pickles(archive: Archive) -> frozenset[str]:
    """The names of the archive's pickles, each of which holds nothing but data. Raises Refused."""
    names = [*_PICKLES, *(name for name in archive.members if name.startswith("code/") and name.endswith(".debug_pkl"))]
    names += [name for name in _UNREAD if name in archive.members]
    for name in names:
        try:
            pickled = read_script(archive.read(name))
        except NotInert as error:
            raise _unsafe(f"has a {name} that is more than data: {error}") from None
        if name not in _UNREAD and not fits(pickled, partial(_size_beside, archive, name.removesuffix(".pkl"))):
            raise _unsafe(f"has tensors in {name} that are longer than their data")
    return frozenset(names)


def _size_beside(archive: Archive, folder: str, key: str) -> int:
    return archive.size(f"{folder}/{key}")


def _check_code(code: bytes) -> None:
    if not _PLAIN.fullmatch(code):
        raise _unsafe("has code with other characters than printable ASCII")
    try:
        tree = ast.parse(code.decode())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _unsafe("has code that cannot be read before it is run") from None
    text = code.decode()
    for node in ast.walk(tree):
        for name in _names(node, text):
            _check_name(name)


def _names(node: ast.AST, text: str) -> Iterator[str]:
    """What a piece of code names: `torch.add`, `ops.quantized.linear`, or the last part alone where the rest is a value."""
    if isinstance(node, ast.Attribute):
        yield _dotted(node)
    elif isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
        attribute = node.args[1] if len(node.args) > 1 else None
        literal = isinstance(attribute, ast.Constant) and isinstance(attribute.value, str)
        if not literal or ast.get_source_segment(text, attribute) != f'"{attribute.value}"':  # type: ignore[arg-type,union-attr]
            raise _unsafe("names an attribute in a way that cannot be read before it is run")
        yield str(attribute.value)  # type: ignore[union-attr]


def _dotted(node: ast.AST) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id] if isinstance(node, ast.Name) else parts))


def _check_name(name: str) -> None:
    parts = name.split(".")
    if found := FORBIDDEN.intersection(parts):
        raise _unsafe(f"uses {sorted(found)[0]!r}, which reads or writes files, calls other machines or runs Python")
    if parts[0] == "ops" and len(parts) > 1 and parts[1] not in _LIBRARIES:
        raise _unsafe(f"uses operators of the library {parts[1][:60]!r}")
    if "classes" in parts[:-1] and "torch" in parts[:2] and parts[parts.index("classes") + 1] not in _CLASSES:
        raise _unsafe(f"uses a class of the library {parts[parts.index('classes') + 1][:60]!r}")


def _unsafe(what: str) -> Refused:
    return Refused(
        f"The TorchScript file {what}; only what computes is loaded.",
        code="unsafe_model",
        next_step="Push the live module with a sample, or save it with torch.export.save.",
    )


def load_script(path: Path) -> Any:
    """The module in evaluation mode on the CPU, checked before and after it is loaded. Raises Refused, EngineFailed."""
    import torch

    with Archive(path) as archive:
        check_script(archive)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(str(path), map_location="cpu")
            module.eval()
            _check_graphs(module)
    except OpenMaaSError:
        raise
    except Exception as error:
        raise EngineFailed(f"torch cannot load the TorchScript file: {reason(error)}", code="load_failed") from None
    if not hasattr(module, "forward"):
        raise Refused("The TorchScript module has no method 'forward'.", code="not_a_model")
    return module


def _check_graphs(module: Any) -> None:
    """What was compiled may call no more than what its text was allowed to."""
    for part in module.modules():
        for name in part._c._method_names():
            graph = part._c._get_method(name).inlined_graph
            for node in graph.nodes() if graph is not None else ():
                _check_node(node)


def _check_node(node: Any) -> None:
    library, _, operator = node.kind().partition("::")
    if operator in FORBIDDEN or library not in _LIBRARIES:
        raise _unsafe(f"uses the operator {node.kind()[:80]!r}")
    for block in node.blocks():
        for inner in block.nodes():
            _check_node(inner)


def reason(error: Exception) -> str:
    """The library's own words on one line, its last line where there are many, without paths."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    chosen = lines[-1] if lines[0].startswith(("The following operation failed", "Traceback")) else lines[0]
    return without_paths(chosen)[:400].rstrip(". ") + "."
