"""Small tokenizers of the two families that language models have, trained on the spot."""

from __future__ import annotations

from typing import Any

from tests.tiny_writer import WORDS, train_tokenizer


def byte_level() -> Any:
    return train_tokenizer([WORDS] * 4, 600)


def byte_fallback() -> Any:
    """As Llama 2 and Mistral have it: spaces are ▁, and what the vocabulary lacks is written as <0xE4>."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=40,
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS.split("\n")[0].split(". "), trainer)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # The trainer makes special tokens of the bytes too, which they are not.
    plain = Tokenizer.from_str(_without_byte_specials(tokenizer.to_str()))
    plain.add_tokens([AddedToken("[INST]", special=False)])
    return plain


def _without_byte_specials(text: str) -> str:
    import json

    state = json.loads(text)
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    return json.dumps(state)
