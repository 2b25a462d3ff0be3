"""A Python function as a version, once an admin has approved its code by the digest of all of its files.

openmaas.yaml says `format: function`, the entry and the signature. The code is read as data at push. It is run there only where
the pusher declares that requests may share a batch, which is then proved.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from openmaas.core.errors import EngineFailed, InvalidInput, Refused
from openmaas.core.manifest import Artifact
from openmaas.core.types import Signature
from openmaas.formats.base import Examined, Format, Task
from openmaas.formats.description import FILE_NAME, read_description, refuse_unused

_MAX_SOURCE = 4 << 20


class FunctionFormat(Format):
    name = "function"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        if FILE_NAME not in files or read_description(folder).format != self.name:
            return []
        return [file for file in files if file.endswith(".py")]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.engines.function import code_digest

        description = task.description
        refuse_unused(description, self.name, "options")
        if description.signature is None:
            raise InvalidInput(
                f"A function needs its signature in {FILE_NAME}.",
                code="signature_needed",
                next_step="Write its inputs and outputs: {name: x, datatype: FP32, shape: [-1, 4]}.",
            )
        _require_predict(task.folder / entry, entry)
        digest = code_digest(task.folder, entry)
        if digest not in task.approved:
            raise Refused(
                f"A function is code that the server would run. The digest of its Python files is {digest}.",
                code="code_refused",
                next_step=f"If you trust it, an admin may run: openmaas approve {digest}",
            )
        signature = Signature(inputs=description.signature.inputs, outputs=description.signature.outputs)
        found = Examined(
            format=self.name,
            engine="function",
            entry=entry,
            artifacts=(Artifact(kind="function", entry=entry, options={"sha256": digest}),),
            signature=signature,
            batching=f"Requests run one by one unless {FILE_NAME} says batchable: true.",
        )
        return _proved(task, found) if description.batchable else _with_sample(task, found)


def _require_predict(path: Path, entry: str) -> None:
    """Raises InvalidInput where the file is no Python or names no `predict` at its top level. Nothing is run."""
    if path.stat().st_size > _MAX_SOURCE:
        raise InvalidInput(f"{entry!r} has {path.stat().st_size} bytes; at most {_MAX_SOURCE} are read.", code="invalid_code")
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise InvalidInput(f"{entry!r} is not Python: {reason[:200]}.", code="invalid_code") from None
    if "predict" not in {name for statement in body for name in _names(statement)}:
        raise InvalidInput(
            f"{entry!r} defines no function 'predict'.",
            code="invalid_code",
            next_step="Write: def predict(inputs: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray].",
        )


def _names(statement: ast.stmt) -> list[str]:
    """What a statement defines, as far as a module's own names go."""
    match statement:
        case ast.FunctionDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.ImportFrom(names=names):
            return [alias.asname or alias.name for alias in names]
    return []


def _with_sample(task: Task, found: Examined) -> Examined:
    """The sample fits the signature; what the function answers to it is not known yet."""
    import msgspec

    from openmaas.formats.kept import keep_sample
    from openmaas.formats.sample import fit, read_sample, split_expected

    if task.sample is None:
        return found
    inputs, expected = split_expected(read_sample(task.folder / task.sample))
    sample, added = keep_sample(task, found.signature, fit(inputs, found.signature.inputs), expected)
    return msgspec.structs.replace(found, sample=sample, added=added)


def _proved(task: Task, found: Examined) -> Examined:
    """The function run on several rows at once and one by one. Raises InvalidInput where the answers are not the same."""
    import msgspec

    from openmaas.core.made_up import make_up
    from openmaas.engines.function import call_function, load_function
    from openmaas.formats import batching
    from openmaas.formats.compare import compare
    from openmaas.formats.kept import keep_sample
    from openmaas.formats.sample import fit, read_sample, split_expected, stretch

    signature = found.signature
    inputs, origin = make_up(signature.inputs, batching.BATCH), "generated"
    expected: batching.Arrays = {}
    if task.sample is not None:
        given, expected = split_expected(read_sample(task.folder / task.sample))
        inputs, origin = fit(given, signature.inputs), "given"
    try:
        predict = load_function(task.folder, found.entry)
        answers = call_function(predict, inputs, signature, task.folder)
    except EngineFailed as error:
        raise Refused(f"On the {origin} sample: {error.message}", code="model_not_runnable") from None
    if expected and (wrong := compare(len(next(iter(inputs.values()))), answers, expected)[1]):
        raise Refused(f"The function does not give the answers that came with the sample: {wrong}.", code="parity_failed")

    def run(rows: batching.Arrays) -> batching.Arrays:
        return call_function(predict, rows, signature, task.folder)

    verdict = batching.prove(run, signature, stretch(inputs, batching.BATCH), origin)
    batchable, why = batching.as_declared(task.description.batchable, verdict)
    sample, added = keep_sample(task, signature, inputs, answers)
    return msgspec.structs.replace(found, batchable=batchable, batching=why, sample=sample, added=added)
