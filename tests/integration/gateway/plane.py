"""A whole data plane: a fake control in a thread, a real gateway process, real replica processes with the dummy engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from openmaas.core.contracts import ControlCall, Deployment, Key, Replica, ReplicaSpec, Snapshot, encode
from openmaas.core.generation import Generator
from openmaas.core.keys import digest_key, make_key
from openmaas.core.link import CHUNK, IncomingCall, LinkServer
from openmaas.core.manifest import Manifest
from openmaas.core.processing import Padding
from openmaas.core.settings import variable
from openmaas.core.types import Signature, TensorSpec
from tests.ports import free_port

_GATEWAY = """
import uvloop
from openmaas.core.log import configure_logging
from openmaas.core.settings import load_settings
from openmaas.gateway import serve
configure_logging("gateway-0")
uvloop.run(serve(load_settings()))
"""
# The real life of a replica, only that the files of a dummy's version lie in a folder already.
_REPLICA = """
import sys, uvloop, msgspec
from pathlib import Path
from openmaas.core.contracts import ReplicaSpec
from openmaas.core.log import configure_logging
from openmaas.core.settings import load_settings
from openmaas.replica import process
process._files = lambda spec, settings: Path(sys.argv[2])
configure_logging("replica")
spec = msgspec.json.decode(sys.stdin.buffer.read(), type=ReplicaSpec)
uvloop.run(process.serve(spec, sys.argv[1], load_settings()))
"""

FP32 = Signature(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),),
)
WORDS = Signature(
    inputs=(TensorSpec(name="text", datatype="BYTES", shape=(-1,)),),
    outputs=(TensorSpec(name="label", datatype="BYTES", shape=(-1,)),),
)


def infer_body(*rows: list[float]) -> bytes:
    """A request in JSON for the FP32 signature."""
    described = {"name": "x", "shape": [len(rows), len(rows[0])], "datatype": "FP32", "data": [v for row in rows for v in row]}
    return msgspec.json.encode({"inputs": [described]})


def read_rest(client: socket.socket) -> bytes:
    """Everything until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def wait_until(condition: Callable[[], Any], seconds: float = 60.0, what: str = "condition") -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.01)


class FakeControl:
    """Streams snapshots on the link as control does, from a loop in a thread of its own."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake control", daemon=True)
        self._thread.start()
        self._watchers: dict[IncomingCall, asyncio.Event] = {}
        self._snapshot = Snapshot(version=0)
        self._server: LinkServer | None = None
        self.peers: list[str] = []

    def start(self) -> None:
        self.do(self._listen())

    def stop(self) -> None:
        """As if killed: connections break, the socket is gone."""
        self.do(self._close())

    def publish(self, snapshot: Snapshot) -> None:
        self.do(self._publish(snapshot))

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _listen(self) -> None:
        self._server = LinkServer(self._handle)
        await self._server.listen(self._address)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await asyncio.sleep(0.01)

    async def _publish(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        for call in tuple(self._watchers):
            await call.chunk(encode(snapshot))

    def _handle(self, call: IncomingCall) -> None:
        asked = msgspec.msgpack.decode(call.header, type=ControlCall)
        assert asked.operation == "watch_snapshot"
        self.peers.append(asked.peer)
        self._watchers[call] = asyncio.Event()
        call.on_cancel = lambda: self._watchers.pop(call, None)
        call.connection.send(CHUNK, call.id, b"", encode(self._snapshot))


class ReplicaProcess:
    def __init__(self, spec: ReplicaSpec, address: str, files: Path, environment: dict[str, str], log: Path) -> None:
        self.spec = spec
        self.address = address
        self._files = files
        self._environment = environment
        self._log = log
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _REPLICA, self.address, str(self._files)],
                stdin=subprocess.PIPE,
                stderr=log,
                env=self._environment,
            )
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(self.spec))
        self.process.stdin.close()

    @property
    def place(self) -> Replica:
        return Replica(id=self.spec.id, version=self.spec.version, address=self.address)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)


class Plane:
    """One gateway with its control and replicas. `settings` are the gateway's and the replicas', by name."""

    def __init__(self, *, control: bool = True, **settings: Any) -> None:
        # Short, since a socket's path has about 100 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="omp-"))
        self.port = free_port()
        self.key = make_key()
        self.keys = {"admin": self.key}
        self.deployments: dict[str, Deployment] = {}
        self.replicas: dict[str, ReplicaProcess] = {}
        self._version = 0
        values = {"home": self.folder / "home", "runtime_dir": self.folder / "run", "http_port": self.port} | settings
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENMAAS_")}
        self.environment |= {variable(name): str(value) for name, value in values.items()}
        (self.folder / "run").mkdir(mode=0o700)
        self.gateway: subprocess.Popen[bytes] | None = None
        self.trust: ssl.SSLContext | None = None
        self.control = FakeControl(f"unix:{self.folder / 'run' / 'control.sock'}")
        if control:
            self.control.start()

    @property
    def url(self) -> str:
        return f"{'http' if self.trust is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    @property
    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()

    def start_gateway(self, *, ready: bool = True) -> None:
        with (self.folder / "gateway.log").open("ab") as log:
            self.gateway = subprocess.Popen([sys.executable, "-c", _GATEWAY], stderr=log, env=self.environment)
        path = "/v2/health/ready" if ready else "/v2/health/live"
        wait_until(lambda: self.gateway_exited() or self.answers(path), what="gateway")
        assert not self.gateway_exited(), self.log

    def gateway_exited(self) -> bool:
        return self.gateway is not None and self.gateway.poll() is not None

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=self.headers, timeout=60, trust_env=False, verify=self.trust or True)

    def infer(self, *rows: list[float], name: str = "m", **headers: str) -> httpx.Response:
        """A prediction over one new connection."""
        return httpx.post(
            f"{self.url}/v2/models/{name}/infer",
            content=infer_body(*rows),
            headers=self.headers | {name.replace("_", "-"): value for name, value in headers.items()},
            timeout=60,
            trust_env=False,
            verify=self.trust or True,
        )

    def replica_counts(self, name: str = "m") -> dict[str, dict[str, Any]]:
        """The statistics of each replica, by its id."""
        return {entry["replica"]: entry for entry in self.get(f"/v2/models/{name}/stats").json()["model_stats"]}

    def sample(self, name: str, **labels: str) -> float:
        """One value of /metrics; 0 where it is not there yet."""
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return 0.0

    def memory(self) -> float:
        """Resident MiB of the gateway."""
        assert self.gateway is not None
        pages = int(Path(f"/proc/{self.gateway.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def connect(self, data: bytes = b"") -> socket.socket:
        """A connection for bytes written by hand."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        client.sendall(data)
        return client

    def head(self, line: str, *fields: str) -> bytes:
        """The head of a request with the key."""
        return "\r\n".join([f"{line} HTTP/1.1", "Host: a", f"Authorization: Bearer {self.key}", *fields, "", ""]).encode()

    def answers(self, path: str) -> bool:
        try:
            return self.get(path).status_code == 200
        except httpx.HTTPError:
            return False

    def replica(
        self,
        identity: str,
        *,
        version: int = 1,
        signature: Signature = FP32,
        batchable: bool = True,
        options: dict[str, Any] | None = None,
        padding: Padding | None = None,
        generator: Generator | None = None,
        files: Path = Path("/nonexistent"),
        **limits: Any,
    ) -> ReplicaProcess:
        """generator: what it says of itself where it generates text, and files its tokenizer's folder."""
        manifest = Manifest(
            format="dummy",
            engine="dummy" if generator is None else "dummy-generator",
            entry="",
            generator=generator,
            signature=signature,
            files=(),
            batchable=batchable,
            padding=padding,
            options=options or {},
        )
        spec = ReplicaSpec(
            id=identity,
            deployment="m",
            revision=1,
            project="default",
            model="m",
            version=version,
            digest=manifest.digest,
            manifest=manifest,
            **limits,
        )
        address = f"unix:{self.folder / 'run' / identity}.sock"
        log = self.folder / f"replica-{identity}.log"
        self.replicas[identity] = ReplicaProcess(spec, address, files, self.environment, log)
        return self.replicas[identity]

    def deploy(self, name: str = "m", *identities: str, traffic: dict[int, float] | None = None, **fields: Any) -> None:
        """Put a deployment into the snapshot, behind the replicas named (all of them by default), and publish."""
        chosen = [self.replicas[identity] for identity in identities or self.replicas]
        self.deployments[name] = Deployment(
            name=name,
            project="default",
            model="m",
            traffic=traffic or {replica.spec.version: 1.0 for replica in chosen},
            replicas=tuple(replica.place for replica in chosen),
            **fields,
        )
        self.publish()

    def snapshot(self) -> Snapshot:
        self._version += 1
        keys = tuple(Key(id=name, digest=digest_key(key), role="admin", project="default") for name, key in self.keys.items())
        return Snapshot(version=self._version, deployments=tuple(self.deployments.values()), keys=keys)

    def publish(self) -> None:
        self.control.publish(self.snapshot())

    def wait_ready(self, name: str = "m") -> None:
        wait_until(lambda: self.answers(f"/v2/models/{name}/ready"), what=f"deployment {name}")

    def close(self) -> None:
        for replica in self.replicas.values():
            replica.end()
        if self.gateway is not None:
            if self.gateway.poll() is None:
                self.gateway.send_signal(signal.SIGKILL)
            self.gateway.wait(60)
        self.control.close()
        shutil.rmtree(self.folder, ignore_errors=True)
