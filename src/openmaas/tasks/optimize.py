"""Optimise a version: by a recipe, or by a search for the best within a loss. What is registered was measured first.

prepare    all that can be refused is refused: kinds of artifacts, weights that are no numbers, data that do not fit
make       the steps in order, each one's answers checked (tasks/optimization/runner.py); or the search (…/automatic.py)
measure    the parent and the variants in one alternating run, each by the engine that would serve it
register   files, sample with the variant's own answers, lineage, and a card that says what was done and what it cost

A variant of a recipe is registered whatever it costs, since somebody asked for it. One that is better than its parent in
nothing and worse in something is marked as dominated, and one beyond the allowed loss says so. A search registers only what it
may recommend.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Final

import msgspec

from openmaas.core.errors import Refused
from openmaas.core.evaluations import Entrant, VersionComparison
from openmaas.core.jobs import OptimizeArguments
from openmaas.core.recipes import Recipe
from openmaas.tasks.base import Job
from openmaas.tasks.optimization.answering import Answering
from openmaas.tasks.optimization.automatic import search
from openmaas.tasks.optimization.generators import optimize_generator
from openmaas.tasks.optimization.ground import Ground, lay, measure, renamed
from openmaas.tasks.optimization.recommending import recommend_by_value
from openmaas.tasks.optimization.results import bounded, result_of
from openmaas.tasks.optimization.runner import Runner
from openmaas.tasks.optimization.variants import build, loss_told, register

_TIMING: Final = 20.0  # seconds that parent and variant are timed
_CHOOSING: Final = 12.0  # seconds in which a variant's engine is found
_CALIBRATED: Final = 128  # passages that a generator's weights are chosen on, as many as NNCF takes by itself


def run(job: Job) -> dict[str, Any]:
    """The job, and its result as results.py has it. Raises InvalidInput, NotFound and Refused before anything is made where the
    recipe or the data do not fit, and with the number of the step that failed."""
    arguments = msgspec.convert(job.arguments, OptimizeArguments)
    start = time.monotonic()
    job.progress("fetching the version")
    manifest, folder = job.files(arguments.version)
    if manifest.generator is not None:
        made = optimize_generator(job, arguments, manifest, folder)
        return bounded({**made, "seconds": round(time.monotonic() - start, 3)})
    ground = lay(job, arguments, manifest, folder)
    with Answering(job) as answering:
        recipe = arguments.steps
        if recipe is None:
            result = search(ground, answering, spent=time.monotonic() - start)
        else:
            result = _by_recipe(ground, recipe, answering)
    return bounded({**result, "seconds": round(time.monotonic() - start, 3)})


def _by_recipe(ground: Ground, recipe: Recipe, answering: Answering) -> dict[str, Any]:
    job, reference = ground.job, ground.arguments.version
    runner = Runner(job, reference, ground.manifest, ground.folder, ground.inputs, ground.training, answering)
    piece = runner.run(recipe)
    job.progress("examining what was made")
    variant = build(job, "the variant", recipe, piece, ground.folder, ground.inputs, answering, job.scratch / "variant")
    if variant.manifest.digest == ground.manifest.digest:
        raise Refused(
            f"What {recipe.label} makes of {reference} is {reference} itself, to the byte.",
            code="nothing_changed",
            next_step="Give it other steps or parameters.",
        )
    with job.alone():
        given = ground.arguments.seconds
        measured = measure(ground, [variant], seconds=min(_TIMING, given), choosing=min(_CHOOSING, given))
    if measured.left_out:
        raise Refused(
            f"What {recipe.label} made of {reference} cannot be served: {measured.left_out[variant.name]}",
            code="not_servable",
            next_step="Leave the step out that makes it so, or give it other parameters.",
        )
    comparison = recommend_by_value(measured.comparison, ground.arguments.max_loss)
    measured, made = replace(measured, comparison=comparison), comparison.entrants[1]
    job.progress("registering")
    registered = register(job, variant, ground.origin(), measured.comparison, made)
    version, measured = registered.reference, renamed(measured, {variant.name: registered})
    told = [*variant.notes, *_verdict(measured.comparison, measured.comparison.entrants[1], version)]
    for line in told:
        job.log(line)
    return result_of(version, registered.created, [version], measured, notes=told)


def _verdict(comparison: VersionComparison, made: Entrant, version: str) -> list[str]:
    told = [loss_told(made, comparison)]
    if made.dominated:
        told.append(
            f"{version} is better than {comparison.entrants[0].version} in nothing and worse in something; "
            "it is not recommended."
        )
    return [line for line in told if line]
