"""Quantisation by onnxruntime and NNCF: on a network that knows digits, and on a real encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from openmaas.core.errors import Refused
from openmaas.core.manifest import Artifact, Manifest
from openmaas.core.processing import Padding
from openmaas.core.recipes import Quantize
from openmaas.core.types import Signature, TensorSpec
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.base import Piece
from openmaas.tasks.optimization.checks import least_cosine, opened
from openmaas.tasks.optimization.passes import quantize
from tests.unit.formats.encoders import minilm
from tests.unit.tasks.optimization.graphs_for_tests import Array, answers, bench, piece, weights

_WORDS = "the old farmer sold his broken tractor before a storm reached our quiet village and nobody in town asked why"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, digits: tuple[Array, Array]) -> Piece:
    """Random convolutions whose features a linear layer was fitted to."""
    pixels, labels = digits
    convolutions = [
        helper.make_node("Conv", ["x", "a.w"], ["a"], name="a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["ar"], name="ar"),
        helper.make_node("Conv", ["ar", "b.w"], ["b"], name="b"),
        helper.make_node("Relu", ["b"], ["br"], name="br"),
        helper.make_node("MaxPool", ["br"], ["p"], name="p", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    tensors = {"a.w": weights(16, 1, 3, 3) / 2, "b.w": weights(24, 16, 3, 3, seed=1) / 8}
    folder = tmp_path_factory.mktemp("digits")
    features = piece(
        folder / "features", [*convolutions, helper.make_node("Flatten", ["p"], ["y"])], tensors, (1, 8, 8), width=216
    )
    known = answers(features, {"x": pixels[:1200]})
    fitted = np.linalg.lstsq(known.T @ known + 10 * np.eye(216), known.T @ np.eye(10)[labels[:1200]], rcond=None)[0]
    head = [
        helper.make_node("Flatten", ["p"], ["f"], name="f"),
        helper.make_node("Gemm", ["f", "head.w"], ["y"], name="head", transB=1),
    ]
    tensors["head.w"] = np.ascontiguousarray(fitted.T.astype(np.float32))
    return piece(folder / "model", [*convolutions, *head], tensors, (1, 8, 8), width=10)


def training(pixels: Array) -> Examples:
    return Examples(inputs={"x": pixels[:1200]}, truth=None, task="agreement", index=np.arange(1200), digest="")


def accuracy(of: Piece, digits: tuple[Array, Array]) -> float:
    pixels, labels = digits
    return float((answers(of, {"x": pixels[1200:]}).argmax(1) == labels[1200:]).mean())


@pytest.mark.parametrize(
    "parameters",
    [
        {"method": "dynamic"},
        {"method": "dynamic", "per_channel": False, "symmetric": True},
        {"method": "static"},
        {"method": "static", "symmetric": True, "per_channel": False},
        {"method": "static", "calibration": "entropy", "samples": 64},
        {"method": "static", "calibration": "percentile", "samples": 64},
        {"method": "weights", "bits": 4},
        {"method": "affine", "bits": 4},
        {"method": "static", "tool": "openvino", "samples": 64},
        {"method": "static", "tool": "openvino", "samples": 64, "calibration": "percentile", "symmetric": True},
        {"method": "weights", "tool": "openvino"},
        {"method": "weights", "tool": "openvino", "bits": 4, "samples": 16},
    ],
    ids=lambda parameters: " ".join(map(str, parameters.values())),
)
def test_every_method_keeps_what_the_network_knows(
    tmp_path: Path, network: Piece, digits: tuple[Array, Array], parameters: dict[str, Any]
) -> None:
    made = quantize.run(network, Quantize(**parameters), bench(tmp_path / "bench", training(digits[0])))
    assert made.facts["quantize"]["layers"] == 3 and not made.facts["quantize"]["in_float"]
    assert accuracy(network, digits) > 0.9
    assert accuracy(made, digits) > accuracy(network, digits) - 0.03
    assert made.artifact.kind == ("openvino" if parameters.get("tool") else "onnx")
    kept = {path.name for path in made.folder.iterdir()}
    assert kept == ({"model.xml", "model.bin"} if parameters.get("tool") else {"model.onnx"})


def test_ranges_of_made_up_inputs_lose_more_than_those_of_data(
    tmp_path: Path, network: Piece, digits: tuple[Array, Array]
) -> None:
    data = training(digits[0] * 16)  # as scikit-learn has them, far from what is made up
    found = {
        name: quantize.run(network, Quantize(method="static", calibration=name), bench(tmp_path / name, data)).facts["quantize"]
        for name in ("min-max", "random")
    }  # fmt: skip
    assert found["random"]["least_cosine"] < found["min-max"]["least_cosine"] - 0.05


def test_the_worst_layers_of_a_calibrated_network_stay_in_float(
    tmp_path: Path, network: Piece, digits: tuple[Array, Array]
) -> None:
    step = Quantize(method="static", keep_worst=0.3, samples=64)
    facts = quantize.run(network, step, bench(tmp_path / "bench", training(digits[0]))).facts["quantize"]
    assert len(facts["sensitivity"]) == 3 and facts["in_float"] == [facts["sensitivity"][0][0]]


def test_nncf_says_what_it_cannot(tmp_path: Path, network: Piece, digits: tuple[Array, Array]) -> None:
    for number, (step, told) in enumerate(
        [
            (Quantize(method="static", tool="openvino", calibration="entropy"), "no calibration by entropy"),
            (Quantize(method="static", tool="openvino", keep_worst=0.2), "keep_worst searches with onnxruntime"),
        ]
    ):
        with pytest.raises(Refused, match=told):
            quantize.run(network, step, bench(tmp_path / str(number), training(digits[0])))


def test_openvinos_ir_is_quantised_too(tmp_path: Path, network: Piece, digits: tuple[Array, Array]) -> None:
    from openmaas.engines.openvino.model import write_ir

    (tmp_path / "ir").mkdir()
    write_ir(network.path, tmp_path / "ir" / "model.xml")
    before = network.changed(type(network.artifact)(kind="openvino", entry="model.xml"), tmp_path / "ir")
    step = Quantize(method="weights", tool="openvino", exclude=("head*",))
    made = quantize.run(before, step, bench(tmp_path / "bench"))
    assert made.facts["quantize"]["layers"] == 2 and len(made.facts["quantize"]["in_float"]) == 1
    assert abs(accuracy(made, digits) - accuracy(network, digits)) < 0.01


def test_openvino_is_told_how_many_inputs_share_a_scale(tmp_path: Path, network: Piece) -> None:
    import openvino

    made = quantize.run(network, Quantize(method="weights", tool="openvino", inputs_group=64), bench(tmp_path / "bench"))
    compiled = openvino.Core().compile_model(str(made.path), "CPU")
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 64
    with pytest.raises(ValueError, match="belongs to tool openvino"):
        Quantize(method="weights", inputs_group=64).check()


def test_trees_are_told_what_can_be_done(tmp_path: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.datasets import load_iris
    from sklearn.ensemble import GradientBoostingClassifier

    rows, labels = load_iris(return_X_y=True)
    model = to_onnx(GradientBoostingClassifier(n_estimators=3).fit(rows, labels), rows[:1].astype(np.float32))
    before = piece(tmp_path / "model", [helper.make_node("Relu", ["x"], ["y"])], {}, (4,))
    before.path.write_bytes(model.SerializeToString())
    with pytest.raises(Refused, match=r"1 TreeEnsemble.*no Conv.*MatMul") as error:
        quantize.run(before, Quantize(), bench(tmp_path / "bench"))
    assert "method: trees" in str(error.value.next_step)


# ── a real encoder ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Piece:
    from openmaas.engines.huggingface.encoder import Encoder, EncoderOptions
    from openmaas.formats.huggingface.exporting import write_onnx

    folder = tmp_path_factory.mktemp("minilm")
    names = ("input_ids", "attention_mask")
    options = EncoderOptions(task="embedding", inputs=names, outputs=("y",), poolings=("mean",), normalize=True)
    example = {name: np.ones((3, 7), np.int64) for name in names}
    write_onnx(Encoder.load(minilm(), options), example, 256, folder / "model.onnx")
    signature = Signature(
        inputs=tuple(TensorSpec(name=name, datatype="INT64", shape=(-1, -1)) for name in names),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 384)),),
    )
    manifest = Manifest(
        format="onnx", engine="onnxruntime", entry="model.onnx", signature=signature, files=(),
        padding=Padding(pad=dict.fromkeys(names, 0)),
    )  # fmt: skip
    return Piece(artifact=Artifact(kind="onnx", entry="model.onnx"), folder=folder, manifest=manifest)


def sentences(seed: int, count: int) -> Examples:
    """Words in random order, tokenised and padded to the longest."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.no_padding()
    random = np.random.default_rng(seed)
    words = _WORDS.split()
    texts = [" ".join(random.choice(words, random.integers(5, 30))) for _ in range(count)]
    rows = [tokenizer.encode(text).ids for text in texts]
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((count, lengths.max()), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}
    return Examples(inputs=inputs, truth=None, task="agreement", lengths=lengths, index=np.arange(count), digest="")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "cosine"),
    [
        ({"method": "affine"}, 0.999),
        ({"method": "weights"}, 0.998),
        ({"method": "dynamic"}, 0.98),
        ({"method": "weights", "tool": "openvino"}, 0.998),
        ({"method": "static", "tool": "openvino", "samples": 64}, 0.98),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_an_encoder_becomes_a_quarter_as_large(
    tmp_path: Path, encoder: Piece, parameters: dict[str, Any], cosine: float
) -> None:
    made = quantize.run(encoder, Quantize(**parameters), bench(tmp_path / "bench", sentences(1, 64)))
    before, after = made.facts["quantize"]["bytes"]
    assert before / after > 3.5
    rows = sentences(2, 30).inputs
    expected = opened(encoder.artifact, encoder.folder, encoder).run(dict(rows))
    given = opened(made.artifact, made.folder, made).run(dict(rows))
    assert least_cosine([expected], [given]) > cosine
