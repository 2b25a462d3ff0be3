"""What happens to a request before the engine and to its answer after it, as the manifest declares it. Pure data.

The engine's own inputs and outputs are the manifest's signature. A caller may send those tensors, or what is declared here:
texts, images, or rows of a table. `processing/` does the work.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from openmaas.core.types import DataType

Role = Literal["ids", "attention", "types"]
"""What an engine input of a text model holds: token ids, 1 for tokens and 0 for padding, the number of the text in a pair."""


class TextInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="text", tag_field="kind"):
    """Texts, turned into tokens. `name` is the public BYTES input [-1].

    tokenizer: path of a tokenizer.json among the files. tensors: what each engine input is fed with. max_length: tokens of one
    text with the special ones; what is longer is cut, and the answer says so. pair: a row may also be two texts.
    """

    name: str = "text"
    tokenizer: str = "tokenizer.json"
    tensors: dict[str, Role] = {}
    max_length: int = 512
    pair: bool = False


class ImageInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="image", tag_field="kind"):
    """Encoded images (PNG, JPEG, WebP …), decoded and normalised. `name` is the public BYTES input [-1].

    tensor: the engine input. mode: Pillow's: RGB, L … layout: order of the axes after the batch; `flat` is one axis
    of all values.
    resize: how an image of another size becomes height × width: `stretch`; `crop`, the shorter side to `shorter` (the target's
    shorter side without) and the middle of it; `pad`, the longer side to fit and the rest filled with black.
    value = (pixel · scale - mean) / std for each channel, pixel from 0 to 255. Where the engine input is UINT8, pixels go in as
    they are.
    tensor: empty stands for the engine's only input.
    """

    name: str = "image"
    tensor: str = ""
    height: int = 224
    width: int = 224
    mode: Literal["RGB", "L"] = "RGB"
    layout: Literal["channels_first", "channels_last", "flat"] = "channels_first"
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    shorter: int | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    max_pixels: int = 40_000_000


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One column of a table.

    categories: the only values allowed; in a tensor of numbers, texts among them stand for their position in this list.
    nullable: null or an empty field is NaN.
    """

    name: str
    datatype: DataType
    categories: tuple[str | int, ...] | None = None
    nullable: bool = False


class TableInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="table", tag_field="kind"):
    """Rows as records or columns by name.

    tensor: the engine input [N, columns] that all of them make up, in this order; None where each column is an engine
    input of its own name [N, 1].
    """

    columns: tuple[Column, ...]
    tensor: str | None = None


class Labels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="labels", tag_field="kind"):
    """Classes: of a row from scores [N, C], or of each token from [N, L, C] (`tokens`).

    output: the engine output with the scores; empty stands for its only output. activation: what makes probabilities of them.
    labels: the classes' names in the order of the scores; empty where they have none. Two names for a single score are "no" and
    "yes". top: how many classes an answer names unless the caller says. probabilities: the scores are probabilities already, as
    they also are where the output is called so.
    """

    output: str = ""
    labels: tuple[str, ...] = ()
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    top: int = 1
    tokens: bool = False
    probabilities: bool = False

    @property
    def gives(self) -> Literal["probabilities", "scores"]:
        """What the public output is called."""
        known = self.probabilities or self.output == "probabilities" or self.activation != "none"
        return "probabilities" if known else "scores"


class Embedding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="embedding", tag_field="kind"):
    """One vector a row. pooling: over the tokens [N, L, D] that are no padding; `none` where the output is [N, D] already.

    output: empty stands for the engine's only output.
    """

    output: str = ""
    pooling: Literal["none", "mean", "cls", "max"] = "none"
    normalize: bool = False


Input = TextInput | ImageInput | TableInput
Output = Labels | Embedding


class Processing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Before and after the engine; None where tensors go in or come out as they are."""

    input: Input | None = None
    output: Output | None = None


class Padding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows of different lengths may share a batch when they are padded: proved at push, where padding changed no answer.

    The sequence is axis 1 of these inputs and outputs. pad: what each engine input is filled up with. trim: engine outputs that
    are as long as the input and are cut back to each row's own length.
    """

    pad: dict[str, int]
    trim: tuple[str, ...] = ()


class Fields(msgspec.Struct, frozen=True):
    """Rows of a table as text, as CSV and forms have them: each as long as `names`."""

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def describe(part: Input | Output) -> dict[str, Any]:
    """A declaration as plain data, for pages and terminals."""
    plain: dict[str, Any] = msgspec.to_builtins(part)
    return plain
