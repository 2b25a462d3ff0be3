"""A small language model that learns Python's documentation: `python writer.py FOLDER`; half an hour or more on two cores.

The model, its text and its training are those of examples/train_writer, in a larger size. Each row of train.jsonl and
test.jsonl is a document: a topic of the documentation, or a docstring of the standard library. The model has seen none of the
test's. On a GPU, where torch finds one, a minute is enough.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "train_writer"))

from corpus import Corpus, collect
from train import Batches, device, new_model, perplexity, save, train, train_tokenizer

WIDTH = 384
LAYERS = 6
STEPS = 2000
BATCH = 4
RATE = 6e-4
SEED = 0
CALIBRATE = 400
"""Documents of what the model has learnt from, on which int4 weights may be chosen."""


def main(folder: Path) -> None:
    console = Console(stderr=True)
    torch.manual_seed(SEED)
    corpus = collect(SEED)
    tokenizer = train_tokenizer(corpus)
    model = new_model(tokenizer, WIDTH, LAYERS)
    options = argparse.Namespace(steps=STEPS, minutes=None, batch=BATCH, rate=RATE)
    train(model.to(device()), Batches(corpus, tokenizer, BATCH, SEED), options, console)
    print(leave(folder, model.cpu(), tokenizer, corpus))


def leave(folder: Path, model, tokenizer, corpus: Corpus) -> str:
    """Write model and data; what they are, in a line."""
    save(folder / "model", model, tokenizer, corpus.held_out)
    for name, texts in (("train", corpus.prose[:CALIBRATE]), ("test", corpus.unseen)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    size = sum(values.numel() for values in model.parameters())
    read, reached = STEPS * BATCH * model.config.max_position_embeddings, perplexity(model, tokenizer, corpus.held_out)
    return (
        f"{size:,} parameters, {read / 1e6:.1f} million tokens read, {len(corpus.unseen)} documents to evaluate, "
        f"perplexity {reached:.1f} on them"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
