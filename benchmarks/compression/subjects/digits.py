"""A small convolutional network on scikit-learn's handwritten digits: `python digits.py FOLDER`."""

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

EPOCHS = 30
SEED = 0
FEW = 200
"""Rows of the smaller set on which students are trained."""


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 16, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(EPOCHS):
        model.train()
        for rows in torch.randperm(len(images), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    model.eval()


def main(folder: Path) -> None:
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    parts = train_test_split(images, digits.target, test_size=0.3, random_state=SEED, stratify=digits.target)
    given, held_out, labels, truth = parts
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    model = network()
    train(model, torch.from_numpy(given), torch.from_numpy(labels))
    with torch.no_grad():
        right = (model(torch.from_numpy(held_out)).argmax(1).numpy() == truth).mean()
    target = folder / "model"
    target.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model, (torch.from_numpy(given[:4]),), target / "model.onnx", input_names=["image"], output_names=["scores"],
        dynamic_shapes=({0: torch.export.Dim("batch", max=1024)},), dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    np.savez(target / "sample.npz", image=given[:64])
    (target / "openmaas.yaml").write_text(f"sample: sample.npz\nlabels: {[str(label) for label in range(10)]}\n")
    np.savez(folder / "train.npz", image=given, label=labels)
    np.savez(folder / "test.npz", image=held_out, label=truth)
    few, _, of_few, _ = train_test_split(given, labels, train_size=FEW, random_state=SEED, stratify=labels)
    np.savez(folder / "few.npz", image=few, label=of_few)
    weights = sum(tensor.numel() for tensor in model.parameters())
    print(f"{weights:,} parameters, {len(given)} rows to train on, {len(truth)} to evaluate, accuracy {right:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
