"""Images, texts and tables from the outside: push, deploy, then plain HTTP, forms, the CLI and the client."""

from __future__ import annotations

import base64
import io
import socket
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.acceptance.conftest import Server

pytest.importorskip("PIL")
pytest.importorskip("tokenizers")
pandas = pytest.importorskip("pandas")
pytest.importorskip("skl2onnx")

from PIL import Image  # noqa: E402
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.ensemble import RandomForestClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder  # noqa: E402

from tests.acceptance.pictures_and_words import colour_net, word_vectors  # noqa: E402


def picture(colour: str, kind: str = "PNG", size: tuple[int, int] = (60, 40), **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind, **options)
    return stream.getvalue()


def people() -> tuple[Any, Any]:
    random = np.random.default_rng(4)
    frame = pandas.DataFrame(
        {
            "age": random.integers(18, 80, 200),
            "income": random.normal(3000, 900, 200).round(2),
            "city": random.choice(["Bonn", "Ulm"], 200),
        }
    )
    bought = np.where((frame["age"] > 50) & (frame["city"] == "Ulm"), "yes", "no")
    encode = ColumnTransformer([("city", OneHotEncoder(), ["city"])], remainder="passthrough")
    return make_pipeline(encode, RandomForestClassifier(10, random_state=0)).fit(frame, bought), frame


@pytest.fixture(scope="module")
def ready(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("models")
    client = server.client()
    for name, path in (("colours", colour_net(folder / "colours")), ("words", word_vectors(folder / "words"))):
        client.push(path, name=name)
        client.deploy(name)
    model, frame = people()
    client.push(model, name="people", sample=frame)
    client.deploy("people")
    return server


def ask(server: Server, name: str, **request: Any) -> httpx.Response:
    headers = {"x-api-key": server.key} | request.pop("headers", {})
    return httpx.post(f"{server.gateway}/predict/{name}", headers=headers, trust_env=False, timeout=60, **request)


def typed(content: bytes, kind: str) -> dict[str, Any]:
    return {"content": content, "headers": {"content-type": kind}}


def test_an_image_body(ready: Server) -> None:
    for kind, content_type in (
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("WEBP", "image/webp"),
        ("PNG", "application/octet-stream"),
    ):
        answer = ask(ready, "colours", params={"top": 2}, **typed(picture("lime", kind), content_type))
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["model"], body["version"], body["notes"]) == ("colours", 1, [])
        (row,) = body["predictions"]
        assert row["label"] == "green" and len(row["top"]) == 2
        assert row["probability"] == pytest.approx(np.exp(4) / (np.exp(4) + 2), abs=0.02)
        assert "prepare;dur=" in answer.headers["server-timing"]


def test_a_form_with_several_images(ready: Server) -> None:
    files = [("files", (f"{colour}.png", picture(colour), "image/png")) for colour in ("red", "blue", "lime")]
    answer = ask(ready, "colours", files=files)
    assert [row["label"] for row in answer.json()["predictions"]] == ["red", "blue", "green"]


def test_images_as_json_and_in_the_other_protocols(ready: Server) -> None:
    text = base64.b64encode(picture("red")).decode()
    assert ask(ready, "colours", json={"image": text}).json()["predictions"][0]["label"] == "red"
    body = {"instances": [{"b64": text}]}
    v1 = httpx.post(
        f"{ready.gateway}/v1/models/colours:predict", json=body, headers={"x-api-key": ready.key}, trust_env=False
    ).json()
    assert v1["predictions"][0]["label"] == "red"
    found = ready.client().predict("colours", [picture("blue"), picture("red", "BMP")])
    assert found["label"].tolist() == [b"blue", b"red"]
    assert np.allclose(found["probabilities"].sum(axis=1), 1, atol=1e-6)


def test_texts(ready: Server) -> None:
    def vectors(**request: Any) -> np.ndarray[Any, Any]:
        answer = ask(ready, "words", **request)
        assert answer.status_code == 200, answer.text
        return np.array([row["embedding"] for row in answer.json()["predictions"]])

    both = vectors(json=["the cat sat", "the dog ran far away"])
    assert both.shape == (2, 16) and np.allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors(json={"text": "the cat sat"}), both[:1], atol=1e-6), "alone as beside a longer one"
    assert np.allclose(vectors(**typed(b"the cat sat", "text/plain")), both[:1], atol=1e-6)
    assert np.allclose(
        vectors(data={"text": ["the cat sat", "the dog ran far away"]}, files=[("text", (None, "the cat"))])[:2],
        both,
        atol=1e-6,
    )
    found = ready.client().predict("words", ["the cat sat", "the dog ran far away"])
    assert np.allclose(found["embedding"], both, atol=1e-6)
    long = ask(ready, "words", json=["the cat", "the " * 20]).json()
    assert long["notes"] == [{"row": 1, "truncated": True, "tokens": 22, "limit": 8}]


def test_tables(ready: Server) -> None:
    old, young = {"age": 70, "income": 3000.0, "city": "Ulm"}, {"age": 20, "income": 3000.0, "city": "Ulm"}
    rows = ask(ready, "people", json=[old, young]).json()["predictions"]
    assert [row["label"] for row in rows] == ["yes", "no"]
    assert all(0.5 <= row["probability"] <= 1 for row in rows)
    csv = b"city,age,income\nUlm,70,3000\nUlm,20,3000\n"
    assert ask(ready, "people", **typed(csv, "text/csv")).json()["predictions"] == rows
    columns = {"columns": {name: [old[name], young[name]] for name in old}}
    assert ask(ready, "people", json=columns).json()["predictions"] == rows
    assert (
        ask(ready, "people", files={name: (None, str(value)) for name, value in old.items()}).json()["predictions"] == rows[:1]
    )
    wrong = ask(ready, "people", json=[old, {**young, "city": "Rom"}])
    assert wrong.status_code == 400
    assert wrong.json()["error"].startswith("Row 1, column 'city': expected one of 'Bonn', 'Ulm'; 'Rom'")


@pytest.mark.parametrize(
    ("name", "request_", "status", "words"),
    [
        ("colours", {"json": "no base64!"}, 400, "not valid base64"),
        ("colours", typed(b"<svg/>", "image/svg+xml"), 400, "expected PNG, JPEG"),
        ("colours", typed(b"a,b\n1,2\n", "text/csv"), 415, "image/*"),
        ("colours", {"data": {"a": "b"}}, 415, "x-www-form-urlencoded"),
        ("colours", {"json": {"image": 3}}, 400, "expected an image in base64"),
        ("colours", {"params": {"tpo": "3"}, "json": "x"}, 400, "'tpo'"),
        ("colours", {"params": {"top": "0"}, "json": "x"}, 400, "top"),
        ("words", {"params": {"top": "3"}, "json": ["a"]}, 400, "names none"),
        ("words", {"json": [1]}, 400, "Row 0: expected a text; a number came"),
        ("words", typed(b"\xff\xfe", "text/plain"), 400, "UTF-8"),
        ("people", {"json": {"age": 1}}, 400, "lacks the column"),
        ("people", typed(b"[" * 10_000, "application/json"), 400, "nested too deep"),
        ("people", typed(b"[NaN]", "application/json"), 400, "JSON"),
        ("nothing", {"json": []}, 404, "nothing"),
        ("words", {"params": {"version": "9"}, "json": ["a"]}, 404, "9"),
    ],
)
def test_what_cannot_be_meant_gets_its_reason(
    ready: Server, name: str, request_: dict[str, Any], status: int, words: str
) -> None:
    answer = ask(ready, name, **{key: dict(value) if key == "headers" else value for key, value in request_.items()})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    assert answer.json()["request_id"]


def test_the_route_needs_a_key_and_a_post(ready: Server) -> None:
    url = f"{ready.gateway}/predict/words"
    assert httpx.post(url, json=["a"], timeout=60, trust_env=False).status_code == 401
    wrong = httpx.get(url, headers={"x-api-key": ready.key}, timeout=60, trust_env=False)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


def test_bytes_by_hand_without_a_content_type(ready: Server) -> None:
    content = picture("red")
    head = (
        f"POST /predict/colours?version=1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: {ready.key}\r\nContent-Length: {len(content)}\r\n"
    )
    with socket.create_connection(("127.0.0.1", ready.http_port), timeout=60) as client:
        client.sendall(head.encode() + b"Connection: close\r\n\r\n" + content)
        answer = b""
        while part := client.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200") and b'"label":"red"' in answer


def test_the_command_line(ready: Server, tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(picture("blue", "JPEG"))
    shown = ready.run("predict", "colours", "--input", str(tmp_path / "photo"), "--top", "3").stdout
    assert [line.split()[:2] for line in shown.splitlines()[1:2]] == [["0", "blue"]] and "█" in shown
    answer = ready.json("predict", "words", "--text", "the cat", "--text", "a dog")
    assert [len(row["embedding"]) for row in answer["predictions"]] == [16, 16]
    (tmp_path / "rows.csv").write_text("age,income,city\n70,3000,Ulm\n")
    assert "yes" in ready.run("predict", "people", "--input", str(tmp_path / "rows.csv")).stdout
    refused = ready.run("predict", "people", "--text", "x", check=False)
    assert refused.returncode == 1 and "Row 0" in refused.stderr
    described = ready.run("show", "colours").stdout
    assert "image" in described


def test_a_declaration_that_does_not_fit_is_refused_at_push(ready: Server, tmp_path: Path) -> None:
    folder = colour_net(tmp_path / "wrong")
    (folder / "openmaas.yaml").write_text("processing: {input: {kind: image, height: 64, width: 32}}\n")
    refused = ready.run("push", str(folder), "--name", "wrong", check=False)
    assert refused.returncode == 1
    assert "processing.input.height: 64 was declared; 'pixels' takes [-1, 3, 32, 32]" in refused.stderr
