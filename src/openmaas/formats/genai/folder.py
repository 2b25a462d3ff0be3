"""Which graph is a generator's, and what in its folder nobody reads. No graph is loaded."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from openmaas.core.errors import OpenMaaSError
from openmaas.formats.huggingface.folder import CONFIG, is_decoder
from openmaas.formats.huggingface.weights import INDEX, SINGLE, read_json
from openmaas.formats.openvino.xml import is_graph

GRAPH = "openvino_model.xml"
"""The one name that OpenVINO GenAI looks for."""
_START = 64 << 10
_CODE = frozenset({".py", ".pyc", ".so"})


def is_entry(folder: Path, file: str) -> bool:
    """Whether a file is the graph of a generator: it takes input_ids and says which sequences go on, with a decoder's
    config.json beside it. Where the source's own weights lie beside it, they are the model."""
    path = folder / file
    if not is_graph(path) or any((path.parent / name).is_file() for name in (SINGLE, INDEX)):
        return False
    with path.open("rb") as graph:
        start = graph.read(_START)
    if b'"input_ids"' not in start or b'"beam_idx"' not in start:
        return False
    try:
        return is_decoder(read_json(path.with_name(CONFIG)))
    except (OpenMaaSError, OSError):
        return False


def is_idle(file: str) -> bool:
    """Code, which is never run, and hidden files."""
    path = PurePosixPath(file)
    return path.suffix in _CODE or any(part.startswith(".") for part in path.parts)
