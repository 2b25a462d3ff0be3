"""The tiny writer as one GGUF file, as llama.cpp's converter writes a Llama: tensors, tokenizer and chat template.

OpenVINO GenAI generates from f16, q8_0, q4_0 and q4_1: from f16 the very tokens that transformers does from the folder. It
refuses f32 and bf16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

Quantized = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"]
_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "bf16": 32}
_PLACES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_IN_LAYERS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(folder: Path, path: Path, quantized: Quantized = "f16") -> Path:
    """What make_writer left in `folder`, as one file. Vectors stay in float32, as llama.cpp leaves them."""
    from gguf import GGUFWriter

    config = json.loads((folder / "config.json").read_text("utf-8"))
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny writer")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(_FILE_TYPES[quantized])
    _add_tokenizer(writer, folder, config)
    _add_tensors(writer, folder, config, quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, folder: Path, config: dict[str, Any]) -> None:
    from gguf import TokenType

    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    special = {token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([TokenType.CONTROL if number in special else TokenType.NORMAL for _, number in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    if (folder / "chat_template.jinja").is_file():
        writer.add_chat_template((folder / "chat_template.jinja").read_text("utf-8"))


def _add_tensors(writer: Any, folder: Path, config: dict[str, Any], quantized: Quantized) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize
    from safetensors.numpy import load_file

    kind = GGMLQuantizationType[quantized.upper()]
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, tensor in load_file(folder / "model.safetensors").items():
        place = _PLACES.get(name) or _place_in_layer(name)
        for part, count in heads.items():
            if f".{part}." in place:
                tensor = _interleaved(tensor, count)
        tensor = np.ascontiguousarray(tensor, dtype=np.float32)
        if tensor.ndim == 1:
            writer.add_tensor(place, tensor)
        else:
            writer.add_tensor(place, quantize(tensor, kind), raw_dtype=kind)


def _place_in_layer(name: str) -> str:
    _, _, number, rest = name.split(".", 3)
    return f"blk.{number}.{_IN_LAYERS[rest.removesuffix('.weight')]}.weight"


def _interleaved(tensor: Any, heads: int) -> Any:
    """Rows of a head in llama.cpp's order: rotary pairs beside each other, and not a half apart."""
    rows, columns = tensor.shape
    return tensor.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
