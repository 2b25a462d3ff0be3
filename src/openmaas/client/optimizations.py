"""Make a version smaller or faster by a recipe, or let the server search for the best; what it costs is measured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from openmaas.client.answers import fetch
from openmaas.client.driver import Session, operation
from openmaas.client.registry import API
from openmaas.client.steps import Operation, Request, Work
from openmaas.core.errors import InvalidInput, TooLarge
from openmaas.core.recipes import Recipe, read_recipe
from openmaas.core.resources import JobInfo, JobRequest, VersionInfo

MAX_RECIPE = 64 * 1024
"""Bytes of a recipe file."""


class Optimizations(Session):
    @operation
    def optimize(
        self,
        reference: str,
        *,
        recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe | None = None,
        data: str = "",
        evaluation: str = "",
        auto: bool = False,
        max_loss: float = 0.01,
        target: Literal["latency", "throughput", "size", "memory"] = "latency",
        metric: str = "",
        seconds: float = 900.0,
        seed: int = 0,
    ) -> Operation[JobInfo]:
        """Make variants of a version: by a recipe, or by a search (`auto`) for what is best within `max_loss`.

        recipe: the path of a YAML file, plain data of that form, or an openmaas.core.recipes.Recipe. data: a dataset that
        passes train and calibrate on. evaluation: a dataset that the variant is held against its parent on; without it, their
        answers to `data` or to the version's own sample are compared. max_loss: as a share, 0.01 is one point of accuracy.
        target: what a search makes best. metric: empty is the usual one. seconds: that a search may take; what a recipe makes
        is timed beside its parent for at most so many, and for 20 at most.

        Returns the job at once; `wait_job(job.id).result` has the new version, or versions, and the comparison. Raises
        InvalidInput for a recipe that is wrong, before anything is begun, and NotFound.
        """
        arguments: dict[str, Any] = {
            "data": data, "evaluation": evaluation, "auto": auto, "max_loss": max_loss, "target": target, "metric": metric,
            "seconds": float(seconds), "seed": seed,
        }  # fmt: skip
        if recipe is not None:
            checked: Recipe = yield Work(lambda: _checked(recipe))
            arguments["recipe"] = checked.to_plain()
        version = yield from fetch(Request("GET", (*API, "versions", reference)), VersionInfo)
        arguments["version"] = f"{version.model}:{version.number}"
        body = msgspec.json.encode(JobRequest(kind="optimize", arguments=arguments))
        headers = {"content-type": "application/json"}
        return (yield from fetch(Request("POST", (*API, "jobs"), headers=headers, body=body), JobInfo))


def _checked(recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe) -> Recipe:
    if isinstance(recipe, Recipe):
        return read_recipe(recipe.to_plain())  # what was composed in Python has not been checked yet
    if isinstance(recipe, Mapping):
        return read_recipe(recipe)
    return read_recipe(read_recipe_file(Path(recipe)))


def read_recipe_file(path: Path) -> Any:
    """Plain data of a YAML file: no tags, aliases or double keys. Raises InvalidInput, TooLarge beyond MAX_RECIPE."""
    import yaml

    from openmaas.formats.plain_yaml import PlainLoader

    if not path.is_file():
        raise InvalidInput(f"There is no recipe {str(path)!r}.", code="no_such_file")
    if path.stat().st_size > MAX_RECIPE:
        raise TooLarge(f"The recipe has {path.stat().st_size} bytes; at most {MAX_RECIPE} are read.", next_step="Shorten it.")
    try:
        return yaml.load(path.read_text("utf-8"), PlainLoader)  # noqa: S506  PlainLoader is a SafeLoader
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split()).replace('in "<unicode string>", ', "")[:400]
    except RecursionError:
        reason = "it is nested too deeply"
    raise InvalidInput(
        f"The recipe {path.name!r} cannot be read: {reason}.", code="invalid_recipe", next_step="Correct it and submit again."
    )
