"""All servers by name, in the order a run starts them."""

from benchmarks.serving.peer import Peer
from benchmarks.serving.peers.bentoml.peer import BentoMl
from benchmarks.serving.peers.fastapi.peer import FastApi
from benchmarks.serving.peers.flask.peer import Flask
from benchmarks.serving.peers.litserve.peer import LitServe
from benchmarks.serving.peers.mlflow.peer import MlFlow
from benchmarks.serving.peers.mlserver.peer import MlServer
from benchmarks.serving.peers.openmaas.peer import OpenMaas, Unsorted
from benchmarks.serving.peers.pytriton.peer import PyTriton
from benchmarks.serving.peers.torchserve.peer import TorchServe
from benchmarks.serving.peers.triton.peer import Triton

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        OpenMaas(),
        OpenMaas("onnxruntime"),
        Unsorted(),
        Triton(),
        TorchServe(),
        FastApi(workers=2),
        FastApi(workers=1),
        PyTriton(),
        MlServer(),
        LitServe(),
        BentoMl(),
        Flask(),
        MlFlow(),
    )
}
