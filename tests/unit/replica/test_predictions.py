"""Plain predictions, and the other protocols' with texts, images and tables, behind a real link with engines that tests see."""

from __future__ import annotations

import asyncio
import base64
import gzip
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from openmaas.core.contracts import Answer, Call, Health, ReplicaSpec, encode
from openmaas.core.errors import DeadlineExceeded, EngineFailed, InvalidInput, Unavailable, UnsupportedMedia
from openmaas.core.link import Link, LinkServer, connect
from openmaas.core.manifest import Manifest
from openmaas.core.processing import Column, ImageInput, Labels, Processing, TableInput, TextInput
from openmaas.core.types import Signature, TensorSpec
from openmaas.engines import Engine, EngineSpec, Tensors
from openmaas.processing import open_processing
from openmaas.replica.server import ReplicaServer
from tests.unit.protocols.bodies import body, tensor

pytest.importorskip("PIL")

from PIL import Image

from tests.unit.processing.pictures import encode as encode_image
from tests.unit.processing.pictures import noise, png_header


class Corners(Engine):
    """Three scores a row: the mean, the largest and the smallest of its values."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def load(self, spec: EngineSpec) -> None:
        pass

    def run(self, inputs: Tensors) -> Tensors:
        self.gate.wait(60)
        columns: Any = [array.reshape(len(array), -1) for array in inputs.values() if array.dtype != object]
        values = np.concatenate(columns, axis=1).astype(np.float32)
        self.batches.append(len(values))
        return {"logits": np.stack([values.mean(1), values.max(1), values.min(1)], 1), "sum": values.sum(1)}

    def describe(self) -> dict[str, str]:
        return {}


OUTPUTS = (TensorSpec(name="logits", datatype="FP32", shape=(-1, 3)), TensorSpec(name="sum", datatype="FP32", shape=(-1,)))
PIXELS = Signature(inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 3, 8, 8)),), outputs=OUTPUTS)
PHOTOS = Processing(
    input=ImageInput(tensor="x", height=8, width=8),
    output=Labels(output="logits", labels=("mean", "max", "min"), activation="softmax"),
)
ROWS = Signature(inputs=(TensorSpec(name="X", datatype="FP32", shape=(-1, 2)),), outputs=OUTPUTS)
PEOPLE = Processing(
    input=TableInput(
        columns=(Column(name="age", datatype="INT64"), Column(name="city", datatype="BYTES", categories=("Bonn", "Ulm"))),
        tensor="X",
    )
)
JSON = {"content_type": "application/json"}


class Tagger(Corners):
    """Each token a person where its id is odd; a token that is padding would be one too."""

    def run(self, inputs: Tensors) -> Tensors:
        ids: Any = inputs["ids"]
        self.batches.append(len(ids))
        return {"logits": np.stack([(ids % 2 == 0) * 9.0, (ids % 2) * 9.0], axis=2).astype(np.float32)}


WORDS = ["[PAD]", "Ada", "in", "Lovelace", "Ulm"]
TAGS = Signature(
    inputs=(
        TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),
        TensorSpec(name="mask", datatype="INT64", shape=(-1, -1)),
    ),
    outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, -1, 2)),),
)
PERSONS = Processing(
    input=TextInput(tensors={"ids": "ids", "mask": "attention"}, max_length=4),
    output=Labels(output="logits", labels=("O", "PER"), activation="softmax", tokens=True),
)


def save_tokenizer(path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(path))


class Replica:
    def __init__(self, link: Link, server: ReplicaServer, engine: Corners) -> None:
        self.link, self.server, self.engine = link, server, engine

    async def call(self, content: bytes, operation: Any = "predict", **head: Any) -> tuple[Answer, Any]:
        call = Call(operation, "r", head.pop("timeout", 10.0), deployment="m", **head)
        header, answer = await self.link.call(encode(call), content)
        return msgspec.msgpack.decode(header, type=Answer), msgspec.json.decode(answer)

    async def predict(self, content: bytes, **head: Any) -> Any:
        return (await self.call(content, **head))[1]

    async def health(self) -> Health:
        return msgspec.msgpack.decode((await self.link.ping())[0], type=Health)


@asynccontextmanager
async def replica(
    signature: Signature = PIXELS,
    processing: Processing | None = PHOTOS,
    batchable: bool = True,
    kind: type[Corners] = Corners,
    **limits: Any,
) -> AsyncIterator[Replica]:
    engine = kind()
    manifest = Manifest(
        format="dummy", engine="dummy", entry="", signature=signature, files=(), batchable=batchable, processing=processing
    )
    spec = ReplicaSpec(
        id="m-1-0", deployment="m", revision=1, project="default", model="m", version=7, digest="0", manifest=manifest, **limits
    )
    with tempfile.TemporaryDirectory(prefix="omr-") as folder:
        if processing is not None and isinstance(processing.input, TextInput):
            save_tokenizer(Path(folder) / processing.input.tokenizer)
        server = ReplicaServer(spec, engine, 64 * 2**20, open_processing(manifest, Path(folder)))
        links = LinkServer(server.handle, health=server.health)
        await links.listen(f"unix:{folder}/r.sock")
        link = await connect(f"unix:{folder}/r.sock")
        try:
            yield Replica(link, server, engine)
        finally:
            engine.gate.set()
            link.close()
            server.close()
            links.close()
            await asyncio.sleep(0.02)


async def wait_until(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        await asyncio.sleep(0.002)


WHITE, BLACK = (encode_image(Image.new("RGB", (20, 10), colour)) for colour in ("white", "black"))


async def test_an_image_and_its_classes() -> None:
    async with replica() as one:
        head, answer = await one.call(encode_image(noise()), content_type="image/png", top=3)
        assert head.content_type == "application/json"
        assert head.timing is not None and head.timing.prepare > 0
        assert (answer["model"], answer["version"], answer["notes"]) == ("m", 7, [])
        (row,) = answer["predictions"]
        assert (row["label"], [entry["label"] for entry in row["top"]]) == ("max", ["max", "mean", "min"])
        assert sum(entry["probability"] for entry in row["top"]) == pytest.approx(1, abs=1e-6)
        transparent = encode_image(Image.new("RGBA", (8, 8), (1, 2, 3, 4)))
        assert (await one.predict(transparent, content_type="image/png"))["notes"] == [{"row": 0, "transparency": "dropped"}]


async def test_every_protocol_takes_the_image_and_the_tensor() -> None:
    text = base64.b64encode(WHITE).decode()
    async with replica() as one:
        assert len((await one.predict(msgspec.json.encode([text, text]), **JSON))["predictions"]) == 2
        _, answer = await one.call(msgspec.json.encode({"instances": [{"b64": text}]}), "v1_predict")
        assert list(answer["predictions"][0]) == ["label", "probabilities"]
        blob = len(WHITE).to_bytes(4, "little") + WHITE
        for shape in ([1], [1, 1]):
            described = tensor(shape, "BYTES", name="image", parameters={"binary_data_size": len(blob)})
            content = body(described, outputs=[{"name": "sum"}, {"name": "label"}, {"name": "logits"}])
            _, answer = await one.call(content + blob, "infer", json_size=len(content))
            assert [(entry["name"], entry["data"]) for entry in answer["outputs"]] == [
                ("sum", [192.0]), ("label", ["mean"]), ("logits", [1.0, 1.0, 1.0]),
            ]  # fmt: skip
        _, answer = await one.call(body(tensor([1, 3, 8, 8], "FP32", [0.0] * 192)), "infer")
        assert [entry["name"] for entry in answer["outputs"]] == ["label", "probabilities"]
        _, metadata = await one.call(b"", "metadata")
        assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert [entry["name"] for entry in metadata["outputs"]] == ["label", "probabilities"]
        _, config = await one.call(b"", "config")
        assert config["input"] == [{"name": "image", "data_type": "TYPE_STRING", "dims": []}]


async def test_notes_are_told_in_the_open_inference_protocol_too() -> None:
    data = encode_image(Image.new("RGBA", (8, 8), (1, 2, 3, 4)))
    blob = len(data).to_bytes(4, "little") + data
    content = body(tensor([1], "BYTES", name="image", parameters={"binary_data_size": len(blob)}))
    async with replica() as one:
        _, answer = await one.call(content + blob, "infer", json_size=len(content))
        assert msgspec.json.decode(answer["parameters"]["notes"]) == [{"row": 0, "transparency": "dropped"}]
        _, answer = await one.call(body(tensor([1, 3, 8, 8], "FP32", [0.0] * 192)), "infer")
        assert "parameters" not in answer


async def test_a_table_by_name() -> None:
    async with replica(ROWS, PEOPLE) as one:
        answer = await one.predict(b'[{"age": 3, "city": "Ulm"}, {"city": "Bonn", "age": 4}]', **JSON)
        assert answer["predictions"] == [{"logits": [2, 3, 1], "sum": 4}, {"logits": [2, 4, 0], "sum": 4}]
        assert await one.predict(b"city,age\nUlm,3\nBonn,4\n", content_type="text/csv") == answer
        with pytest.raises(InvalidInput, match="Row 1, column 'city': expected one of 'Bonn', 'Ulm'; 'Rom'"):
            await one.predict(b'[{"age": 3, "city": "Ulm"}, {"age": 4, "city": "Rom"}]', **JSON)
        with pytest.raises(InvalidInput, match="names none"):
            await one.predict(b'{"age": 3, "city": "Ulm"}', top=2, **JSON)


async def test_tokens_have_places_in_their_text() -> None:
    async with replica(TAGS, PERSONS, kind=Tagger) as one:
        answer = await one.predict(b'["Ada  Lovelace in Ulm", "in Ulm", "Ada Ada Ada Ada Ada"]', **JSON)
        first, second, third = answer["predictions"]
        assert [(token["text"], token["label"]) for token in first["tokens"]] == [
            ("Ada", "PER"), ("Lovelace", "PER"), ("in", "O"), ("Ulm", "O"),
        ]  # fmt: skip
        assert [(span["label"], span["text"], span["start"], span["end"]) for span in first["spans"]] == [
            ("PER", "Ada  Lovelace", 0, 13)
        ]
        assert ([token["text"] for token in second["tokens"]], second["spans"]) == (["in", "Ulm"], [])
        assert len(third["tokens"]) == 4
        assert answer["notes"] == [{"row": 2, "truncated": True, "tokens": 5, "limit": 4}]
        content = body(tensor([2], "BYTES", ["Ada", "in Ulm"], name="text"))
        _, infer = await one.call(content, "infer")
        label, probabilities = infer["outputs"]
        assert (label["name"], label["shape"], label["data"]) == ("label", [2, 2], ["PER", "O", "O", "O"])
        assert probabilities["shape"] == [2, 2, 2]
        long = " ".join(["Ada"] * 1000).encode()
        assert len((await one.predict(long, content_type="text/plain"))["predictions"][0]["tokens"]) == 4, (
            "beside the event loop"
        )


async def test_inputs_of_one_value_a_row_are_a_table_without_a_word() -> None:
    specs = (TensorSpec(name="a", datatype="FP32", shape=(-1, 1)), TensorSpec(name="b", datatype="INT64", shape=(-1, 1)))
    async with replica(Signature(inputs=specs, outputs=OUTPUTS), None) as one:
        for content in (
            b'{"a": 1.5, "b": 2}',
            b'[{"b": 2, "a": 1.5}]',
            b'{"a": [1.5], "b": [2]}',
            b'{"a": [[1.5]], "b": [[2]]}',
        ):
            assert (await one.predict(content, **JSON))["predictions"][0]["sum"] == 3.5


async def test_tensors_of_a_model_without_processing() -> None:
    async with replica(ROWS, None) as one:
        assert (await one.predict(b"[1, 2]", **JSON))["predictions"] == [{"logits": [1.5, 2, 1], "sum": 3}]
        with pytest.raises(UnsupportedMedia, match="application/json, text/csv"):
            await one.predict(WHITE, content_type="image/png")


async def test_requests_share_batches() -> None:
    async with replica(ROWS, PEOPLE) as one:
        one.engine.gate.clear()
        first = asyncio.create_task(one.predict(b'{"age": 1, "city": "Ulm"}', **JSON))
        await wait_until(lambda: one.server.batcher.in_flight == 1)
        plain = [asyncio.create_task(one.predict(b'{"age": %d, "city": "Ulm"}' % age, **JSON)) for age in range(5)]
        tensors = asyncio.create_task(one.call(body(tensor([2, 2], "FP32", [1, 2, 3, 4], name="X")), "infer"))
        await wait_until(lambda: one.server.batcher.queued == 6)
        one.engine.gate.set()
        answers = await asyncio.gather(first, *plain)
        await tensors
        assert [answer["predictions"][0]["sum"] for answer in answers] == [2, 1, 2, 3, 4, 5]
        assert one.engine.batches == [1, 7]


def fixed(rows: int) -> Signature:
    outputs = (
        TensorSpec(name="logits", datatype="FP32", shape=(rows, 3)),
        TensorSpec(name="sum", datatype="FP32", shape=(rows,)),
    )
    return Signature(inputs=(TensorSpec(name="x", datatype="FP32", shape=(rows, 3, 8, 8)),), outputs=outputs)


BOTH = msgspec.json.encode([base64.b64encode(data).decode() for data in (WHITE, BLACK, WHITE)])


async def test_rows_for_a_model_that_takes_one_at_a_time_go_one_by_one() -> None:
    async with replica(fixed(1), Processing(input=PHOTOS.input), batchable=False) as one:
        head, answer = await one.call(BOTH, **JSON)
        assert [row["sum"] for row in answer["predictions"]] == [192, 0, 192]
        assert one.engine.batches == [1, 1, 1]
        assert head.timing is not None and head.timing.rows == 3
    async with replica(fixed(1), PHOTOS, batchable=False, max_queue=1) as one:
        with pytest.raises(Unavailable, match="max_queue"):
            await one.predict(BOTH, **JSON)
        assert one.server.batcher.in_flight == 0
        assert len((await one.predict(WHITE, content_type="image/png"))["predictions"]) == 1


async def test_the_first_row_that_fails_ends_the_request() -> None:
    class Failing(Corners):
        def run(self, inputs: Tensors) -> Tensors:
            found = super().run(inputs)
            if not found["sum"].any():
                raise ValueError("black")
            return found

    async with replica(fixed(1), PHOTOS, batchable=False, kind=Failing) as one:
        with pytest.raises(EngineFailed, match="black"):
            await one.predict(BOTH, **JSON)
        assert one.server.batcher.in_flight == 0
        assert len((await one.predict(WHITE, content_type="image/png"))["predictions"]) == 1


async def test_rows_whose_answers_differ_in_shape_end_the_request() -> None:
    """As of a detector, which finds another number of boxes in each image."""

    class Finding(Corners):
        def run(self, inputs: Tensors) -> Tensors:
            found = super().run(inputs)
            return found | {"logits": np.zeros((1, 1 + int(found["sum"][0] > 0), 3), np.float32)}

    outputs = (TensorSpec(name="logits", datatype="FP32", shape=(1, -1, 3)), fixed(1).outputs[1])
    boxes = msgspec.structs.replace(fixed(1), outputs=outputs)
    async with replica(boxes, Processing(input=PHOTOS.input), batchable=False, kind=Finding) as one:
        with pytest.raises(EngineFailed, match="cannot be joined"):
            await one.predict(BOTH, **JSON, timeout=2.0)
        assert one.server.batcher.in_flight == 0
        assert len((await one.predict(WHITE, content_type="image/png"))["predictions"]) == 1


async def test_a_caller_of_several_rows_leaves() -> None:
    async with replica(fixed(1), PHOTOS, batchable=False) as one:
        one.engine.gate.clear()
        call = asyncio.create_task(one.predict(BOTH, **JSON))
        await wait_until(lambda: one.server.batcher.queued == 2)
        call.cancel()
        await wait_until(lambda: one.server.batcher.queued == 0)
        one.engine.gate.set()
        assert len((await one.predict(WHITE, content_type="image/png"))["predictions"]) == 1


async def test_a_model_with_another_fixed_number_of_rows_says_so() -> None:
    async with replica(fixed(2), PHOTOS, batchable=False) as one:
        with pytest.raises(InvalidInput, match="takes 2 rows a request; 3 came"):
            await one.predict(BOTH, **JSON)


async def test_the_event_loop_goes_on_while_images_are_decoded() -> None:
    large = encode_image(Image.new("RGB", (6000, 5000)), compress_level=1)
    async with replica() as one:
        decoding = [asyncio.create_task(one.predict(large, content_type="image/png")) for _ in range(2)]
        await wait_until(lambda: one.server._preparing == 2)
        assert (await one.health()).in_flight >= 2
        assert one.server._preparing == 2, "it answered meanwhile"
        await asyncio.gather(*decoding)
        assert (await one.health()).in_flight == 0


async def test_a_compressed_body_is_no_quick_one_however_small_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = msgspec.json.encode(["Ada in Ulm " * 10_000])
    async with replica(TAGS, PERSONS, kind=Tagger) as one:
        before, threads = one.server.processor.before, list[str]()
        assert before is not None
        prepare = before.prepare

        def noted(rows: Any) -> Any:
            threads.append(threading.current_thread().name)
            return prepare(rows)

        monkeypatch.setattr(before, "prepare", noted)
        packed = gzip.compress(texts)
        assert len(packed) <= before.quick < len(texts)
        await one.predict(packed, **JSON, content_encoding="gzip")
        await one.predict(b'"Ada"', **JSON)
        assert threads[0].startswith("prepare")
        assert threads[1] == threading.main_thread().name


async def test_decoding_has_a_queue_and_an_end() -> None:
    large = encode_image(Image.new("RGB", (6000, 5000)), compress_level=1)
    async with replica(max_queue=2) as one:
        calls = [asyncio.create_task(one.predict(large, content_type="image/png")) for _ in range(6)]
        done = await asyncio.gather(*calls, return_exceptions=True)
        refused = [outcome for outcome in done if isinstance(outcome, Unavailable)]
        assert len(refused) == 4 and all(error.code == "queue_full" for error in refused)
    async with replica() as one:
        calls = [asyncio.create_task(one.predict(large, content_type="image/png", timeout=0.01)) for _ in range(8)]
        late = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(outcome, DeadlineExceeded) for outcome in late) >= 6
        assert len(one.engine.batches) <= 2


async def test_hostile_images_harm_nobody_else() -> None:
    bad = (b"", b"<svg/>", WHITE[:50], png_header(100_000, 100_000), b"\x00" * 1000)
    async with replica() as one:
        calls = [one.predict(content, content_type="image/png") for content in (*bad, WHITE, *bad, BLACK)]
        done = await asyncio.gather(*calls, return_exceptions=True)
        good = [outcome for outcome in done if isinstance(outcome, dict)]
        assert len(good) == 2
        assert all(isinstance(outcome, dict | InvalidInput) for outcome in done)


async def test_a_caller_who_leaves_while_its_image_is_decoded() -> None:
    async with replica() as one:
        large = encode_image(Image.new("RGB", (6000, 5000)), compress_level=1)
        calls = [asyncio.create_task(one.predict(large, content_type="image/png")) for _ in range(6)]
        await wait_until(lambda: one.server._preparing == 6)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await wait_until(lambda: one.server._preparing == 0)
        assert one.engine.batches == []
        assert (await one.health()).in_flight == 0
