"""Every route, and whether it is open. A route that is added without a line here fails the test."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmaas.core.errors import InvalidInput, NotFound
from openmaas.protocols.routes import RouteName, parse_path

OPEN = {"live", "ready", "version"}

TABLE = [
    ("/v2/health/live", "live", "GET", "", ""),
    ("/v2/health/ready", "ready", "GET", "", ""),
    ("/version", "version", "GET", "", ""),
    ("/version/", "version", "GET", "", ""),
    ("/v2", "server_metadata", "GET", "", ""),
    ("/v2/", "server_metadata", "GET", "", ""),
    ("/metrics", "metrics", "GET", "", ""),
    ("/v2/models/stats", "statistics_all", "GET", "", ""),
    ("/v2/repository/index", "repository_index", "POST", "", ""),
    ("/v2/repository/models/m/load", "repository_load", "POST", "m", ""),
    ("/v2/repository/models/m/unload", "repository_unload", "POST", "m", ""),
    ("/v2/models/m", "model_metadata", "GET", "m", ""),
    ("/v2/models/m/versions/3", "model_metadata", "GET", "m", "3"),
    ("/v2/models/m/ready", "model_ready", "GET", "m", ""),
    ("/v2/models/m/config", "model_config", "GET", "m", ""),
    ("/v2/models/m/stats", "model_statistics", "GET", "m", ""),
    ("/v2/models/m/versions/3/stats", "model_statistics", "GET", "m", "3"),
    ("/v2/models/m/infer", "infer", "POST", "m", ""),
    ("/v2/models/m/versions/champion/infer", "infer", "POST", "m", "champion"),
    ("/v2/models/m%40champion/infer", "infer", "POST", "m@champion", ""),
    ("/v2/models/m@champion/infer", "infer", "POST", "m@champion", ""),
    ("/v2/models/m:3/infer", "infer", "POST", "m:3", ""),
    ("/predict/m", "predict", "POST", "m", ""),
    ("/predict/m@champion", "predict", "POST", "m@champion", ""),
    ("/predict/m%3A3", "predict", "POST", "m:3", ""),
    ("/v1/models", "v1_list", "GET", "", ""),
    ("/v1/models/m", "v1_ready", "GET", "m", ""),
    ("/v1/models/m:predict", "v1_predict", "POST", "m", ""),
    ("/v1/models/m%40champion:predict", "v1_predict", "POST", "m@champion", ""),
    ("/v1/chat/completions", "chat", "POST", "", ""),
    ("/v1/chat/completions/", "chat", "POST", "", ""),
    ("/v1/completions", "completions", "POST", "", ""),
    ("/v1/responses", "responses", "POST", "", ""),
    ("/v1/embeddings", "embeddings", "POST", "", ""),
    ("/v1/tokenize", "tokenize", "POST", "", ""),
    ("/v1/detokenize", "detokenize", "POST", "", ""),
    ("/v2/models/m/generate", "generate", "POST", "m", ""),
    ("/v2/models/m/versions/3/generate", "generate", "POST", "m", "3"),
    ("/v2/models/m/generate_stream", "generate_stream", "POST", "m", ""),
    ("/v2/models/m@champion/versions/3/generate_stream", "generate_stream", "POST", "m@champion", "3"),
]
NAMED_IN_BODY = {"chat", "completions", "responses", "embeddings", "tokenize", "detokenize"}
STREAMS = {"chat", "completions", "responses", "generate_stream"}
PREDICTS = {"infer", "v1_predict", "predict", "generate", *STREAMS, *NAMED_IN_BODY}


@pytest.mark.parametrize(("path", "name", "method", "deployment", "version"), TABLE)
def test_every_route(path: str, name: str, method: str, deployment: str, version: str) -> None:
    route = parse_path(path)
    assert (route.name, route.method, route.deployment, route.version) == (name, method, deployment, version)
    assert route.open is (name in OPEN)
    assert route.predicts is (name in PREDICTS)
    assert route.named_in_body is (name in NAMED_IN_BODY)
    assert route.streams is (name in STREAMS)
    assert route.openai is (name in {"v1_list", "v1_ready", *NAMED_IN_BODY})


def test_the_table_is_whole() -> None:
    assert {name for _, name, *_ in TABLE} == set(get_args(RouteName))


QUERIES = {
    "": ("", 0),
    "top=5": ("", 5),
    "version=3": ("3", 0),
    "version=champion&top=1": ("champion", 1),
    "version=release%20candidate": ("release candidate", 0),
    "version=": ("", 0),
}


@pytest.mark.parametrize("query", QUERIES)
def test_a_plain_prediction_reads_its_query(query: str) -> None:
    route = parse_path("/predict/m", query)
    assert (route.version, route.top) == QUERIES[query]


BAD_QUERIES = {
    "tpo=5": "'tpo'", "top": "top", "top=": "top", "top=0": "top", "top=-1": "top", "top=1.5": "top", "top=x": "top",
    "top=٣": "top", "top=9999999": "top", "top=1&top=2": "twice", "version=1&version=2": "twice", "=": "''", "&&": "version=2",
    "version=%ff": "query", "a=1&" * 40: "query", "top=" + "1" * 5000: "top",
}  # fmt: skip


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_a_query_that_is_not_understood_is_refused(query: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_path("/predict/m", query)
    assert BAD_QUERIES[query] in caught.value.message
    assert len(caught.value.message) < 300


@given(st.text(max_size=60))
@settings(max_examples=300)
def test_any_query_gives_a_route_or_an_error_of_ours(query: str) -> None:
    try:
        assert parse_path("/predict/m", query).name == "predict"
    except InvalidInput as error:
        assert error.code in ("invalid_parameter", "unknown_parameter")


NOT_ROUTES = [
    "/predict", "/predict/", "/predict/m/", "/predict/m/n", "/v1/predict/m",
    "", "/", "//v2", "/V2", "v2", "/v2/../metrics", "/v2/./health/live", "/v2/health", "/v2/health/live/x", "/v2/health//live",
    "/v2/health%2Flive", "/v2/health/live%00", "/v2/health/live\x00", "/v2/health/live;x", "/v2/health/live?x",
    "/v2/health/LIVE",
    "/v2/models", "/v2/models/", "/v2/models//infer", "/v2/models/m/infer/", "/v2/models/m/infer/x", "/v2/models/m/predict",
    "/v2/models/m/versions", "/v2/models/m/versions//infer", "/v2/models/m/versions/1/2/infer", "/v2/models/a/b/infer",
    "/v2/repository/models/m", "/v2/repository/models/m/delete", "/v1/models/m:explain", "/v1/models/m:predict/",
    "/v1/models/:predict", "/v1", "/v1/chat", "/v1/chat/completions/x", "/v1/completions/1", "/v1/responses/r",
    "/v1/embeddings/m", "/v2/models/m/generate/", "/v2/models/m/generate_stream/x", "/v2/models/m/generate_streams",
    "/v2/generate", "/chat/completions",
    "/v1/models/m:predict:predict", "/metrics/x", "/api/v1/status", "/health/live", "/version\n", "\n/version", "*", "http://x/version",
]  # fmt: skip


@pytest.mark.parametrize("path", NOT_ROUTES)
def test_nothing_else_is_a_route(path: str) -> None:
    with pytest.raises(NotFound) as caught:
        parse_path(path)
    assert caught.value.code == "route_not_found"


def test_an_error_tells_back_little_of_a_long_path() -> None:
    with pytest.raises(NotFound) as caught:
        parse_path("/" + "x" * 60_000)
    assert len(str(caught.value)) < 500


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "",
                "v1",
                "v2",
                "models",
                "m",
                "infer",
                "health",
                "live",
                "ready",
                "version",
                "metrics",
                "chat",
                "completions",
                "generate",
                "%2F",
                "..",
                "\x00",
                ":predict",
            ]
        ),
        max_size=7,
    )
)
def test_only_the_listed_routes_are_open(parts: list[str]) -> None:
    path = "/".join(["", *parts])
    try:
        route = parse_path(path)
    except NotFound:
        return
    assert route.open is (path.rstrip("/") in ("/v2/health/live", "/v2/health/ready", "/version"))
