"""Rates, latencies and batch sizes: the difference between two looks at what gateway and replicas count."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openmaas.client import Client

_DURATIONS = "openmaas_request_duration_seconds_bucket"
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A deployed version between two looks. Rates per second, times in seconds; None where nothing was answered.

    requests and failures as the replicas count them; p50 and p99 as the gateway saw the whole deployment.
    batch: rows that ran together, on average. padding: share of the tokens that were none, None where rows are no sequences.
    """

    deployment: str
    version: str
    replicas: int
    requests: float
    rows: float
    failures: float
    p50: float | None
    p99: float | None
    queue: float | None
    model: float | None
    batch: float | None
    padding: float | None


@dataclass(frozen=True)
class Look:
    """What was counted at one moment."""

    at: float
    counts: dict[Key, Counter[str]] = field(default_factory=dict)
    latency: dict[str, dict[float, float]] = field(default_factory=dict)


def look(client: Client) -> Look:
    """Ask the gateway."""
    counts: dict[Key, Counter[str]] = {}
    for entry in client.statistics():
        counts.setdefault((entry["name"], entry["version"]), Counter()).update(_counts(entry))
    return Look(time.monotonic(), counts, _latency(client.metrics()))


def _counts(entry: dict[str, Any]) -> dict[str, int]:
    spans = entry["inference_stats"]
    return {
        "replicas": 1,
        "requests": spans["success"]["count"],
        "failures": spans["fail"]["count"] + entry.get("rejected", 0),
        "rows": entry["inference_count"],
        "executions": entry["execution_count"],
        "tokens": entry.get("tokens", 0),
        "padding": entry.get("padding_tokens", 0),
        "queue": spans["queue"]["ns"],
        "model": spans["compute_infer"]["ns"],
    }


def _latency(text: str) -> dict[str, dict[float, float]]:
    """Cumulative counts by upper bound, for each deployment."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, dict[float, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == _DURATIONS:
                found.setdefault(sample.labels["deployment"], {})[float(sample.labels["le"])] = sample.value
    return found


def rates(before: Look, after: Look) -> list[Rate]:
    """What happened between two looks. A replica that started in between counts from zero."""
    seconds = max(after.at - before.at, 1e-9)
    return [_rate(key, before, after, seconds) for key in sorted(after.counts)]


def _rate(key: Key, before: Look, after: Look, seconds: float) -> Rate:
    now, then = after.counts[key], before.counts.get(key, Counter())
    change = Counter({name: max(0, now[name] - then[name]) for name in now})
    buckets = dict(_bucket_changes(before.latency.get(key[0], {}), after.latency.get(key[0], {})))
    requests = change["requests"]
    padded = change["tokens"] + change["padding"]
    return Rate(
        deployment=key[0],
        version=key[1],
        replicas=now["replicas"],
        requests=requests / seconds,
        rows=change["rows"] / seconds,
        failures=change["failures"] / seconds,
        p50=quantile(buckets, 0.5),
        p99=quantile(buckets, 0.99),
        queue=change["queue"] / 1e9 / requests if requests else None,
        model=change["model"] / 1e9 / requests if requests else None,
        batch=change["rows"] / change["executions"] if change["executions"] else None,
        padding=change["padding"] / padded if padded else None,
    )


def _bucket_changes(before: dict[float, float], after: dict[float, float]) -> Iterator[tuple[float, float]]:
    for bound, count in sorted(after.items()):
        yield bound, max(0.0, count - before.get(bound, 0.0))


def quantile(cumulative: dict[float, float], share: float) -> float | None:
    """The value below which `share` of a histogram lies, linear within a bucket; None for an empty one."""
    total = max(cumulative.values(), default=0.0)
    if not total:
        return None
    lower, below = 0.0, 0.0
    for bound, count in sorted(cumulative.items()):
        if count >= share * total:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (share * total - below) / (count - below)
        lower, below = bound, count
    return lower
