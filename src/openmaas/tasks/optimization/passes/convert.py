"""Another kind of artifact, by the converters that `openmaas convert` uses. Text generators: tasks/generators.py."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

from openmaas.core.manifest import Artifact
from openmaas.core.recipes import Convert
from openmaas.formats.converters import Conversion, find_route
from openmaas.tasks.comparing import sample_of
from openmaas.tasks.optimization.base import Arrays, Bench, Piece, cannot

TAKES = tuple(sorted({entry.name.partition(".")[0] for entry in entry_points(group="openmaas.converters")}))


def run(piece: Piece, parameters: Convert, bench: Bench) -> Piece:
    """Raises InvalidInput where there is no way from the piece's kind to the other, and what a converter raises."""
    if piece.artifact.kind == parameters.to:
        return piece.changed(piece.artifact, piece.folder, f"It is {parameters.to} already.")
    if parameters.weights or parameters.calibrated:
        raise cannot(parameters, "weights are chosen for text generators, and this version is none", "Use quantize, or cast.")
    artifact, chain = find_route([piece.artifact], parameters.to)
    folder, sample = piece.folder, _sample(piece, bench)
    for number, converter in enumerate(chain, 1):
        python = bench.job.environment(converter.environment) if converter.environment else Path(sys.executable)
        bench.progress(f"converting {converter.source} to {converter.target}", number - 1, len(chain))
        output = bench.folder / f"{number}-{converter.target}"
        output.mkdir()
        artifact = converter.convert(
            Conversion(
                folder=folder, artifact=artifact, manifest=piece.manifest, sample=sample, output=output, python=python,
                log=bench.log,
            )
        )  # fmt: skip
        folder = output
    _drop_answers(folder, artifact)
    return piece.changed(artifact, folder, converted={"from": piece.artifact.kind, "to": artifact.kind})


def _sample(piece: Piece, bench: Bench) -> Arrays:
    """A few engine inputs: of the training set, else of the version's sample, else made up."""
    if bench.training is not None:
        return {name: array[:32] for name, array in bench.training.inputs.items()}
    if piece.manifest.sample is None:
        return sample_of(piece.manifest, piece.folder)[0]
    _, folder = bench.job.files(str(bench.job.arguments["version"]))
    return sample_of(piece.manifest, folder)[0]


def _drop_answers(folder: Path, artifact: Artifact) -> None:
    """Some converters leave the source's answers beside the result, for a comparison that is made by other means here."""
    answers = folder / "expected.npz"
    if artifact.entry != answers.name:
        answers.unlink(missing_ok=True)
