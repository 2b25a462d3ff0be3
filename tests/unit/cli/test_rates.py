from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from openmaas.cli.rates import Look, look, quantile, rates
from openmaas.client.steps import Request, Response
from openmaas.gateway.metrics import Metrics
from openmaas.replica.statistics import Statistics
from tests.unit.cli.conftest import Terminal
from tests.unit.client.transport import json_answer


def test_quantiles_are_linear_within_a_bucket() -> None:
    histogram = {0.001: 50.0, 0.002: 100.0, float("inf"): 100.0}
    assert quantile(histogram, 0.5) == pytest.approx(0.001)
    assert quantile(histogram, 0.75) == pytest.approx(0.0015)
    assert quantile({0.001: 0.0, float("inf"): 4.0}, 0.5) == 0.001
    assert quantile({}, 0.5) is None
    assert quantile({0.001: 0.0, float("inf"): 0.0}, 0.5) is None


def test_rates_are_the_difference_of_two_looks() -> None:
    key = ("digits", "3")
    before = Look(10.0, {key: Counter(replicas=1, requests=10, rows=20, executions=5, queue=0, model=0, failures=0)})
    after = Look(
        12.0,
        {
            key: Counter(
                replicas=2,
                requests=30,
                rows=100,
                executions=15,
                queue=40_000_000,
                model=20_000_000,
                failures=4,
                tokens=300,
                padding=100,
            )
        },
        {"digits": {0.001: 20.0, float("inf"): 20.0}},
    )
    (rate,) = rates(before, after)
    assert (rate.requests, rate.rows, rate.failures, rate.batch, rate.replicas) == (10.0, 40.0, 2.0, 8.0, 2)
    assert (rate.queue, rate.model) == (0.002, 0.001)
    assert rate.padding == 0.25
    assert rate.p50 == pytest.approx(0.0005)


def test_a_quiet_deployment_has_no_latency() -> None:
    counts: dict[Any, Any] = {
        ("digits", "3"): Counter(replicas=1, requests=10, rows=20, executions=5, queue=1, model=1, failures=0)
    }
    (rate,) = rates(Look(0.0, counts), Look(1.0, counts))
    assert (rate.requests, rate.p99, rate.batch, rate.queue, rate.padding) == (0.0, None, None, None, None)


def test_what_gateway_and_replicas_count_is_understood(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics()
    metrics.observe("infer", "digits", 200, 0.0042)
    statistics = Statistics()
    statistics.executed(4, 0.001)

    def gateway(request: Request) -> Response:
        if request.parts == ("metrics",):
            return Response(200, {}, metrics.expose(0, []))
        return json_answer({"model_stats": [statistics.as_wire("digits", 3) | {"replica": "digits-1-0"}]})

    transport = serve(gateway)
    import openmaas

    seen = look(openmaas.Client())
    assert seen.counts["digits", "3"]["executions"] == 1
    assert seen.latency["digits"][0.005] == 1.0
    code, out, _ = Terminal(transport, capsys)("top", "--once", "--interval", "0.1")
    assert code == 0
    assert out.splitlines()[0].split()[:3] == ["DEPLOYMENT", "VERSION", "REQ/S"]
    assert out.splitlines()[1].split()[:3] == ["digits", "3", "0"]
