"""How good a version is on a dataset, and what its answers cost."""

from __future__ import annotations

import msgspec

from openmaas.client.answers import fetch
from openmaas.client.driver import Listing, Session, listing, operation
from openmaas.client.registry import API
from openmaas.client.steps import Operation, Request
from openmaas.core.resources import EvaluationInfo, JobInfo, JobRequest, Page, VersionInfo


class Evaluations(Session):
    @operation
    def evaluate(
        self, reference: str, data: str, *, rows: int = 0, engine: str = "", seconds: float = 8.0, seed: int = 0
    ) -> Operation[JobInfo]:
        """Let a version answer a dataset, hold the answers against the truth, and measure its speed.

        data: a dataset, digits-test or digits-test:2. rows: at most so many, drawn by the seed; 0 is all. engine: that answers,
        as openvino:bf16; empty is the one that serves the version. seconds: in which its speed is measured.
        Returns the job at once; `wait_job(job.id).result["evaluation"]` is openmaas.core.evaluations.Evaluation as JSON, which
        is also kept with the version. Raises NotFound, InvalidInput.
        """
        version = yield from fetch(Request("GET", (*API, "versions", reference)), VersionInfo)
        arguments = {
            "version": f"{version.model}:{version.number}", "data": data, "rows": rows, "engine": engine,
            "seconds": float(seconds), "seed": seed,
        }  # fmt: skip
        body = msgspec.json.encode(JobRequest(kind="evaluate", arguments=arguments))
        headers = {"content-type": "application/json"}
        return (yield from fetch(Request("POST", (*API, "jobs"), headers=headers, body=body), JobInfo))

    @listing
    def evaluations(self, reference: str, *, data: str | None = None, page_size: int | None = None) -> Listing[EvaluationInfo]:
        """A version's evaluations, newest first; those on one dataset where it is given."""
        return Listing(Page[EvaluationInfo], *API, "versions", reference, "evaluations", page_size=page_size, dataset=data)
