"""Vectors of texts as OpenAI's API asks for them, with an encoder that tests can compute in their heads."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from openmaas.core.errors import EngineFailed, InvalidInput
from openmaas.core.processing import Embedding, Labels, Processing, TextInput
from openmaas.core.types import Signature, TensorSpec
from openmaas.engines import Tensors
from tests.unit.replica.test_predictions import PIXELS, Corners, Replica, replica

TOKENS = Signature(
    inputs=(
        TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),
        TensorSpec(name="mask", datatype="INT64", shape=(-1, -1)),
    ),
    outputs=(TensorSpec(name="hidden", datatype="FP32", shape=(-1, -1, 2)),),
)
VECTORS = Processing(
    input=TextInput(tensors={"ids": "ids", "mask": "attention"}, max_length=4),
    output=Embedding(output="hidden", pooling="mean"),
)


class Encoder(Corners):
    """Each token's vector is its id and its id doubled."""

    def run(self, inputs: Tensors) -> Tensors:
        hidden: Any = inputs["ids"]
        self.batches.append(len(hidden))
        values = np.stack([hidden, hidden * 2], axis=2).astype(np.float32)
        return {"hidden": np.where(values == 8, np.nan, values)}  # for Ulm


async def embed(one: Replica, **content: Any) -> Any:
    return (await one.call(json.dumps({"model": "m"} | content).encode(), "embeddings"))[1]


async def test_a_list_of_texts_is_one_batch_and_its_tokens_are_counted() -> None:
    async with replica(TOKENS, VECTORS, kind=Encoder) as one:
        answer = await embed(one, input=["Ada Lovelace", "in", "Lovelace in Ada"])
        assert [entry["embedding"] for entry in answer["data"]] == [[2, 4], [2, 4], [2, 4]]
        assert [entry["index"] for entry in answer["data"]] == [0, 1, 2]
        assert answer["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
        assert (answer["model"], one.engine.batches) == ("m", [3])
        assert (await embed(one, input="Ada"))["data"][0]["embedding"] == [1, 2]


async def test_token_ids_and_base64() -> None:
    async with replica(TOKENS, VECTORS, kind=Encoder) as one:
        answer = await embed(one, input=[[1, 3], [3]], encoding_format="base64", dimensions=2)
        read = [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4").tolist() for entry in answer["data"]]
        assert read == [[2, 4], [3, 6]]
        with pytest.raises(InvalidInput, match="Row 1 of 'text' holds 5; token ids are below 5"):
            await embed(one, input=[[1], [5]])


async def test_what_is_too_long_is_refused_and_not_cut() -> None:
    async with replica(TOKENS, VECTORS, kind=Encoder) as one:
        for long in (["Ada", "Ada in Ulm in Ulm"], [[1], [1, 2, 3, 2, 1]]):
            with pytest.raises(InvalidInput, match="Input 1 has 5 tokens; the model takes 4") as caught:
                await embed(one, input=long)
            assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
        assert one.engine.batches == []


async def test_other_dimensions_and_what_is_no_number() -> None:
    async with replica(TOKENS, VECTORS, kind=Encoder) as one:
        with pytest.raises(InvalidInput, match="have 2 dimensions; 3 were asked for"):
            await embed(one, input="Ada", dimensions=3)
        with pytest.raises(EngineFailed, match="NaN"):
            await embed(one, input="Ulm")


async def test_what_makes_no_vectors_or_no_text_says_so() -> None:
    async with replica(PIXELS) as one:
        with pytest.raises(InvalidInput, match="makes no vectors of texts"):
            await embed(one, input="Ada")
        for operation in ("chat", "completions", "responses", "generate", "generate_stream", "tokenize", "detokenize"):
            with pytest.raises(InvalidInput, match="does not generate text") as caught:
                await one.call(b"{}", operation)
            assert caught.value.code == "does_not_generate"
    classes = Processing(input=VECTORS.input, output=Labels(output="hidden", tokens=True))
    async with replica(TOKENS, classes, kind=Encoder) as one:
        with pytest.raises(InvalidInput, match="makes no vectors of texts"):
            await embed(one, input="Ada")
