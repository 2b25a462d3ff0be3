"""Write the boosted trees: xgboost on scikit-learn's breast-cancer table, as ONNX and as each server's own file.

Runs in the environment of the models: `python export_cancer.py FOLDER`.
"""

import json
import sys
from pathlib import Path

import joblib
import numpy as np
import onnxruntime
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
from sklearn.datasets import load_breast_cancer
from xgboost import XGBClassifier

OUTPUT = "probabilities"
TREES = 200


def main(folder: Path) -> None:
    bunch = load_breast_cancer()
    names = [name.replace(" ", "_") for name in bunch.feature_names]
    data = bunch.data.astype(np.float32)
    model = XGBClassifier(n_estimators=TREES, max_depth=4, learning_rate=0.1, random_state=7).fit(data, bunch.target)
    expected = model.predict_proba(data)

    # onnxmltools knows the features of a booster as f0, f1 …: the names come back with the file that is pushed.
    graph = convert_xgboost(model, initial_types=[("X", FloatTensorType([None, len(names)]))], target_opset=15)
    graph = select_model_inputs_outputs(graph, OUTPUT)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    (served,) = onnxruntime.InferenceSession(folder / "model.onnx").run([OUTPUT], {"X": data})
    difference = float(np.abs(served - expected).max())
    assert difference < 1e-4, f"ONNX differs from xgboost by {difference}"

    joblib.dump(model, folder / "model.joblib")
    named = XGBClassifier(n_estimators=TREES, max_depth=4, learning_rate=0.1, random_state=7)
    import pandas

    named.fit(pandas.DataFrame(data, columns=names), bunch.target)
    source = folder / "source"
    source.mkdir(exist_ok=True)
    named.get_booster().save_model(source / "booster.json")
    np.savez(folder / "sample.npz", **{name: data[:64, index : index + 1] for index, name in enumerate(names)})

    row = data[:1]
    (folder / "sample.json").write_text(
        json.dumps(
            {
                "inputs": {"X": {"dtype": "float32", "data": row.astype(float).tolist()}},
                "record": {name: float(value) for name, value in zip(names, row[0], strict=True)},
                "output": OUTPUT,
                "reference": expected[:1].tolist(),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
