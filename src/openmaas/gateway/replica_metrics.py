"""What replicas count, as dashboards made for other servers know it, with our prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final


def replica_families(replicas: Sequence[dict[str, Any]]) -> Iterator[Any]:
    """Prometheus' families of the statistics of each replica, as the operation "statistics" gives them."""
    yield from _inference_families(replicas)
    generators = [one for one in replicas if one.get("generation") is not None]
    if generators:
        yield from _generation_families(generators)


def cumulative(bounds: Iterable[float], counts: Iterable[int]) -> Iterator[tuple[str, float]]:
    """Buckets as Prometheus has them, of counts that stand for one bucket each, the last for what is above all bounds."""
    running = 0
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
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


def _inference_families(replicas: Sequence[dict[str, Any]]) -> Iterator[Any]:
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


# vLLM's shapes: dashboards made for vllm:* need only the prefix changed.
_GAUGES: Final = (
    ("openmaas_num_requests_running", "Sequences that the engine works on now.", "running"),
    ("openmaas_num_requests_waiting", "Sequences that wait for the engine.", "waiting"),
    ("openmaas_kv_cache_usage_perc", "Share of the engine's cache in use, 0 to 1.", "cache_usage"),
)
_COUNTERS: Final = (
    ("openmaas_prompt_tokens", "Tokens of prompts.", "prompt_tokens"),
    ("openmaas_prompt_tokens_cached", "Of these, tokens whose prefix was in the engine's cache.", "cached_tokens"),
    ("openmaas_generation_tokens", "Tokens generated.", "generation_tokens"),
)
_HISTOGRAMS: Final = (
    ("time_to_first_token_seconds", "From a request's arrival at the replica to its first token."),
    ("inter_token_latency_seconds", "Between two tokens of one sequence."),
    ("e2e_request_latency_seconds", "From a request's arrival at the replica to its end."),
    ("request_queue_time_seconds", "From a request's arrival at the replica to its first step in the engine."),
)


def _generation_families(replicas: Sequence[dict[str, Any]]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    names = ["model_name", "version", "replica"]
    counted = [([one["name"], one["version"], one["replica"]], one["generation"]) for one in replicas]
    for name, text, key in _GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=names)
        for labels, counts in counted:
            gauge.add_metric(labels, counts[key])
        yield gauge
    for name, text, key in _COUNTERS:
        counter = CounterMetricFamily(name, text, labels=names)
        for labels, counts in counted:
            counter.add_metric(labels, counts[key])
        yield counter
    finished = CounterMetricFamily(
        "openmaas_request_success", "Answers that ended, by their reason.", labels=[*names, "finished_reason"]
    )
    for labels, counts in counted:
        for reason, count in counts["finished"].items():
            finished.add_metric([*labels, reason], count)
    yield finished
    for key, text in _HISTOGRAMS:
        histogram = HistogramMetricFamily(f"openmaas_{key}", text, labels=names)
        for labels, counts in counted:
            told = counts[key]
            histogram.add_metric(labels, list(cumulative(told["bounds"], told["counts"])), told["sum"])
        yield histogram
