"""What a gateway counts, and how Prometheus reads it together with what the replicas count. Counting is plain arithmetic; the
library does the exposition when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Upper bounds of the latency histogram, seconds."""


class _Latency:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0


class Metrics:
    """Requests of one gateway, by deployment and outcome."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int], int] = {}
        self._latency: dict[str, _Latency] = {}

    def observe(self, route: str, deployment: str, status: int, seconds: float) -> None:
        """One request ended. `deployment` is empty for routes without one, and where the name is not deployed."""
        key = (route, deployment, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        if deployment:
            latency = self._latency.get(deployment)
            if latency is None:
                latency = self._latency[deployment] = _Latency()
            latency.counts[bisect_left(BUCKETS, seconds)] += 1
            latency.total += seconds

    def expose(self, in_flight: int, replicas: Iterable[dict[str, Any]]) -> bytes:
        """The text that Prometheus reads. `replicas`: the statistics of each, as the operation "statistics" gives them."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(_Families([*self._families(in_flight), *_replica_families(list(replicas))]))
        return generate_latest(registry)

    def _families(self, in_flight: int) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily(
            "openmaas_requests", "Requests that the gateway answered.", labels=["route", "deployment", "status"]
        )
        for (route, deployment, status), count in self._requests.items():
            requests.add_metric([route, deployment, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily(
            "openmaas_request_duration_seconds", "From the head of a request to its answer.", labels=["deployment"]
        )
        for deployment, latency in self._latency.items():
            seconds.add_metric([deployment], list(_cumulative(latency.counts)), latency.total)
        yield seconds
        yield GaugeMetricFamily("openmaas_requests_in_flight", "Requests that the gateway holds now.", value=in_flight)


class _Families:
    """A prometheus_client collector over families that are made already."""

    def __init__(self, families: list[Any]) -> None:
        self._families = families

    def collect(self) -> list[Any]:
        return self._families


def _cumulative(counts: list[int]) -> Iterator[tuple[str, float]]:
    running = 0
    for bound, count in zip((*BUCKETS, float("inf")), counts, strict=True):
        running += count
        yield ("+Inf" if bound == float("inf") else str(bound)), running


# Triton's shapes: dashboards made for nv_inference_* need only the prefix changed.
_REPLICA_COUNTERS: Final[tuple[tuple[str, str, Callable[[dict[str, Any]], int]], ...]] = (
    ("openmaas_inference_request_success", "Requests answered.", lambda s: s["inference_stats"]["success"]["count"]),
    ("openmaas_inference_count", "Rows inferred.", lambda s: s["inference_count"]),
    ("openmaas_inference_exec_count", "Calls of the engine, a batch each.", lambda s: s["execution_count"]),
    (
        "openmaas_inference_request_duration_us",
        "From a request's arrival at the replica to its answer, microseconds, summed.",
        lambda s: s["inference_stats"]["success"]["ns"] // 1000,
    ),
    (
        "openmaas_inference_queue_duration_us",
        "Time in the queue, microseconds, summed over requests.",
        lambda s: s["inference_stats"]["queue"]["ns"] // 1000,
    ),
    (
        "openmaas_inference_compute_infer_duration_us",
        "Time in the engine, microseconds, summed over requests.",
        lambda s: s["inference_stats"]["compute_infer"]["ns"] // 1000,
    ),
    ("openmaas_inference_tokens", "Tokens of sequences inferred, without padding.", lambda s: s["tokens"]),
    (
        "openmaas_inference_padding_tokens",
        "Tokens that filled sequences up to the longest of their batch.",
        lambda s: s["padding_tokens"],
    ),
)


def _replica_families(replicas: list[dict[str, Any]]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily

    for name, text, value in _REPLICA_COUNTERS:
        family = CounterMetricFamily(name, text, labels=["model", "version", "replica"])
        for statistics in replicas:
            family.add_metric([statistics["name"], statistics["version"], statistics["replica"]], value(statistics))
        yield family
    failures = CounterMetricFamily(
        "openmaas_inference_request_failure", "Requests not answered.", labels=["model", "version", "replica", "reason"]
    )
    for statistics in replicas:
        labels = [statistics["name"], statistics["version"], statistics["replica"]]
        failures.add_metric([*labels, "OTHER"], statistics["inference_stats"]["fail"]["count"])
        failures.add_metric([*labels, "CANCELED"], statistics["cancelled"])
        failures.add_metric([*labels, "REJECTED"], statistics["rejected"])
    yield failures
