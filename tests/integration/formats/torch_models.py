"""Small PyTorch modules of the kinds that people bring, with a sample each: trained for a moment, or with random weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

torch = pytest.importorskip("torch")

CLASSES, WORDS, WIDTH = 3, 50, 16


class Perceptron(torch.nn.Module):
    """Iris: 4 numbers to 3 classes, trained."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Convolutions(torch.nn.Module):
    """Digits of 8×8 to logits and their softmax, with batch norm; a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
        )
        self.head = torch.nn.Linear(6 * 16, 10)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.head(self.features(image).flatten(1))
        return logits, logits.softmax(-1)


class Encoder(torch.nn.Module):
    """Token ids and a mask to logits and hidden states; a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(WORDS, WIDTH)
        layer = torch.nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = torch.nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        hidden = self.encoder(self.embedding(input_ids), src_key_padding_mask=attention_mask == 0)
        weights = attention_mask.unsqueeze(-1).float()
        return {"logits": self.head((hidden * weights).sum(1) / weights.sum(1)), "hidden": hidden}


@dataclasses.dataclass
class Forecast:
    mean: Any
    spread: Any


class Recurrent(torch.nn.Module):
    """Series [N, L, 2] to a forecast; a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(2, 5, batch_first=True)
        self.head = torch.nn.Linear(5, 2)

    def forward(self, series: torch.Tensor) -> Any:
        states, _ = self.lstm(series)
        mean, spread = self.head(states[:, -1]).chunk(2, dim=-1)
        return Forecast(mean, spread.exp())


def perceptron() -> tuple[Any, Any]:
    from sklearn.datasets import load_iris

    torch.manual_seed(0)
    features, labels = load_iris(return_X_y=True)
    module, x, y = Perceptron(), torch.tensor(features, dtype=torch.float32), torch.tensor(labels)
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    return module, x[::5]


def convolutions() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    module = Convolutions()
    x = torch.tensor(load_digits().images[:200], dtype=torch.float32).unsqueeze(1)
    for _ in range(3):
        module(x)  # the running statistics of batch norm are the data's
    return module, x[:12]


def encoder() -> tuple[Any, Any]:
    torch.manual_seed(0)
    ids = torch.randint(1, WORDS, (9, 12))
    mask = (torch.arange(12) < torch.randint(3, 13, (9, 1))).long()
    return Encoder(), {"input_ids": ids * mask, "attention_mask": mask}


def recurrent() -> tuple[Any, Any]:
    torch.manual_seed(0)
    return Recurrent(), [(torch.randn(4, 6, 2),), (torch.randn(9, 10, 2),)]


MODELS = {"perceptron": perceptron, "convolutions": convolutions, "encoder": encoder, "recurrent": recurrent}
