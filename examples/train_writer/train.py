"""Trains a small writer on what is on every machine with Python, in minutes, and leaves a folder that OpenMaaS takes.

    python examples/train_writer/train.py my-writer --minutes 6
    openmaas push ./my-writer --name writer && openmaas deploy writer && openmaas chat writer

A Llama of some 3 million parameters and a tokenizer of 4,096 tokens, both from nothing but Python's own sources, documentation
and docstrings. It answers in the words of docstrings, not always of the right one, and knows nothing else of this world.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Threads that wait leave the cores to others. torch reads it when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from corpus import Corpus, collect
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 512
END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def main() -> None:
    options = _options()
    console = Console()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    corpus = collect(options.seed)
    console.print(f"Text: {corpus.size / 1e6:.1f} MB, and {len(corpus.held_out) / 1e3:.0f} kB that it will not see.")
    tokenizer = train_tokenizer(corpus)
    model = new_model(tokenizer, options.width, options.layers)
    count = sum(values.numel() for values in model.parameters())
    console.print(f"Model: {count / 1e6:.1f} million parameters, {tokenizer.get_vocab_size()} tokens, context {CONTEXT}.")
    before = perplexity(model, tokenizer, corpus.held_out)
    began = time.perf_counter()
    read = train(model.to(device()), Batches(corpus, tokenizer, options.batch, options.seed), options, console)
    model.cpu()
    seconds = time.perf_counter() - began
    after = perplexity(model, tokenizer, corpus.held_out)
    save(options.folder, model, tokenizer, corpus.held_out)
    console.print(f"Read {read / 1e6:.2f} million tokens in {seconds:.0f} s ({read / seconds:,.0f} a second).")
    console.print(f"Perplexity on the held-out text: {before:,.0f} before, [bold]{after:.2f}[/bold] after.")
    for question in ("What does shutil.copyfile do?", "What is the module json for?"):
        console.print(f"[bold]{question}[/bold]\n  {ask(model, tokenizer, question)}", highlight=False)
    console.print(f"openmaas push {options.folder} --name writer")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the model goes")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=6.0, help="how long to train (default 6)")
    length.add_argument("--steps", type=int, help="train so many steps instead: the same model each time on one machine")
    parser.add_argument("--batch", type=int, default=2, help=f"sequences of {CONTEXT} tokens a step (default 2)")
    parser.add_argument("--rate", type=float, default=3e-3, help="the highest learning rate (default 0.003)")
    parser.add_argument("--width", type=int, default=192, help="of the layers, a multiple of 32 (default 192)")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def train_tokenizer(corpus: Corpus) -> Tokenizer:
    """A byte-level BPE: every text has tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=[END_OF_TEXT, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    dialogues = (text for pair in corpus.dialogues for text in pair)
    tokenizer.train_from_iterator([*corpus.prose, *dialogues, *corpus.code[::8]], trainer)
    return tokenizer


def device() -> str:
    """Where it is trained: on a GPU it takes a minute."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def new_model(tokenizer: Tokenizer, width: int = 192, layers: int = 5) -> LlamaForCausalLM:
    """A Llama with heads of 32, and between the layers as many values more as is usual: 8/3 times the width."""
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=width,
        intermediate_size=round(width / 24) * 64,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(END_OF_TEXT),
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(END_OF_TEXT),
    )
    return LlamaForCausalLM(config)


class Batches:
    """Packed sequences without end. At first it reads: half of the tokens are dialogues, the rest prose and code; near the end
    it learns to answer, and nearly all are dialogues."""

    first, last = (0.5, 0.35, 0.15), (0.9, 0.08, 0.02)

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, rows: int, seed: int) -> None:
        self._rows = rows
        self._random = torch.Generator().manual_seed(seed)
        dialogues = [dialogue(question, answer) for question, answer in corpus.dialogues]
        self._streams = [
            self._endless([encoded.ids for encoded in tokenizer.encode_batch([text + END_OF_TEXT for text in texts])])
            for texts in (dialogues, corpus.prose, corpus.code)
        ]

    def batch(self, done: float) -> Any:
        """int64 [rows, CONTEXT + 1]. done: how far the training is, 0 to 1."""
        shares = torch.lerp(torch.tensor(self.first), torch.tensor(self.last), done)
        streams = torch.multinomial(shares, self._rows, replacement=True, generator=self._random).tolist()
        return torch.tensor([[next(self._streams[stream]) for _ in range(CONTEXT + 1)] for stream in streams])

    def _endless(self, texts: list[list[int]]) -> Iterator[int]:
        while True:
            for index in torch.randperm(len(texts), generator=self._random).tolist():
                yield from texts[index]


def dialogue(question: str, answer: str | None = None) -> str:
    """As the chat template writes it; without an answer, up to where one begins."""
    begin = f"{START}user\n{question}{END}\n{START}assistant\n"
    return begin if answer is None else f"{begin}{answer}{END}\n"


def train(model: LlamaForCausalLM, batches: Batches, options: argparse.Namespace, console: Console) -> int:
    """Returns how many tokens it read. The learning rate warms up over the first twentieth and then falls as a cosine."""
    decayed = [values for values in model.parameters() if values.ndim > 1]
    others = [values for values in model.parameters() if values.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.95), fused=True)
    model.train()
    began, step, smooth = time.perf_counter(), 0, math.log(model.config.vocab_size)
    columns = (
        TextColumn("Training"),
        BarColumn(bar_width=None),
        MofNCompleteColumn() if options.steps else TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("loss {task.fields[loss]:.2f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=options.steps or 1.0, loss=smooth)
        while True:
            done = step / options.steps if options.steps else (time.perf_counter() - began) / (options.minutes * 60)
            if done >= 1:
                break
            tokens = batches.batch(done).to(model.device)
            rate = options.rate * min(1.0, done / 0.05 + 0.02) * (0.55 + 0.45 * math.cos(math.pi * done))
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=_computes_bf16()):
                logits = model(input_ids=tokens[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            smooth += (loss.item() - smooth) * 0.05
            progress.update(bar, completed=step if options.steps else done, loss=smooth)
    model.eval()
    return step * options.batch * CONTEXT


def perplexity(model: LlamaForCausalLM, tokenizer: Tokenizer, text: str) -> float:
    """Of a token given all before it in its stretch of 512."""
    tokens = torch.tensor(tokenizer.encode(text).ids)
    rows = tokens[: len(tokens) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    total = 0.0
    with torch.inference_mode():
        for row in rows.split(8):
            logits = model(input_ids=row[:, :-1]).logits.float()
            total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), row[:, 1:].flatten(), reduction="sum").item()
    return math.exp(total / (len(rows) * (CONTEXT - 1)))


def ask(model: LlamaForCausalLM, tokenizer: Tokenizer, question: str) -> str:
    tokens = torch.tensor([tokenizer.encode(dialogue(question)).ids])
    answer = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=60, do_sample=False)
    return str(tokenizer.decode(answer[0, tokens.shape[1] :].tolist())).strip()


def save(folder: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, held_out: str) -> None:
    """A folder as Hugging Face has them, the text that the model has not seen, and a note for OpenMaaS of what this is for."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.4,
        top_p=0.9,
        eos_token_id=[model.config.eos_token_id, model.config.bos_token_id],
        pad_token_id=model.config.pad_token_id,
    )
    model.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END, pad_token=END_OF_TEXT, model_max_length=CONTEXT
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    (folder / "held_out.txt").write_text(held_out, "utf-8")
    (folder / "openmaas.yaml").write_text(
        "# The text that this model has not seen. Conversions are compared with their source on it.\nsample: held_out.txt\n",
        "utf-8",
    )
    assert json.loads((folder / "config.json").read_text("utf-8"))["tie_word_embeddings"]


def _computes_bf16() -> bool:
    """Whether what it is trained on multiplies bfloat16 itself: elsewhere it is slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


if __name__ == "__main__":
    main()
