"""Models one after the other as one graph: the outputs of each are the inputs of the next."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from openmaas.core.manifest import Manifest
from openmaas.core.processing import Embedding, Labels, Processing
from openmaas.core.recipes import Merge
from openmaas.core.types import Signature, TensorSpec
from openmaas.tasks.optimization.base import Bench, Piece, cannot
from openmaas.tasks.optimization.graphs import onnx_of, read_graph, write_graph


class _Link(NamedTuple):
    reference: str
    manifest: Manifest
    model: Any


def chain(piece: Piece, parameters: Merge, bench: Bench) -> Piece:
    """One graph with the first's inputs and the last's outputs, and a manifest that says so.

    An input of the next takes the output of its name; where not all have one, each takes the first output left over whose type
    and shape agree. Raises Refused that names the input that nothing can be given to.
    """
    first = _Link(str(bench.job.arguments.get("version", "the first version")), piece.manifest, read_graph(piece.path))
    links = [first, *(_read(reference, parameters, bench) for reference in parameters.versions)]
    _unify(links, parameters)
    _require_other_names(links, parameters)
    joined, wiring, notes = _prefixed(links[0], 0, links), [], list[str]()
    for number, (before, after) in enumerate(itertools.pairwise(links), 1):
        bench.progress(f"joining {after.reference}", number, len(links))
        pairs = _pairs(before, after, parameters)
        wiring.append({"from": before.reference, "to": after.reference, "tensors": dict(pairs)})
        notes += [f"{before.reference} gives {name!r} to {given!r} of {after.reference}." for name, given in pairs]
        notes += _untold(before, after)
        joined = _join(joined, _prefixed(after, number, links), pairs, number)
    artifact = write_graph(joined, bench.folder, piece.artifact.options)
    changed = piece.changed(artifact, bench.folder, *notes, merge={"method": "chain", "chain": wiring})
    return replace(changed, manifest=_manifest(piece.manifest, links))


def _read(reference: str, parameters: Merge, bench: Bench) -> _Link:
    manifest, folder = bench.source(reference)
    artifact = onnx_of(manifest)
    if artifact is None:
        raise cannot(parameters, f"{reference} has no ONNX form", f"Convert it: openmaas convert {reference} --to onnx.")
    return _Link(reference, manifest, read_graph(folder / artifact.entry))


def _require_other_names(links: list[_Link], parameters: Merge) -> None:
    inputs = {value.name for value in links[0].model.graph.input}
    for value in links[-1].model.graph.output:
        if value.name in inputs:
            raise cannot(
                parameters,
                f"{value.name!r} is an input of {links[0].reference} and an output of {links[-1].reference}, and one graph "
                "cannot have both",
                "Export one of them with another name.",
            )


def _manifest(first: Manifest, links: list[_Link]) -> Manifest:
    """The first's with the last's outputs. Padding is not kept: whether it changes an answer is to be proved anew."""
    last = links[-1].manifest
    given = first.processing.input if first.processing else None
    taken = last.processing.output if last.processing else None
    return msgspec.structs.replace(
        first,
        signature=Signature(inputs=first.signature.inputs, outputs=last.signature.outputs),
        processing=Processing(input=given, output=taken) if given or taken else None,
        batchable=all(link.manifest.batchable for link in links),
        padding=None,
    )


# ── what goes where ──────────────────────────────────────────────────────────────────────────────────────────────────


def _pairs(before: _Link, after: _Link, parameters: Merge) -> list[tuple[str, str]]:
    outputs = list(before.manifest.signature.outputs)
    inputs = after.manifest.signature.inputs
    by_name = {spec.name: spec for spec in outputs}
    if all(spec.name in by_name for spec in inputs):
        for spec in inputs:
            if wrong := _disagreement(by_name[spec.name], spec):
                raise cannot(
                    parameters,
                    f"{before.reference} gives {spec.name!r} as {_told(by_name[spec.name])}, and {after.reference} takes "
                    f"{_told(spec)} ({wrong})",
                    "Chain versions whose outputs and inputs agree.",
                )
        return [(spec.name, spec.name) for spec in inputs]
    pairs = []
    for spec in inputs:
        match = next((output for output in outputs if not _disagreement(output, spec)), None)
        if match is None:
            told = ", ".join(f"{output.name!r} {_told(output)}" for output in before.manifest.signature.outputs)
            raise cannot(
                parameters,
                f"no output of {before.reference} is left for the input {spec.name!r} {_told(spec)} of {after.reference}; "
                f"there are {told}",
                "Chain versions whose outputs and inputs agree in type and shape.",
            )
        outputs.remove(match)
        pairs.append((match.name, spec.name))
    return pairs


def _disagreement(output: TensorSpec, needed: TensorSpec) -> str:
    if output.datatype != needed.datatype:
        return "another type"
    if len(output.shape) != len(needed.shape):
        return "another number of axes"
    unequal = any(-1 not in (mine, theirs) and mine != theirs for mine, theirs in zip(output.shape, needed.shape, strict=True))
    return "another length" if unequal else ""


def _told(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)}"


def _untold(before: _Link, after: _Link) -> list[str]:
    """What the versions declare around their graphs, and the chain leaves out."""
    notes = []
    output = before.manifest.processing.output if before.manifest.processing else None
    if isinstance(output, Labels) and output.activation != "none":
        notes.append(
            f"The {output.activation} that {before.reference} declares is no part of its graph: scores go on as they are."
        )
    if isinstance(output, Embedding) and (output.pooling != "none" or output.normalize):
        notes.append(f"Pooling and length 1 of the embeddings of {before.reference} are no part of its graph.")
    if after.manifest.processing and after.manifest.processing.input is not None:
        notes.append(f"What {after.reference} does to its callers' inputs is left out: its graph takes tensors as they come.")
    return notes


# ── joining graphs ───────────────────────────────────────────────────────────────────────────────────────────────────


def _unify(links: list[_Link], parameters: Merge) -> None:
    """Bring all to the newest operators and file version among them, in place."""
    from onnx import version_converter

    newest = max((one.version for link in links for one in link.model.opset_import if not one.domain), default=0)
    for number, link in enumerate(links):
        model = link.model
        version = next((one.version for one in model.opset_import if not one.domain), None)
        if version is None:
            model.opset_import.add(domain="", version=newest)
        elif version != newest:
            try:
                model = version_converter.convert_version(model, newest)
            except Exception as error:
                raise cannot(
                    parameters,
                    f"{link.reference} uses operators of version {version}, which cannot be rewritten in version {newest}: "
                    f"{str(error)[:200]}",
                    "Export the versions with the same opset.",
                ) from None
        links[number] = link._replace(model=model)
    domains: dict[str, int] = {}
    for link in links:
        for one in link.model.opset_import:
            if domains.setdefault(one.domain, one.version) != one.version:
                domains[one.domain] = max(domains[one.domain], one.version)
    for link in links:
        link.model.ir_version = max(other.model.ir_version for other in links)
        for one in link.model.opset_import:
            one.version = domains[one.domain]


def _prefixed(link: _Link, number: int, links: list[_Link]) -> Any:
    """The graph with a prefix before all of its names, except the chain's own inputs and outputs."""
    from onnx import compose

    return compose.add_prefix(link.model, _prefix(number), rename_inputs=number > 0, rename_outputs=number < len(links) - 1)


def _prefix(number: int) -> str:
    return f"chain-{number}/"


def _join(first: Any, second: Any, pairs: list[tuple[str, str]], number: int) -> Any:
    from onnx import compose

    return compose.merge_models(
        first,
        second,
        io_map=[(_prefix(number - 1) + output, _prefix(number) + given) for output, given in pairs],
        outputs=[value.name for value in second.graph.output],
        producer_name="openmaas",
    )
