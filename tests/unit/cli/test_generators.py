"""What `openmaas show`, `convert`, `parity`, `deploy` and `ps` say of versions that generate text."""

from __future__ import annotations

import re
from typing import Any

import pytest

from openmaas.client.steps import Request, Response
from tests.unit.cli.conftest import DEPLOYMENTS, JOBS, NOW, VERSION, Terminal, page
from tests.unit.client.transport import json_answer

GENERATOR = {
    "context": 8192, "vocabulary": 49152, "end": [2], "tokenizer": "tokenizer.json", "parameters": 134_515_008,
    "chat_template": "chat_template.jinja", "tool_format": "hermes", "special": {}, "weights": "bf16",
    "defaults": {"temperature": 0.6, "top_p": 0.9},
}  # fmt: skip
PARITY = {
    "source": "writer:1", "target": "openvino-genai int8", "passed": True, "sample": "built-in", "rtol": 0.03, "atol": 0.0,
    "comparisons": [{"batch": 1, "output": "logits", "max_abs_diff": 1.0, "max_rel_diff": 0.1, "labels_equal": True,
                     "cosine": 0.99057, "top1": 0.938}],
    "reason": None, "perplexity": [19.912, 20.062],
}  # fmt: skip
MANIFEST = VERSION["manifest"] | {"format": "causal", "generator": GENERATOR, "parity": None, "processing": None}
SOURCE = VERSION | {"model": "writer", "number": 1, "format": "causal", "engine": "transformers", "manifest": MANIFEST}
VARIANT = SOURCE | {
    "number": 2, "format": "openvino-genai", "engine": "openvino-genai", "parent": "writer:1", "size": 144_000_000,
    "manifest": MANIFEST | {"parity": PARITY}, "recipe": '{"convert":{"to":"openvino-genai","weights":"int8"}}',
}  # fmt: skip


def tried(weights: str, state: str = "fit", cause: str = "", rates: dict[str, float] | None = None) -> dict[str, Any]:
    return {
        "choice": {"engine": "openvino-genai", "artifact": {"kind": "openvino-genai", "entry": "m.xml"}, "precision": weights,
                   "threads": 2},
        "state": state, "cause": cause, "comparisons": PARITY["comparisons"], "rates": rates or {}, "memory": 532_000_000,
        "perplexity": 20.062, "size": 144_000_000,
    }  # fmt: skip


MEASUREMENT = {
    "processor": {"model": "EPYC", "cores": 2}, "sample": "built-in", "reference": "the source's logits", "perplexity": 19.912,
    "tried": [tried("bf16", rates={"1": 4.0, "8": 20.0}), tried("int8", rates={"1": 8.9, "8": 50.1}),
              tried("int4", "outside_tolerance", "Its perplexity is 25.11.")],
}  # fmt: skip


@pytest.fixture
def ask(serve: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """`ask(answers, *command)`: answers by pattern of method and path."""

    def run(answers: dict[str, Any], *command: str) -> str:
        def answer(request: Request) -> Response:
            asked = f"{request.method} {'/' + '/'.join(request.parts)}"
            return next(json_answer(body) for pattern, body in answers.items() if re.fullmatch(pattern, asked))

        code, out, err = Terminal(serve(answer), capsys)(*command)
        assert code == 0, err
        return str(out)

    return run


VERSIONS = {"GET /api/v1/models/writer/versions": page([VARIANT, SOURCE])}


def test_show_says_what_it_is_and_lists_its_variants(ask: Any) -> None:
    measured = SOURCE | {"measurement": MEASUREMENT | {"job": "job-000007", "at": NOW - 60, "chosen": {"2": 1}}}
    out = ask({"GET /api/v1/versions/writer:1": measured, **VERSIONS}, "show", "writer:1")
    for line in (
        r"parameters +134,515,008", r"weights +bf16", r"context +8,192 tokens", r"vocabulary +49,152 tokens",
        r"chat template +yes  tools: hermes", r"sampling +temperature 0.6, top_p 0.9",
        r"weights on EPYC, 2 cores; .*\(sample built-in, perplexity 19.91\), 60 s ago",
        r"★ +int8 +openvino-genai +8.9 +50.1 +20.06 +0.99057 +93.8% +144 MB +532 MB +fits",
        r" +int4 +openvino-genai +– +– .*outside_tolerance",
        r"int4: Its perplexity is 25.11.",
        r"★ int8: the fastest of those within the tolerance, 21.1 tokens/s \(geometric mean\)",
        r"writer:2 +int8 +openvino-genai +144 MB +20.06 +0.99057 +2 min ago",
    ):  # fmt: skip
        assert re.search(rf"^{line}", out, re.MULTILINE), line
    assert "inputs" not in out


def test_show_of_a_variant_tells_how_it_was_held_against_its_source(ask: Any) -> None:
    out = ask({"GET /api/v1/versions/writer:2": VARIANT, **VERSIONS}, "show", "writer:2")
    assert "parity          writer:1 → openvino-genai int8: within tolerance (sample built-in)" in out
    assert "perplexity 19.912 → 20.062 (+0.75%; at most +3.00%)" in out
    assert "logits: least cosine 0.99057, the same token 93.8%" in out
    assert "variants of" not in out


def test_convert_says_what_was_made_or_found(ask: Any) -> None:
    result: dict[str, Any] = {"version": "writer:2", "created": True, "weights": "int8", "parity": PARITY}

    def convert(**more: Any) -> str:
        job = JOBS[1] | {"subject": "writer:1", "result": result | more}
        answers = {"GET /api/v1/versions/writer:1": SOURCE, "POST /api/v1/jobs": job, "GET /api/v1/jobs/job-000008": job}
        return str(ask(answers, "convert", "writer:1", "--to", "openvino-genai", "--weights", "int8"))

    assert "writer:2 is registered: writer:1 as openvino-genai int8." in convert()
    assert "writer:2 was made of writer:1 before, as openvino-genai int8." in convert(created=False, known=True)
    assert "★ int8: the fastest" in convert(measurement=MEASUREMENT)


def test_parity_of_a_generator_has_its_own_figures(ask: Any) -> None:
    job = JOBS[1] | {"result": {"version": "writer:2", "rows": 768, "parity": [PARITY]}}
    answers = {"GET /api/v1/versions/writer:2": VARIANT, "POST /api/v1/jobs": job, "GET /api/v1/jobs/job-000008": job}
    out = ask(answers, "parity", "writer:2")
    assert out.splitlines() == [
        "writer:2 on 768 tokens",
        "  writer:1 → openvino-genai int8: within tolerance (sample built-in)",
        "  perplexity 19.912 → 20.062 (+0.75%; at most +3.00%)",
        "  logits: least cosine 0.99057, the same token 93.8%",
    ]


def test_what_a_deployment_waits_for_is_told_with_its_progress(ask: Any) -> None:
    waiting = DEPLOYMENTS[0] | {"model": "digits", "version": 1, "state": "starting", "measuring": "job-000009", "ready": 0}
    answers = {
        "GET /api/v1/deployments": page([waiting]), "GET /api/v1/replicas": [], "GET /api/v1/jobs/job-000009": JOBS[0],
        "POST /api/v1/deployments": waiting,
    }  # fmt: skip
    assert "weights are being converted by job-000009 (comparing 25%)" in ask(answers, "ps")
    out = ask(answers, "deploy", "digits", "--weights", "int8", "--wait", "0")
    assert "It waits: weights are being converted by job-000009 (comparing 25%)." in out
    answers["GET /api/v1/jobs/job-000009"] = JOBS[0] | {"kind": "measure", "state": "queued"}
    assert "engines are being measured by job-000009 (queued)" in ask(answers, "ps")


def test_ps_of_one_deployment_says_why_it_has_its_engine(ask: Any) -> None:
    why = "Its conversion (job-000007) has failed: It answers otherwise; openmaas jobs show job-000007"
    one = DEPLOYMENTS[0] | {"engine": {"name": "transformers", "threads": 0, "why": why}}
    answers = {"GET /api/v1/deployments/digits": one, "GET /api/v1/deployments": page([one]), "GET /api/v1/replicas": []}
    assert f"engine  transformers ({why})" in ask(answers, "ps", "digits")
    assert why not in ask(answers, "ps")
