"""Pack the file: what no engine reads is left out, and the rest is compressed by xz. Every answer stays the same to the bit."""

from __future__ import annotations

from dataclasses import replace

from openmaas.core.manifest import Artifact
from openmaas.core.packed import MOST_BYTES, is_packed, pack
from openmaas.core.recipes import Compress
from openmaas.tasks.optimization.base import UNPACKED, Bench, Piece, cannot
from openmaas.tasks.optimization.graphs import strip

TAKES = ("onnx",)
_NAME = "model.onnx.xz"


def run(piece: Piece, parameters: Compress, bench: Bench) -> Piece:
    """The piece with its file packed; as it is, with a note, where that makes it no smaller. Raises Refused beyond 2 GiB."""
    import onnx

    if is_packed(piece.path):
        return piece.changed(piece.artifact, piece.folder, "The file is packed already.")
    model = onnx.load(piece.path)  # with what lies in files beside it
    before = sum(path.stat().st_size for path in piece.folder.rglob("*") if path.is_file())
    if model.ByteSize() > MOST_BYTES:
        raise cannot(parameters, f"the model has {before} bytes, more than one file can hold", "Leave the step out.")
    strip(model)
    packed = pack(
        model.SerializeToString(deterministic=True), lambda done, total: bench.progress("packing the file", done, total)
    )
    if len(packed) >= before:
        return piece.changed(piece.artifact, piece.folder, f"Packing did not make the file smaller: {before} bytes.")
    (bench.folder / _NAME).write_bytes(packed)
    bench.log(f"packed: {before} → {len(packed)} bytes")
    artifact = Artifact(kind="onnx", entry=_NAME, options=piece.artifact.options)
    made = piece.changed(artifact, bench.folder, packed={"before": before, "after": len(packed)})
    return replace(made, notes=tuple(note for note in made.notes if note != UNPACKED))
