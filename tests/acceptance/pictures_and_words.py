"""Folders with real models that read images and texts, made in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "dog", "sat", "ran", "far", "away"]


def _save(
    folder: Path, nodes: list[onnx.NodeProto], inputs: list[object], output: object, weights: dict[str, np.ndarray]
) -> None:
    constants = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "graph", inputs, [output], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(proto)
    folder.mkdir(parents=True)
    onnx.save(proto, folder / "model.onnx")


def colour_net(folder: Path) -> Path:
    """A convolutional network that tells red, green and blue pictures apart, with its openmaas.yaml and labels.txt."""
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[np.arange(3), np.arange(3), 1, 1] = 4.0
    _save(
        folder,
        [
            helper.make_node("Conv", ["pixels", "kernel"], ["features"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["features"], ["positive"]),
            helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["logits"]),
        ],
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 32, 32])],
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3]),
        {"kernel": kernel},
    )
    (folder / "labels.txt").write_text("red\ngreen\nblue\n")
    (folder / "openmaas.yaml").write_text("processing: {input: {kind: image, height: 32, width: 32, resize: crop}}\n")
    return folder


def word_vectors(folder: Path, max_length: int = 8) -> Path:
    """Token vectors that are pooled and normalised, with a tokenizer of eleven words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    vectors = np.random.default_rng(2).standard_normal((len(WORDS), 16)).astype(np.float32)
    _save(
        folder,
        [
            helper.make_node("Gather", ["vectors", "input_ids"], ["raw"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
            helper.make_node("Mul", ["raw", "column"], ["hidden"]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "length"]) for name in ("input_ids", "attention_mask")],
        helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["n", "length", 16]),
        {"vectors": vectors, "last": np.array([2], np.int64)},
    )
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "openmaas.yaml").write_text(
        f"processing:\n  input: {{kind: text, max_length: {max_length}}}\n"
        "  output: {kind: embedding, pooling: mean, normalize: true}\n"
    )
    return folder
