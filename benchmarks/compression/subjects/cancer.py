"""Gradient-boosted trees on scikit-learn's breast-cancer table: `python cancer.py FOLDER`."""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from xgboost import XGBClassifier

TREES = 300
SEED = 0


def main(folder: Path) -> None:
    bunch = load_breast_cancer()
    data = bunch.data.astype(np.float32)
    given, held_out, labels, truth = train_test_split(
        data, bunch.target, test_size=0.4, random_state=SEED, stratify=bunch.target
    )
    model = XGBClassifier(n_estimators=TREES, max_depth=4, learning_rate=0.05, random_state=SEED).fit(given, labels)
    target = folder / "model"
    target.mkdir(parents=True, exist_ok=True)
    model.get_booster().save_model(target / "model.ubj")
    np.savez(target / "sample.npz", given[:64])
    (target / "openmaas.yaml").write_text("sample: sample.npz\n")
    np.savez(folder / "train.npz", features=given, label=labels)
    np.savez(folder / "test.npz", features=held_out, label=truth)
    right = (model.predict(held_out) == truth).mean()
    print(f"{TREES} trees, {len(given)} rows to train on, {len(truth)} to evaluate, accuracy {right:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
