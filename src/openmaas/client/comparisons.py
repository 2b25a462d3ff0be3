"""Versions measured beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from openmaas.client.answers import fetch
from openmaas.client.driver import Session, operation
from openmaas.client.registry import API
from openmaas.client.steps import Operation, Request
from openmaas.core.resources import JobInfo, JobRequest, VersionInfo


class Comparisons(Session):
    @operation
    def compare(
        self,
        reference: str,
        others: Sequence[str] | str,
        *,
        data: str = "",
        rows: int = 0,
        metric: str = "",
        max_loss: float = 0.01,
        target: Literal["latency", "throughput", "size", "memory"] = "latency",
        engines: Sequence[str] = (),
        seconds: float = 60.0,
        seed: int = 0,
    ) -> Operation[JobInfo]:
        """Measure versions beside a baseline in one alternating run, and hold their answers against its answers.

        reference: the baseline. others: versions of any models with equal inputs. data: a dataset that quality is told on;
        without it, their answers to the baseline's own sample are compared. rows: at most so many, drawn by the seed; 0 is all.
        metric: empty is the usual one. max_loss and target: the best of the target is recommended among those that surely lose
        no more; 0.01 is one point of accuracy. engines: one for each version, the baseline's first, as openvino:bf16; empty is
        the one that serves it. seconds: of timing.

        Returns the job at once; `wait_job(job.id).result["comparison"]` is openmaas.core.evaluations.VersionComparison as JSON.
        Raises NotFound, InvalidInput.
        """
        exact = []
        for one in (reference, *([others] if isinstance(others, str) else others)):
            version = yield from fetch(Request("GET", (*API, "versions", one)), VersionInfo)
            exact.append(f"{version.model}:{version.number}")
        arguments = {
            "version": exact[0], "others": exact[1:], "data": data, "rows": rows, "metric": metric, "max_loss": max_loss,
            "target": target, "engines": list(engines), "seconds": float(seconds), "seed": seed,
        }  # fmt: skip
        body = msgspec.json.encode(JobRequest(kind="compare", arguments=arguments))
        headers = {"content-type": "application/json"}
        return (yield from fetch(Request("POST", (*API, "jobs"), headers=headers, body=body), JobInfo))
