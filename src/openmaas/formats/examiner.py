"""The one-shot child that looks into what was pushed: `python -I -m openmaas.formats.examiner`, started by sandbox.py.

A Request as JSON on stdin, a Reply as JSON on stdout. Its limits are set before anything that was pushed is read.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused, WireError, without_paths
from openmaas.core.manifest import Parity
from openmaas.formats.base import Examined, ExaminedDataset, Task, format_named, formats
from openmaas.formats.declared import with_processing
from openmaas.formats.description import FILE_NAME, Description, read_description, refuse_unused
from openmaas.formats.files import file_inside, list_files, sha256_of
from openmaas.formats.parts import without_parts


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A task, and the limits: memory in bytes, seconds of processor time, the parent's process id.

    label: of a dataset, the column that is predicted, where the pusher says it.
    """

    kind: Literal["model", "dataset"] = "model"
    folder: str
    output: str
    sample: str | None = None
    parity: Parity | None = None
    approved: list[str] = []
    label: str | None = None
    memory: int
    seconds: int
    parent: int


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the three."""

    examined: Examined | None = None
    dataset: ExaminedDataset | None = None
    error: WireError | None = None


def main() -> None:
    reply_to = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not end up in the reply
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    _limit(request)
    answer = msgspec.json.encode(_reply(request))
    with os.fdopen(reply_to, "wb") as stream:
        stream.write(answer)


def _limit(request: Request) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not to outlive control
    if os.getppid() != request.parent:
        os._exit(1)
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, request.memory),  # not the address space, of which libraries take much that they never use
        (resource.RLIMIT_FSIZE, request.memory),
        (resource.RLIMIT_CPU, request.seconds),
    ):
        _, hard = resource.getrlimit(limit)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (allowed, allowed))


def _reply(request: Request) -> Reply:
    try:
        if request.kind == "dataset":
            return Reply(dataset=_examine_dataset(request))
        return Reply(examined=examine_folder(request))
    except OpenMaaSError as error:
        return Reply(error=error.to_wire())
    except MemoryError:
        text = f"Examining the {request.kind} takes more than {request.memory} bytes of memory."
        return Reply(error=Refused(text, code="examine_memory", next_step="Raise OPENMAAS_EXAMINE_MEMORY.").to_wire())
    except Exception as failure:
        traceback.print_exc()
        said = without_paths(" ".join(str(failure).split()))[:400]
        text = f"Examining the {request.kind} failed: {type(failure).__name__}: {said}"
        return Reply(error=Refused(text, code="examine_failed").to_wire())


def _examine_dataset(request: Request) -> ExaminedDataset:
    """What the pushed rows are, all of them read. Half of the memory is for the arrays, the rest for reading them."""
    from openmaas.formats.datasets.reading import examine_files

    folder = Path(request.folder)
    return examine_files(folder, list_files(folder), label=request.label, limit=request.memory // 2)


def examine_folder(request: Request) -> Examined:
    """What the pushed files are. Raises InvalidInput or Refused."""
    folder = Path(request.folder)
    files = list_files(folder)
    _refuse_pickles(folder, files, request.approved)
    description = read_description(folder)
    sample = request.sample or description.sample
    if sample is not None:
        file_inside(folder, sample, "The sample")
    task = Task(
        folder=folder,
        output=Path(request.output),
        sample=sample,
        parity=request.parity,
        approved=frozenset(request.approved),
        description=description,
    )
    if description.converted:
        examined = _examine_converted(task)
    else:
        _require_no_claim(request.parity)
        examined = _examine(task, [file for file in files if file != sample])
    _require_proved_padding(description, examined)
    if examined.generator != description.generator:
        refuse_unused(description, examined.format, "generator")
    examined = with_processing(task, examined, files)
    return msgspec.structs.replace(examined, card=description.card, metadata=description.metadata, licence=description.licence)


def _require_no_claim(parity: Parity | None) -> None:
    """A comparison that passed belongs to a converted file; without one it would be stored for something else."""
    if parity is not None and parity.passed:
        raise InvalidInput(
            f"A comparison came with the push, and {FILE_NAME} names no 'converted' file that it belongs to.",
            code="invalid_description",
            next_step=f"Name the file in {FILE_NAME}, or push without 'parity'.",
        )


def _require_proved_padding(description: Description, examined: Examined) -> None:
    """What a format did not prove is not declared for it either; a conversion's own declaration may be dropped."""
    if description.padding is not None and examined.padding is None and description.converted is None:
        raise InvalidInput(
            f"{FILE_NAME} says padding, which nothing here proves for the format {examined.format}.",
            code="padding_not_proved",
            next_step=f"Remove 'padding' from {FILE_NAME}.",
        )


def _refuse_pickles(folder: Path, files: Sequence[str], approved: Sequence[str]) -> None:
    from openmaas.formats.pickles import find_pickle
    from openmaas.formats.torch.weights import PUSH_LIVE, is_saved_by_torch, refuse_weights

    for file in files:
        what = find_pickle(folder / file)
        if what and (digest := sha256_of(folder / file)) not in approved:
            refuse_weights(folder, file)
            other = f"Save it with skops or push the live object. If you trust it, an admin may run: openmaas approve {digest}"
            raise Refused(
                f"{file!r} is {what}: loading it runs whatever code it holds. Its SHA-256 is {digest}.",
                code="pickle_refused",
                next_step=PUSH_LIVE if is_saved_by_torch(folder / file) else other,
            )


def _examine(task: Task, files: Sequence[str]) -> Examined:
    wanted = task.description.format
    candidates = {wanted: format_named(wanted)} if wanted else formats()
    found = [(name, file) for name, kind in candidates.items() for file in kind.find(task.folder, files)]
    if task.description.entry is not None:
        found = [(name, file) for name, file in found if file == task.description.entry]
    else:
        found = without_parts(found, candidates)
    if not found:
        from openmaas.formats.torch.weights import refuse_weights

        for file in files:
            refuse_weights(task.folder, file)
    if len(found) != 1:
        raise _not_one(task.description, list(candidates), found, files)
    name, entry = found[0]
    return candidates[name].examine(task, entry)


def _not_one(
    description: Description, names: Sequence[str], found: Sequence[tuple[str, str]], files: Sequence[str]
) -> InvalidInput:
    if found:
        listed = ", ".join(f"{file!r} ({name})" for name, file in found[:12])
        return InvalidInput(
            f"There are {len(found)} models in it: {listed}.",
            code="several_models",
            next_step=f"Push one of them, or write {FILE_NAME} with 'entry: FILE' and 'format: NAME'.",
        )
    where = (
        f"The entry {description.entry!r} is not"
        if description.entry
        else f"None of the files ({', '.join(map(repr, files[:12]))}) is"
    )
    return InvalidInput(
        f"{where} a model of the format {' or '.join(names)}, by its content.",
        code="no_model",
        next_step="Push an ONNX file, a skops file, or a live object from Python.",
    )


def _examine_converted(task: Task) -> Examined:
    """A model that the pusher has converted and compared: the converted file serves, if it keeps what was promised.

    `format` in openmaas.yaml is the source's; without one the version is simply of the converted file's own format.
    """
    description = task.description
    converted = str(description.converted)
    if task.parity is None or not task.parity.passed:
        raise InvalidInput(
            f"{FILE_NAME} says 'converted', which needs a comparison that passed.",
            code="invalid_description",
            next_step=f"Push the live object, or remove 'converted' from {FILE_NAME}.",
        )
    for path in filter(None, (converted, description.entry)):
        file_inside(task.folder, path, "The file")
    kind = next((kind for kind in formats().values() if kind.find(task.folder, [converted]) == [converted]), None)
    if kind is None:
        raise InvalidInput(f"The converted file {converted!r} is not a model, by its content.", code="invalid_description")
    source = format_named(description.format) if description.format else kind
    native = source.native(task, description.entry) if description.entry else ()
    examined = kind.examine(task, converted)
    artifacts = examined.artifacts + tuple(one for one in native if one not in examined.artifacts)
    examined = msgspec.structs.replace(examined, format=source.name, parity=task.parity, artifacts=artifacts)
    return source.complete(task, examined)


if __name__ == "__main__":
    main()
