"""What a gateway counts, as Prometheus reads it."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from openmaas.core.contracts import Timing
from openmaas.gateway.metrics import BUCKETS, Metrics
from openmaas.replica.statistics import Statistics


def read(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def sample(samples: Any, name: str, **labels: str) -> float:
    return float(samples[name, frozenset(labels.items())])


def test_requests_are_counted_by_route_deployment_and_status() -> None:
    metrics = Metrics()
    for status in (200, 200, 503):
        metrics.observe("infer", "m", status, 0.003)
    metrics.observe("ready", "", 200, 0.001)
    samples = read(metrics.expose(7, []))
    assert sample(samples, "openmaas_requests_total", route="infer", deployment="m", status="200") == 2
    assert sample(samples, "openmaas_requests_total", route="infer", deployment="m", status="503") == 1
    assert sample(samples, "openmaas_requests_total", route="ready", deployment="", status="200") == 1
    assert sample(samples, "openmaas_requests_in_flight") == 7
    assert sample(samples, "openmaas_request_duration_seconds_count", deployment="m") == 3
    assert abs(sample(samples, "openmaas_request_duration_seconds_sum", deployment="m") - 0.009) < 1e-9


def test_the_histogram_is_cumulative_and_whole() -> None:
    metrics = Metrics()
    for seconds in (0.0005, 0.0006, 0.05, 301.0, 1e9):
        metrics.observe("infer", "m", 200, seconds)
    samples = read(metrics.expose(0, []))
    counts = [sample(samples, "openmaas_request_duration_seconds_bucket", deployment="m", le=str(bound)) for bound in BUCKETS]
    assert counts == sorted(counts)
    assert counts[0] == 1  # the bound itself belongs to its bucket
    assert counts[1] == 2
    assert counts[-1] == 3
    assert sample(samples, "openmaas_request_duration_seconds_bucket", deployment="m", le="+Inf") == 5


def test_what_replicas_count_is_told_with_their_names() -> None:
    statistics = Statistics()
    statistics.executed(3, 0.002)
    statistics.answered(Timing(0.001, 0.0005, 0.002, 3), 0.004)
    statistics.failed(0.1)
    statistics.cancelled = 2
    statistics.padded(tokens=90, padding=10)
    samples = read(Metrics().expose(0, [statistics.as_wire("m", 3) | {"replica": "m-1-0"}]))
    labels = {"model": "m", "version": "3", "replica": "m-1-0"}
    assert sample(samples, "openmaas_inference_request_success_total", **labels) == 1
    assert sample(samples, "openmaas_inference_count_total", **labels) == 3
    assert sample(samples, "openmaas_inference_exec_count_total", **labels) == 1
    assert sample(samples, "openmaas_inference_queue_duration_us_total", **labels) == 1000
    assert sample(samples, "openmaas_inference_compute_infer_duration_us_total", **labels) == 2000
    assert sample(samples, "openmaas_inference_tokens_total", **labels) == 90
    assert sample(samples, "openmaas_inference_padding_tokens_total", **labels) == 10
    assert sample(samples, "openmaas_inference_request_failure_total", reason="OTHER", **labels) == 1
    assert sample(samples, "openmaas_inference_request_failure_total", reason="CANCELED", **labels) == 2


def test_odd_names_do_not_break_the_text() -> None:
    metrics = Metrics()
    metrics.observe("infer", 'a"b\\c\nd', 200, 0.1)
    samples = read(metrics.expose(0, []))
    assert sample(samples, "openmaas_requests_total", route="infer", deployment='a"b\\c\nd', status="200") == 1


def test_nothing_has_happened_yet() -> None:
    assert read(Metrics().expose(0, [])) == {("openmaas_requests_in_flight", frozenset()): 0.0}


def test_what_generating_replicas_count_has_vllm_s_names() -> None:
    replica = Statistics().as_wire("writer", 2) | {"replica": "writer-1-0"}
    times = {"bounds": [0.1, 1.0], "counts": [1, 2, 3], "sum": 9.5}
    generation = {
        "running": 4,
        "waiting": 5,
        "cache_usage": 0.25,
        "prompt_tokens": 100,
        "generation_tokens": 200,
        "cached_tokens": 30,
        "finished": {"stop": 6, "length": 7, "tool_calls": 0, "cancelled": 1, "error": 0},
        "time_to_first_token_seconds": times,
        "inter_token_latency_seconds": times,
        "e2e_request_latency_seconds": times,
        "request_queue_time_seconds": times,
    }
    plain = Statistics().as_wire("m", 1) | {"replica": "m-1-0"}
    samples = read(Metrics().expose(0, [replica | {"generation": generation}, plain]))
    labels = {"model_name": "writer", "version": "2", "replica": "writer-1-0"}
    assert sample(samples, "openmaas_num_requests_running", **labels) == 4
    assert sample(samples, "openmaas_num_requests_waiting", **labels) == 5
    assert sample(samples, "openmaas_kv_cache_usage_perc", **labels) == 0.25
    assert sample(samples, "openmaas_prompt_tokens_total", **labels) == 100
    assert sample(samples, "openmaas_prompt_tokens_cached_total", **labels) == 30
    assert sample(samples, "openmaas_generation_tokens_total", **labels) == 200
    assert sample(samples, "openmaas_request_success_total", finished_reason="length", **labels) == 7
    assert sample(samples, "openmaas_request_success_total", finished_reason="cancelled", **labels) == 1
    for name in ("time_to_first_token", "inter_token_latency", "e2e_request_latency", "request_queue_time"):
        buckets = [sample(samples, f"openmaas_{name}_seconds_bucket", le=le, **labels) for le in ("0.1", "1.0", "+Inf")]
        assert buckets == [1, 3, 6]
        assert sample(samples, f"openmaas_{name}_seconds_sum", **labels) == 9.5
        assert sample(samples, f"openmaas_{name}_seconds_count", **labels) == 6
    assert not [name for name, found in samples if ("model_name", "m") in found]  # nothing of it for what does not generate


def test_a_stream_s_first_part_has_a_histogram_of_its_own() -> None:
    metrics = Metrics()
    metrics.first_part("writer", 0.02)
    samples = read(metrics.expose(0, []))
    assert sample(samples, "openmaas_time_to_first_byte_seconds_count", deployment="writer") == 1
    assert ("openmaas_request_duration_seconds_count", frozenset({("deployment", "writer")})) not in samples
