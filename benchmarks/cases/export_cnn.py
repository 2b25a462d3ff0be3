"""Write the convolutional network: residual blocks as in ResNet-18, random weights, with a JPEG picture as its sample.

Runs in the environment of the models: `python export_cnn.py FOLDER`. Speed does not depend on what the weights have learned.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch import nn

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 10
OUTPUT = "scores"


class Block(nn.Module):  # type: ignore[misc]
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside))
        self.skip = nn.Conv2d(inside, outside, 1, stride, bias=False) if stride > 1 or inside != outside else nn.Identity()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(self.first(pixels)) + self.skip(pixels))


def network() -> nn.Module:
    """ResNet-18's shape with half of its channels: 2.8 million weights, 0.5 billion multiplications an image."""
    torch.manual_seed(7)
    widths = (32, 64, 128, 256)
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inside = 32
    for width in widths:
        layers += [Block(inside, width, 1 if width == 32 else 2), Block(width, width, 1)]
        inside = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, CLASSES)).eval()


def picture() -> Image.Image:
    """Something with colours and edges, so that decoding costs what a photograph costs."""
    rows, columns = np.mgrid[0:240, 0:320]
    waves = [np.sin(rows / period) * np.cos(columns / (period + 3)) for period in (7.0, 11.0, 17.0)]
    noise = np.random.default_rng(7).normal(0, 12, (240, 320, 3))
    return Image.fromarray(np.clip(np.stack(waves, -1) * 90 + 128 + noise, 0, 255).astype(np.uint8))


def pixels_of(path: Path) -> np.ndarray:
    image = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    values = (np.asarray(image, np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return values.transpose(2, 0, 1)[None].astype(np.float32)


DESCRIPTION = f"""\
processing:
  input: {{kind: image, tensor: pixels, height: {SIDE}, width: {SIDE}, mean: {list(MEAN)}, std: {list(STD)}}}
  output: {{kind: labels, output: {OUTPUT}, activation: softmax, labels: {[f"class-{n}" for n in range(CLASSES)]}}}
"""


def main(folder: Path) -> None:
    picture().save(folder / "picture.jpg", quality=90)
    model, pixels = network(), torch.from_numpy(pixels_of(folder / "picture.jpg"))
    source = folder / "source"
    source.mkdir(exist_ok=True)
    torch.onnx.export(
        model,
        (pixels.repeat(2, 1, 1, 1),),
        source / "model.onnx",
        input_names=["pixels"],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
    )
    (folder / "model.onnx").write_bytes((source / "model.onnx").read_bytes())
    (source / "openmaas.yaml").write_text(DESCRIPTION)
    with torch.no_grad():
        reference = torch.softmax(model(pixels), -1)
    (served,) = onnxruntime.InferenceSession(folder / "model.onnx").run([OUTPUT], {"pixels": pixels.numpy()})
    difference = float((torch.softmax(torch.from_numpy(served), -1) - reference).abs().max())
    assert difference < 1e-5, f"ONNX differs from torch by {difference}"
    (folder / "sample.json").write_text(
        json.dumps(
            {
                "inputs": {"pixels": {"dtype": "float32", "data": pixels.tolist()}},
                "side": SIDE,
                "mean": MEAN,
                "std": STD,
                "output": OUTPUT,
                "reference": reference.tolist(),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
