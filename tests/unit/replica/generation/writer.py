"""A replica that generates behind a real link in one process, with the fake engine and a tokenizer of bytes."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from openmaas.core.contracts import Answer, Call, Health, ReplicaSpec, encode
from openmaas.core.errors import OpenMaaSError
from openmaas.core.generation import TEXT_INPUT, TEXT_OUTPUT, Generator
from openmaas.core.link import Link, LinkServer, connect
from openmaas.core.manifest import Manifest
from openmaas.core.types import Signature, TensorSpec
from openmaas.engines import EngineSpec, GenerationEngine
from openmaas.engines.dummy_generator import DummyGenerator
from openmaas.processing.generation import open_generation
from openmaas.replica.generation import GenerationServer

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool.function.name }},{% endfor %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
)
SIGNATURE = Signature(
    inputs=(TensorSpec(name=TEXT_INPUT, datatype="BYTES", shape=(1,)),),
    outputs=(TensorSpec(name=TEXT_OUTPUT, datatype="BYTES", shape=(1,)),),
)


@cache
def tokenizer_file() -> str:
    """A tokenizer whose tokens are the 256 bytes, and <end>, which is 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    text: str = tokenizer.to_str()
    return text


def ids(text: str) -> list[int]:
    """Token ids of a text: one a byte."""
    found: list[int] = Tokenizer.from_str(tokenizer_file()).encode(text, add_special_tokens=False).ids
    return found


def generator(**fields: Any) -> Generator:
    made: dict[str, Any] = {"context": 512, "vocabulary": 257, "end": (256,), "tokenizer": "tokenizer.json"}
    return Generator(**(made | fields))


def write_files(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(tokenizer_file())
    (folder / "chat_template.jinja").write_text(TEMPLATE)


class Writer:
    """The replica and a caller's end of its link."""

    def __init__(self, link: Link, server: GenerationServer, links: LinkServer, broken: list[OpenMaaSError]) -> None:
        self.link, self.server, self.links, self.broken = link, server, links, broken

    async def call(
        self, operation: Any, content: dict[str, Any], *, timeout: float = 60.0, project: str = ""
    ) -> tuple[Answer, dict[str, Any]]:
        header, body = await self.link.call(head(operation, timeout, project), json.dumps({"model": "w"} | content).encode())
        return msgspec.msgpack.decode(header, type=Answer), json.loads(body)

    async def complete(self, prompt: Any, **content: Any) -> dict[str, Any]:
        keywords = {name: content.pop(name) for name in ("timeout", "project") if name in content}
        _, answer = await self.call("completions", {"prompt": prompt, "temperature": 0} | content, **keywords)
        return answer

    async def text(self, prompt: Any, **content: Any) -> str:
        text: str = (await self.complete(prompt, **content))["choices"][0]["text"]
        return text

    async def stream(self, operation: Any, content: dict[str, Any], *, timeout: float = 60.0) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream, but for the one that ends it."""
        body = json.dumps({"model": "w", "stream": True} | content).encode()
        async for chunk in self.link.stream(head(operation, timeout), body):
            for line in chunk.decode().split("\n"):
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield json.loads(line.removeprefix("data: "))

    async def health(self) -> Health:
        return msgspec.msgpack.decode((await self.link.ping())[0], type=Health)

    async def statistics(self) -> dict[str, Any]:
        return (await self.call("statistics", {}))[1]

    async def until(self, condition: Any) -> None:
        for _ in range(60_000):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("not within 60 s")


def head(operation: Any, timeout: float = 60.0, project: str = "") -> bytes:
    return encode(Call(operation, "r", timeout, deployment="w", project=project))


@asynccontextmanager
async def writer(
    engine: GenerationEngine | None = None, declared: Generator | None = None, **options: Any
) -> AsyncIterator[Writer]:
    """options: the replica's limits (max_batch, max_queue) and the fake engine's."""
    limits = {name: options.pop(name) for name in ("max_batch", "max_queue") if name in options}
    with tempfile.TemporaryDirectory(prefix="omw-") as folder:
        write_files(Path(folder))
        manifest = Manifest(
            format="dummy", engine="dummy-generator", entry="", signature=SIGNATURE, files=(), options=options,
            generator=declared or generator(),
        )  # fmt: skip
        spec = ReplicaSpec(
            id="w-1-0", deployment="w", revision=1, project="default", model="w", version=3, digest="0", manifest=manifest,
            **limits,
        )  # fmt: skip
        engine = engine or DummyGenerator()
        engine.load(EngineSpec(folder=Path(folder), manifest=manifest))
        broken: list[OpenMaaSError] = []
        server = GenerationServer(spec, engine, 2**20, open_generation(manifest, Path(folder)), broken.append)
        links = LinkServer(server.handle, health=server.health)
        await links.listen(f"unix:{folder}/w.sock")
        link = await connect(f"unix:{folder}/w.sock")
        try:
            yield Writer(link, server, links, broken)
        finally:
            link.close()
            server.close()
            links.close()
            await asyncio.sleep(0.01)
