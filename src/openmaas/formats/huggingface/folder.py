"""A Hugging Face folder read as data: what it is, and whether it may be loaded. Nothing of it runs, no library opens it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from openmaas.core.errors import InvalidInput, Refused
from openmaas.engines.huggingface.encoder import Kind, Pooling
from openmaas.formats.huggingface.weights import INDEX, SINGLE, is_safetensors, read_json, read_weights, weight_files

CONFIG = "config.json"
MODULES = "modules.json"
ENCODERS = (
    "albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra",
    "ernie", "gte", "mobilebert", "modernbert", "mpnet", "nomic_bert", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl",
)  # fmt: skip
"""Model types that are served: encoders of text whose code is transformers' own."""
DECODERS = (
    "arcee", "bloom", "codegen", "cohere", "cohere2", "exaone4", "falcon", "gemma", "gemma2",
    "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe",
    "hunyuan_v1_dense", "llama", "mistral", "mixtral", "olmo", "olmo2", "olmo3", "olmoe", "opt", "persimmon", "phi",
    "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2",
)  # fmt: skip
"""Model types that are served: generators of text with transformers' own code, which keep nothing but keys and values."""
_TASKS: tuple[tuple[str, Kind], ...] = (
    ("ForSequenceClassification", "sequence-classification"),
    ("ForTokenClassification", "token-classification"),
    ("Model", "features"),
)
_SUPPORTED = (
    "Served are encoders for feature extraction (…Model), sequence classification and token classification, and decoders for "
    "text generation (…ForCausalLM)."
)
_POOLING_MODES: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
}  # in the order in which sentence-transformers joins them
_MAX_FIGURE = 1 << 24
_MAX_LAYERS = 512


class Folder(NamedTuple):
    """What its files say. max_length and lowercase are sentence-transformers': None and False where they say nothing."""

    path: Path
    config: dict[str, Any]
    task: Kind
    poolings: tuple[Pooling, ...] = ()
    normalize: bool = False
    max_length: int | None = None
    lowercase: bool = False
    notes: tuple[str, ...] = ()


def find_entries(folder: Path, files: Sequence[str], *, decoders: bool = False) -> list[str]:
    """Every config.json that describes a model whose weights lie beside it, but those within the folder of another.

    decoders: those of generators of text, or else those of anything else.
    """
    names = set(files)
    found = [file for file in files if Path(file).name == CONFIG and _is_model(folder, Path(file).parent, names)]
    parents = [Path(file).parent for file in found]
    outer = [file for file, parent in zip(found, parents, strict=True) if not any(other in parent.parents for other in parents)]
    return [file for file in outer if is_decoder(read_json(folder / file)) == decoders]


def is_decoder(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a generator of text, served or not."""
    names = config.get("architectures")
    if not names:
        return config.get("model_type") in DECODERS
    return isinstance(names, list) and any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def _is_model(folder: Path, parent: Path, names: set[str]) -> bool:
    beside = {name: (parent / name).as_posix() for name in (SINGLE, INDEX, "pytorch_model.bin")}
    there = {name for name, path in beside.items() if path in names}
    if not there or (there == {SINGLE} and not is_safetensors(folder / beside[SINGLE])):
        return False
    try:
        config = read_json(folder / parent / CONFIG)
    except InvalidInput:
        return False
    return isinstance(config.get("model_type"), str) or isinstance(config.get("architectures"), list)


def read_folder(root: Path, entry: str) -> Folder:
    """What the folder of `entry` says. Raises Refused for what brings code of its own, lies, or is no encoder."""
    path = (root / entry).parent
    config = read_config(root, path)
    _check_config(config)
    read_weights(path, weights_of(path))
    return _sentence_folder(root, path, config) or Folder(path, config, _task_of(config))


def read_config(root: Path, path: Path) -> dict[str, Any]:
    """The config.json in `path`. Raises Refused where anything of the folder brings code of its own."""
    refuse_code(root)
    config = read_json(path / CONFIG)
    _refuse_code_in(config, CONFIG)
    for name in ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json", "generation_config.json"):
        if (path / name).is_file():
            _refuse_code_in(read_json(path / name), name)
    return config


def weights_of(path: Path) -> list[str]:
    """The names of a folder's safetensors. Raises InvalidInput or Refused where it has none of its own."""
    if (path / "adapter_config.json").is_file():
        raise not_served("The folder holds an adapter, which needs its base model.", "Merge the two and save the result.")
    names = weight_files(path)
    if not names:
        raise InvalidInput(
            "The folder has no weights as safetensors.",
            code="no_safetensors",
            next_step="Save it again with transformers: model.save_pretrained(FOLDER) writes model.safetensors.",
        )
    return names


# ── may it be loaded? ────────────────────────────────────────────────────────────────────────────────────────────────


def refuse_code(root: Path) -> None:
    """Refuse Python files anywhere in the folder: whoever runs them trusts whoever wrote them."""
    found = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix in (".py", ".pyc", ".so"))
    if found:
        raise Refused(
            f"The folder brings code of its own ({', '.join(map(repr, found[:6]))}), which is never run.",
            code="custom_code",
            next_step="Push it without these files if the model is one of transformers' own.",
        )


def _refuse_code_in(config: Mapping[str, Any], name: str) -> None:
    if config.get("auto_map"):
        raise Refused(
            f"{name} names code of the model's own ('auto_map'), which is never run.",
            code="custom_code",
            next_step="If transformers has this architecture itself, save the model by its class; or push it as ONNX.",
        )


def _check_config(config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    if kind not in ENCODERS:
        raise not_served(f"{CONFIG} says model_type {str(kind)[:80]!r}.", TYPES)
    for name in ("is_encoder_decoder", "is_decoder", "add_cross_attention", "quantization_config", "transformers_weights"):
        if config.get(name):
            raise not_served(f"{CONFIG} has {name!r}.", "Save it as a plain encoder in float32, float16 or bfloat16.")
    check_figures(config)


def check_figures(config: Mapping[str, Any]) -> None:
    """Raises Refused for a figure that no model has: what is made after it would take all memory."""
    for name, value in config.items():
        limit = _MAX_LAYERS if "layer" in name else _MAX_FIGURE
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) > limit and "theta" not in name:
            raise Refused(f"{CONFIG}: {name[:80]!r} is {value}; at most {limit} is believed.", code="damaged")


TYPES = f"Encoders are: {', '.join(ENCODERS)}. Decoders are: {', '.join(DECODERS)}."


def not_served(what: str, next_step: str) -> Refused:
    return Refused(f"{what} {_SUPPORTED}", code="unsupported_model", next_step=next_step)


# ── what is it? ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _task_of(config: Mapping[str, Any]) -> Kind:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str) else None
    if name is None:
        raise not_served(f"{CONFIG} does not name one architecture.", f'Write it into {CONFIG}: "architectures": ["…Model"].')
    for ending, task in _TASKS:
        if name.endswith(ending):
            return task
    raise not_served(
        f"{CONFIG} names the architecture {name[:80]!r}.",
        "For its features alone, load it with AutoModel.from_pretrained and save that; there is no head for its task here.",
    )


def _sentence_folder(root: Path, path: Path, config: dict[str, Any]) -> Folder | None:
    """As sentence-transformers reads it: transformer, pooling, perhaps normalisation. None where it is not such a folder.

    Raises Refused for any other module, since without it the vectors would be others.
    """
    base = next((place for place in (path, path.parent) if (place / MODULES).is_file() and place.is_relative_to(root)), None)
    if base is None:
        return None
    modules = _read_modules(base)
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise Refused(
            f"{MODULES} lists {', '.join(kinds)[:200]}; served are Transformer, Pooling and Normalize in this order.",
            code="unsupported_model",
            next_step="Export the whole as ONNX and push that.",
        )
    if base / modules[0][1] != path:
        return None
    settings = _optional(path / "sentence_bert_config.json")
    length = settings.get("max_seq_length")
    return Folder(
        path=path,
        config=config,
        task="embedding",
        poolings=_poolings(base / modules[1][1] / CONFIG),
        normalize=len(kinds) == 3,
        max_length=length if isinstance(length, int) and length > 0 else None,
        lowercase=settings.get("do_lower_case") is True,
        notes=_prompt_notes(_optional(base / "config_sentence_transformers.json")),
    )


def _read_modules(base: Path) -> list[tuple[str, str]]:
    """Class name and folder of each module. Raises Refused for classes that are not sentence-transformers'."""
    import msgspec

    try:
        modules = msgspec.json.decode((base / MODULES).read_bytes(), type=list[dict[str, Any]])
        named = [(str(module["type"]), str(module.get("path", ""))) for module in modules]
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{MODULES} is not a list of modules: {str(error)[:200]}.", code="damaged") from None
    for kind, place in named:
        if not kind.startswith("sentence_transformers."):
            raise Refused(f"{MODULES} names code of the model's own ({kind[:120]!r}), which is never run.", code="custom_code")
        if place.startswith(("/", ".")) or ".." in place or "\\" in place:
            raise InvalidInput(f"{MODULES} names the folder {place[:120]!r}, which is not inside.", code="invalid_path")
    return [(kind.rpartition(".")[2], place) for kind, place in named]


def _poolings(path: Path) -> tuple[Pooling, ...]:
    config = read_json(path) if path.is_file() else {}
    mode = config.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else mode if isinstance(mode, list) else []
    wanted = {str(name) for name in modes} or {name for name, on in config.items() if name.startswith("pooling_mode_") and on}
    poolings = tuple(short for name, short in _POOLING_MODES.items() if {name, short} & wanted)
    if not poolings or len(poolings) != len(wanted):
        raise Refused(
            f"The pooling {', '.join(sorted(wanted))[:200] or 'that is not told'} is not served; there are "
            f"{', '.join(_POOLING_MODES.values())}.",
            code="unsupported_model",
            next_step="Export the whole as ONNX and push that.",
        )
    return poolings


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _prompt_notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    name = config.get("default_prompt_name")
    if not name:
        return ()
    return (f"sentence-transformers puts the prompt {str(name)[:80]!r} before each text; callers here do so themselves.",)
