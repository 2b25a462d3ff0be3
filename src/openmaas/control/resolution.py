"""Which engine a deployment's revision gets. Pure functions: `auto` follows a measurement, a name forces what it names.

A choice's threads are 0 where it takes all that its replica has: the supervisor then shares the cores among the replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from openmaas.control.revisions import Options
from openmaas.core.errors import Conflict, InvalidInput
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.core.measurement import Measurement, Tried

AUTO: Final = "auto"


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """An engine and why it was chosen, in a sentence. Kept as JSON with the revision."""

    choice: EngineChoice
    why: str


def decode_resolution(text: str | None) -> Resolution | None:
    return msgspec.json.decode(text, type=Resolution) if text else None


def require_runnable(reference: str, manifest: Manifest) -> None:
    """Raises Conflict for a version that must be converted before anything here can run it."""
    if not manifest.engine:
        raise Conflict(
            f"No engine here runs {reference} as it is (format {manifest.format}); it must be converted first.",
            code="not_runnable",
            next_step=f"openmaas convert {reference} --to onnx",
        )


def unmeasured(manifest: Manifest, reason: str) -> Resolution:
    """The version's own engine. reason: why nothing better is known."""
    return Resolution(choice=manifest.choice, why=f"not measured: {reason}")


def still_possible(measurement: Measurement | None, ways: Sequence[EngineChoice]) -> Measurement | None:
    """The measurement without the engines that are no longer installed, and without what no engine offers."""
    if measurement is None:
        return None
    tried = tuple(one for one in measurement.tried if msgspec.structs.replace(one.choice, threads=0) in ways)
    return msgspec.structs.replace(measurement, tried=tried)


def follow(measurement: Measurement, manifest: Manifest, options: Options, cores: int) -> Resolution:
    """What a measurement recommends for replicas with so many threads."""
    best = _best(measurement, measurement.tried, options, cores)
    if best is None:
        return Resolution(choice=manifest.choice, why="the version's own: none of the engines that were measured fits")
    share = _share(options, cores)
    return Resolution(
        choice=_sized(best, options, cores),
        why=f"measured: {best.rate:,.0f} rows/s with {best.choice.threads} of {share} "
        f"{'thread' if share == 1 else 'threads'}, the fastest on {measurement.processor.model}",
    )


def force(name: str, ways: Sequence[EngineChoice], measurement: Measurement | None, options: Options, cores: int) -> Resolution:
    """The engine of that name. ways: all that could run the version here.

    Raises InvalidInput that lists what can, where no engine has the name or it was seen not to run it.
    """
    tried = measurement.named(name) if measurement else ()
    if measurement is not None and (best := _best(measurement, tried, options, cores)) is not None:
        return Resolution(choice=_sized(best, options, cores), why=f"asked for; measured: {best.rate:,.0f} rows/s")
    for one in tried:
        if one.state not in ("outside_tolerance", "not_compared", "not_timed"):
            raise _cannot(f"{name} cannot run this version: {one.state}: {one.cause}", _fitting(measurement))
    way = next((way for way in ways if way.label == name), None)
    if way is None:
        raise _cannot(f"No engine here is called {name!r} and runs this version.", sorted({way.label for way in ways}))
    outside = next((one.cause for one in tried if one.state == "outside_tolerance"), None)
    return Resolution(choice=way, why=f"asked for, although outside the tolerance: {outside}" if outside else "asked for")


def _best(measurement: Measurement, among: Sequence[Tried], options: Options, cores: int) -> Tried | None:
    """Where somebody gave the number of threads, what was measured with the number closest below it counts."""
    chosen = msgspec.structs.replace(measurement, tried=tuple(among))
    if options.threads:
        measured = [one.choice.threads for one in among if one.choice.threads <= options.threads]
        same = tuple(one for one in among if measured and one.choice.threads == max(measured))
        chosen = msgspec.structs.replace(chosen, tried=same)
    return chosen.best(_share(options, cores))


def _share(options: Options, cores: int) -> int:
    """Threads of one replica."""
    return options.threads or max(1, cores // options.replicas)


def _sized(best: Tried, options: Options, cores: int) -> EngineChoice:
    fewer = not options.threads and best.choice.threads < _share(options, cores)
    return msgspec.structs.replace(best.choice, threads=best.choice.threads if fewer else 0)


def _fitting(measurement: Measurement | None) -> list[str]:
    return sorted({one.choice.label for one in measurement.tried if one.state == "fit"}) if measurement else []


def _cannot(message: str, labels: Sequence[str]) -> InvalidInput:
    can = f"These can: {', '.join(labels)}." if labels else "Deploy it with --engine auto."
    return InvalidInput(message, code="engine_cannot_run", next_step=can)
