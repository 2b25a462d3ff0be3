from __future__ import annotations

from openmaas.core.contracts import Timing
from openmaas.replica.statistics import Statistics


def test_counts_are_told_in_triton_s_form() -> None:
    statistics = Statistics()
    statistics.executed(4, 0.002)
    statistics.executed(4, 0.003)
    statistics.executed(1, 0.001)
    statistics.answered(Timing(queue=0.5, batch=0.25, model=0.002, rows=4), 1.0)
    statistics.answered(Timing(queue=0.5, batch=0.25, model=0.001, rows=1), 1.0)
    statistics.failed(0.5)
    statistics.cancelled += 1
    statistics.rejected += 2
    statistics.padded(tokens=300, padding=20)
    statistics.padded(tokens=100, padding=0)
    statistics.touch()
    said = statistics.as_wire("m", 3)
    assert (said["name"], said["version"]) == ("m", "3")
    assert said["inference_count"] == 5  # rows
    assert said["execution_count"] == 3  # calls of the engine
    assert said["inference_stats"]["success"] == {"count": 2, "ns": 2_000_000_000}
    assert said["inference_stats"]["fail"] == {"count": 1, "ns": 500_000_000}
    assert said["inference_stats"]["queue"] == {"count": 2, "ns": 1_000_000_000}
    assert said["inference_stats"]["compute_input"] == {"count": 2, "ns": 500_000_000}
    assert said["inference_stats"]["compute_infer"] == {"count": 2, "ns": 3_000_000}
    assert [entry["batch_size"] for entry in said["batch_stats"]] == [1, 4]
    assert said["batch_stats"][1]["compute_infer"] == {"count": 2, "ns": 5_000_000}
    assert (said["cancelled"], said["rejected"]) == (1, 2)
    assert (said["tokens"], said["padding_tokens"]) == (400, 20)
    assert said["last_inference"] > 1_600_000_000_000  # milliseconds


def test_nothing_was_asked_yet() -> None:
    said = Statistics().as_wire("m", 1)
    assert said["inference_count"] == said["last_inference"] == 0
    assert said["batch_stats"] == []
