"""The model for Triton's Python backend; copied into the model repository as `model.py`."""

from typing import Any

import triton_python_backend_utils as triton

from benchmarks.serving.engine import Engine, join


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.engine = Engine()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests that the dynamic batcher joined with one call."""
        batch = [
            {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.engine.inputs}
            for request in requests
        ]
        rows = self.engine.run(join(batch))
        responses, start = [], 0
        for inputs in batch:
            end = start + len(next(iter(inputs.values())))
            tensor = triton.Tensor(self.engine.output, rows[start:end])
            responses.append(triton.InferenceResponse([tensor]))
            start = end
        return responses
