"""The model as a custom MLServer runtime; MLServer joins requests before it calls it."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving.engine import Engine


class Model(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        self.engine = Engine()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        rows = self.engine.run(self.engine.read(inputs))
        output = NumpyCodec.encode_output(self.engine.output, rows)
        return InferenceResponse(model_name=self.name, outputs=[output])
