"""Write the tiny classifier: scikit-learn's logistic regression on iris, as ONNX.

Runs in the environment of the models: `python export_iris.py FOLDER`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

OUTPUT = "probabilities"


def main(folder: Path) -> None:
    data, target = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(data, target)
    graph = to_onnx(
        model,
        initial_types=[("X", FloatTensorType([None, 4]))],
        options={id(model): {"zipmap": False}},
    )
    # The label is the probabilities' argmax; one output keeps the answers of all servers alike.
    graph = select_model_inputs_outputs(graph, OUTPUT)
    path = folder / "model.onnx"
    path.write_bytes(graph.SerializeToString())

    batch = data.astype(np.float32)
    (served,) = onnxruntime.InferenceSession(path).run([OUTPUT], {"X": batch})
    difference = float(np.abs(served - model.predict_proba(data)).max())
    assert difference < 1e-5, f"ONNX differs from scikit-learn by {difference}"

    sample = batch[:1]
    (folder / "sample.json").write_text(
        json.dumps(
            {
                "inputs": {"X": {"dtype": "float32", "data": sample.astype(float).round(1).tolist()}},
                "output": OUTPUT,
                "reference": model.predict_proba(sample).tolist(),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
