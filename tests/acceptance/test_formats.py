"""Every format through the real program: pushed, shown, deployed, asked; its answers beside those of its own library."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from openmaas.core.errors import Cancelled, Refused
from openmaas.formats.huggingface.sentences import LONG, SENTENCES
from tests.acceptance.conftest import Server, make_server, stop_all
from tests.acceptance.generators import async_client_of, client_of, http_of
from tests.integration.formats.test_saved_model import MADE

pytestmark = pytest.mark.timeout(300)  # libraries that are loaded for the first time, on a busy machine
EQUAL: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = make_server(tmp_path_factory.mktemp("home"), examine_timeout=600, hold_timeout=30)
    server.up()
    yield server
    stop_all(server)


def push(server: Server, path: Path, name: str, *words: str) -> Any:
    """By the command line; what `show` says of it then."""
    server.run("push", str(path), "--name", name, *words, timeout=280)
    return server.json("show", name)["manifest"]


def deploy(server: Server, name: str, engine: str = "") -> Any:
    """The engine that serves."""
    info = server.json("deploy", name, *(("--engine", engine) if engine else ()))
    assert info["state"] == "ready"
    return info["engine"]["name"]


def signature(manifest: Any) -> list[tuple[str, str, list[int]]]:
    tensors = [*manifest["signature"]["inputs"], *manifest["signature"]["outputs"]]
    return [(one["name"], one["datatype"], one["shape"]) for one in tensors]


def post(server: Server, name: str, body: Any, status: int = 200) -> Any:
    answer = httpx.post(
        f"{server.gateway}/predict/{name}", json=body, headers={"Authorization": f"Bearer {server.key}"}, timeout=60
    )
    assert answer.status_code == status, answer.text
    return answer.json()


# ── PyTorch and Keras ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def network() -> tuple[Any, Any, Any]:
    """A trained module, rows, and its own answers to them."""
    torch = pytest.importorskip("torch")
    from tests.integration.formats.torch_models import perceptron

    module, rows = perceptron()
    module.eval()
    with torch.no_grad():
        return module, rows, module(rows).numpy()


def check_network(server: Server, name: str, manifest: Any, network: tuple[Any, Any, Any], engines: tuple[str, ...]) -> None:
    _, rows, expected = network
    assert manifest["format"] == "torch"
    assert manifest["batchable"]
    assert [(datatype, shape) for _, datatype, shape in signature(manifest)] == [("FP32", [-1, 4]), ("FP32", [-1, 3])]
    for engine in engines:
        assert deploy(server, name, engine) == (engine or "onnxruntime")
        (answer,) = server.client().predict(name, rows.numpy()).values()
        np.testing.assert_allclose(answer, expected, **EQUAL)


def test_a_live_module(server: Server, network: tuple[Any, Any, Any]) -> None:
    module, rows, expected = network
    pushed = server.client().push(module, name="live", sample=rows)
    assert pushed.version.manifest["parity"]["comparisons"]
    check_network(server, "live", server.json("show", "live")["manifest"], network, ("", "torch", "openvino"))
    told = post(server, "live", rows[:3].tolist())["predictions"]
    np.testing.assert_allclose([next(iter(row.values())) for row in told], expected[:3], **EQUAL)


def test_a_torchscript_file_with_a_sample(server: Server, network: tuple[Any, Any, Any], tmp_path: Path) -> None:
    import torch

    module, rows, _ = network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated: people have such files
        torch.jit.save(torch.jit.trace(module, rows), tmp_path / "model.pt")
    np.save(tmp_path / "rows.npy", rows.numpy())
    manifest = push(server, tmp_path / "model.pt", "script", "--sample", str(tmp_path / "rows.npy"))
    check_network(server, "script", manifest, network, ("", "torch"))


def test_an_exported_program(server: Server, network: tuple[Any, Any, Any], tmp_path: Path) -> None:
    import torch

    module, rows, _ = network
    program = torch.export.export(module, (rows,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "model.pt2")
    manifest = push(server, tmp_path / "model.pt2", "program")
    check_network(server, "program", manifest, network, ("", "torch"))


def test_a_keras_file(server: Server, tmp_path: Path) -> None:
    keras_models = pytest.importorskip("tests.unit.formats.keras_models")  # says which backend before it imports keras
    model = keras_models.perceptron()
    path = keras_models.save(model, tmp_path / "model.keras")
    rows = np.random.default_rng(1).uniform(0, 16, (5, 64)).astype(np.float32)
    expected = model(rows).detach().numpy()
    manifest = push(server, path, "keras")
    assert manifest["format"] == "keras"
    assert signature(manifest) == [("pixels", "FP32", [-1, 64]), ("digit", "FP32", [-1, 10])]
    for engine in ("", "keras"):
        deploy(server, "keras", engine)
        np.testing.assert_allclose(server.client().predict("keras", rows)["digit"], expected, **EQUAL)


# ── trees ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def flowers() -> tuple[Any, Any]:
    pytest.importorskip("pandas")
    from sklearn.datasets import load_iris

    frame, labels = load_iris(return_X_y=True, as_frame=True)
    frame.columns = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    return frame.astype(np.float32), labels


def check_trees(server: Server, name: str, manifest: Any, frame: Any, expected: Any, engines: tuple[str, ...]) -> None:
    assert manifest["processing"]["input"]["kind"] == "table"
    assert [column["name"] for column in manifest["processing"]["input"]["columns"]] == list(frame.columns)
    rows = frame[::30]
    table = Path(server.home).parent / f"{name}.csv"
    rows.to_csv(table, index=False)
    for engine in engines:
        deploy(server, name, engine)
        by_file = server.json("predict", name, "--input", str(table))["predictions"]
        by_json = post(server, name, rows.to_dict("records"))["predictions"]
        for told in (by_file, by_json):
            assert [row["label"] for row in told] == [str(label) for label in expected[::30].argmax(1)]
            np.testing.assert_allclose([row["probability"] for row in told], expected[::30].max(1), **EQUAL)


def test_an_xgboost_file(server: Server, flowers: tuple[Any, Any], tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    frame, labels = flowers
    trees = xgboost.XGBClassifier(n_estimators=10, max_depth=3).fit(frame, labels)
    trees.save_model(tmp_path / "booster.json")
    manifest = push(server, tmp_path / "booster.json", "xgboost")
    assert manifest["format"] == "boosters"
    check_trees(server, "xgboost", manifest, frame, trees.predict_proba(frame), ("", "xgboost"))


def test_a_lightgbm_file(server: Server, flowers: tuple[Any, Any], tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    frame, labels = flowers
    trees = lightgbm.LGBMClassifier(n_estimators=10, num_leaves=7, verbose=-1).fit(frame, labels)
    trees.booster_.save_model(tmp_path / "booster.txt")
    manifest = push(server, tmp_path / "booster.txt", "lightgbm")
    assert manifest["format"] == "boosters"
    check_trees(server, "lightgbm", manifest, frame, trees.predict_proba(frame), ("", "lightgbm"))


# ── TensorFlow's files ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_tflite_file(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from tests.unit.formats.tflite_models import digits, perceptron

    trained, images, _ = digits()
    manifest = push(server, perceptron(tmp_path / "model.tflite"), "lite")
    assert manifest["format"] == "tflite"
    assert [name for name, _, _ in signature(manifest)] == ["pixels", "digit"]
    assert deploy(server, "lite") == "litert"
    answer = server.client().predict("lite", images[:5])["digit"]
    np.testing.assert_allclose(answer, trained.predict_proba(images[:5]), **EQUAL)


def saved_model_answers(rows: Any) -> Any:
    with np.load(MADE / "weights.npz") as trained:
        scores = rows @ trained["weights"] + trained["bias"]
    scores = np.exp(scores - scores.max(1, keepdims=True))
    return scores / scores.sum(1, keepdims=True)


def test_a_saved_model_waits_for_its_conversion(server: Server) -> None:
    client = server.client()
    pushed = client.push(MADE / "digits", name="waiting")
    (job,) = pushed.jobs
    client.cancel_job(job)
    assert client.job(job).kind == "convert"
    shown = server.json("show", "waiting")["manifest"]
    assert (shown["format"], shown["engine"]) == ("saved-model", "")
    assert [name for name, _, _ in signature(shown)] == ["pixels", "digit", "probabilities"]
    refused = server.run("deploy", "waiting", check=False)
    assert refused.returncode
    assert "openmaas convert waiting:1 --to onnx" in refused.stderr
    with pytest.raises(Cancelled):
        client.wait_job(job, timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_saved_model_is_converted_by_the_job_of_its_push(server: Server) -> None:
    client = server.client()
    (job,) = client.push(MADE / "digits", name="saved").jobs
    assert client.wait_job(job, timeout=1500).result["version"] == "saved:2"
    assert deploy(server, "saved") == "onnxruntime"
    rows = np.random.default_rng(1).uniform(0, 16, (5, 64)).astype(np.float32)
    answer = client.predict("saved", rows)
    expected = saved_model_answers(rows)
    np.testing.assert_allclose(answer["probabilities"], expected, **EQUAL)
    np.testing.assert_array_equal(answer["digit"], expected.argmax(1))


# ── a real encoder ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def minilm(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2, pushed as its folder is and deployed."""
    pytest.importorskip("transformers")
    from tests.unit.formats.encoders import copy_minilm

    folder = copy_minilm(tmp_path_factory.mktemp("source") / "minilm")
    manifest = push(server, folder, "minilm")
    assert manifest["format"] == "huggingface"
    assert (manifest["processing"]["input"]["kind"], manifest["processing"]["output"]["kind"]) == ("text", "embedding")
    assert deploy(server, "minilm") == "onnxruntime"
    return folder


def vectors(folder: Path, texts: list[str]) -> Any:
    """transformers alone, pooled as the model's card says."""
    import torch

    from tests.integration.formats.test_huggingface import theirs

    found, encoded = theirs(folder, "AutoModel", texts, 256)
    mask = encoded["attention_mask"].unsqueeze(-1)
    mean = (found.last_hidden_state * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1).numpy()


@pytest.mark.slow
def test_a_real_encoder_answers_texts_as_transformers(server: Server, minilm: Path) -> None:
    texts = [*SENTENCES[:2], LONG]
    told = server.json("predict", "minilm", "--text", texts[0], "--text", texts[1], "--text", texts[2])
    np.testing.assert_allclose([row["embedding"] for row in told["predictions"]], vectors(minilm, texts), atol=1e-4)
    (note,) = told["notes"]
    assert (note["row"], note["truncated"], note["limit"]) == (2, True, 256)
    assert "row 2: truncated" in server.run("predict", "minilm", "--text", "a", "--text", "b", "--text", LONG).stdout


@pytest.mark.slow
def test_a_real_encoder_takes_bytes_from_an_unmodified_client(server: Server, minilm: Path) -> None:
    triton = pytest.importorskip("tritonclient.http")
    texts = list(SENTENCES[:3])
    client = triton.InferenceServerClient(f"127.0.0.1:{server.http_port}")
    try:
        metadata = client.get_model_metadata("minilm", headers={"Authorization": f"Bearer {server.key}"})
        asked = triton.InferInput("text", [len(texts)], "BYTES")
        asked.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=object))
        answer = client.infer("minilm", [asked], headers={"Authorization": f"Bearer {server.key}"})
    finally:
        client.close()
    assert metadata["name"] == "minilm"
    np.testing.assert_allclose(answer.as_numpy("embedding"), vectors(minilm, texts), atol=1e-4)


@pytest.mark.usefixtures("minilm")
def test_a_real_encoder_s_embeddings_in_openai_s_words(server: Server) -> None:
    with client_of(server) as client, http_of(server) as http:
        check_embeddings(server, client, http)


def check_embeddings(server: Server, client: openai.OpenAI, http: httpx.Client) -> None:
    texts = ["Ein Modell.", "模型即服务", "a dog", "a hound", "the price of gold"]
    predicted = http.post("/predict/minilm", json=texts).json()["predictions"]
    expected = np.array([row["embedding"] for row in predicted], np.float32)

    told = client.embeddings.create(model="minilm", input=texts, encoding_format="float")
    assert [one.index for one in told.data] == list(range(5))
    np.testing.assert_allclose([one.embedding for one in told.data], expected, atol=1e-5)
    assert told.model == "minilm"
    unasked = client.embeddings.create(model="minilm", input=texts)
    np.testing.assert_allclose([one.embedding for one in unasked.data], expected, atol=1e-5)
    raw = http.post("/v1/embeddings", json={"model": "minilm", "input": texts[0], "encoding_format": "base64"}).json()
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4"), expected[0], atol=1e-5)
    one = client.embeddings.create(model="minilm", input=texts[2])
    np.testing.assert_allclose(one.data[0].embedding, expected[2], atol=1e-5)
    assert expected[2] @ expected[3] > expected[2] @ expected[4] + 0.2, "they mean something"

    assert told.usage.prompt_tokens == told.usage.total_tokens > len(texts) * 3
    alone = [client.embeddings.create(model="minilm", input=text).usage.prompt_tokens for text in texts]
    assert sum(alone) == told.usage.prompt_tokens
    assert len(client.embeddings.create(model="minilm", input=texts, dimensions=384).data[0].embedding) == 384
    for more, param in (({"dimensions": 128}, "dimensions"), ({"input": "word " * 5000}, "input"), ({"input": []}, "input")):
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(**({"model": "minilm", "input": "a"} | more))
        assert (refused.value.param or "").startswith(param), refused.value.message
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="minilm", messages=[{"role": "user", "content": "a"}])

    async def many() -> list[Any]:
        async with async_client_of(server) as parallel:
            return await asyncio.gather(
                *(parallel.embeddings.create(model="minilm", input=texts[number % 5]) for number in range(20))
            )

    for number, answer in enumerate(asyncio.run(many())):
        np.testing.assert_allclose(answer.data[0].embedding, expected[number % 5], atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_encoder_converted_and_compared(server: Server, minilm: Path) -> None:
    server.run("convert", "minilm", "--to", "openvino", timeout=280)
    version = server.json("show", "minilm:2")
    assert (version["engine"], version["parent"]) == ("openvino", "minilm:1")
    compared = server.run("parity", "minilm:2", "--json", timeout=280).stdout
    found = {one["target"]: one["passed"] for one in json.loads(compared)["result"]["parity"]}
    assert found["openvino"]
    assert deploy(server, "minilm:2") == "openvino"
    texts = list(SENTENCES[:3])
    told = post(server, "minilm", texts)["predictions"]
    np.testing.assert_allclose([row["embedding"] for row in told], vectors(minilm, texts), atol=1e-4)


# ── code, and a graph that takes one row ─────────────────────────────────────────────────────────────────────────────


def test_a_python_function_needs_an_approval(server: Server, tmp_path: Path) -> None:
    from tests.integration.formats.test_function import write

    digest = write(tmp_path)
    with pytest.raises(Refused):
        server.client().push(tmp_path, name="function")
    refused = server.run("push", str(tmp_path), "--name", "function", check=False)
    assert refused.returncode
    assert f"openmaas approve {digest}" in refused.stderr
    server.run("approve", digest, "--reason", "ours")
    manifest = push(server, tmp_path, "function")
    assert manifest["format"] == "function"
    assert signature(manifest) == [("x", "FP32", [-1, 2]), ("y", "FP32", [-1])]
    assert deploy(server, "function") == "function"
    rows = np.array([[1, 2], [3, 4]], np.float32)
    np.testing.assert_allclose(server.client().predict("function", rows)["y"], 2 * rows @ [1, 10])


def test_a_graph_with_a_fixed_batch_of_one(server: Server, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from tests.unit.formats import models

    path = models.save(models.fixed_batch(), tmp_path)
    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    rows = np.random.default_rng(1).standard_normal((5, *given.shape[1:])).astype(np.float32)
    expected = np.concatenate([session.run(None, {given.name: row[None]})[0] for row in rows])
    manifest = push(server, path, "fixed")
    assert manifest["format"] == "onnx"
    for engine in ("", "openvino"):
        deploy(server, "fixed", engine)
        (answer,) = server.client().predict("fixed", rows).values()
        np.testing.assert_allclose(answer, expected, **EQUAL)


def test_what_is_refused_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    shutil.copytree(MADE / "writing", tmp_path / "writing")
    refused = server.run("push", str(tmp_path / "writing"), "--name", "writing", "--json", check=False)
    assert refused.returncode
    assert "WriteFile" in refused.stderr
    assert "writing" not in {model["name"] for model in server.json("ls")["items"]}
