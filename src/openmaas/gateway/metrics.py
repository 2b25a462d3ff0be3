"""What a gateway counts, and how Prometheus reads it together with what the replicas count. Counting is plain arithmetic; the
library does the exposition when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any, Final

from openmaas.gateway.replica_metrics import cumulative, replica_families

BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the latency histograms, seconds."""


class _Latency:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class Metrics:
    """Requests of one gateway, by deployment and outcome."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int], int] = {}
        self._latency: dict[str, _Latency] = {}
        self._first_part: dict[str, _Latency] = {}

    def observe(self, route: str, deployment: str, status: int, seconds: float) -> None:
        """One request ended. `deployment` is empty for routes without one, and where the name is not deployed. status: what
        became of it, also where a stream had begun with 200."""
        key = (route, deployment, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        if deployment:
            latency = self._latency.get(deployment)
            if latency is None:
                latency = self._latency[deployment] = _Latency()
            latency.add(seconds)

    def first_part(self, deployment: str, seconds: float) -> None:
        """A streamed answer began."""
        self._first_part.setdefault(deployment, _Latency()).add(seconds)

    def expose(self, in_flight: int, replicas: Iterable[dict[str, Any]]) -> bytes:
        """The text that Prometheus reads. `replicas`: the statistics of each, as the operation "statistics" gives them."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(_Families([*self._families(in_flight), *replica_families(list(replicas))]))
        return generate_latest(registry)

    def _families(self, in_flight: int) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        requests = CounterMetricFamily(
            "openmaas_requests", "Requests that the gateway answered.", labels=["route", "deployment", "status"]
        )
        for (route, deployment, status), count in self._requests.items():
            requests.add_metric([route, deployment, str(status)], count)
        yield requests
        yield _histogram(
            "openmaas_request_duration_seconds", "From the head of a request to the end of its answer.", self._latency
        )
        yield _histogram(
            "openmaas_time_to_first_byte_seconds",
            "From the head of a request to the first part of its streamed answer.",
            self._first_part,
        )
        yield GaugeMetricFamily("openmaas_requests_in_flight", "Requests that the gateway holds now.", value=in_flight)


class _Families:
    """A prometheus_client collector over families that are made already."""

    def __init__(self, families: list[Any]) -> None:
        self._families = families

    def collect(self) -> list[Any]:
        return self._families


def _histogram(name: str, text: str, latencies: dict[str, _Latency]) -> Any:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(name, text, labels=["deployment"])
    for deployment, latency in latencies.items():
        family.add_metric([deployment], list(cumulative(BUCKETS, latency.counts)), latency.total)
    return family
