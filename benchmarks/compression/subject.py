"""What is compressed: a model with its data, the recipes for it that were written by hand, and what should be reached."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.places import CACHE
from benchmarks.serving.peers.openmaas.peer import interpreter

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Subject:
    """name: of its script and of the folder of its recipes. noun: what one row is. max_loss and metric: as `openmaas optimize`
    takes them. batch: the size at which speed is compared."""

    name: str
    title: str
    max_loss: str
    metric: str = ""
    batch: int = 32
    forced: tuple[str, ...] = ()
    """Recipes whose versions are also run in bfloat16 by OpenVINO: within the loss, though not within what serves unasked."""

    plain: str = "onnxruntime"
    """The engine that runs what was pushed in float32, which the others are held against; empty is its own."""

    generates: bool = False
    """Text: rows are tokens then, and a batch so many streams."""

    @property
    def folder(self) -> Path:
        return CACHE / "compression" / self.name

    @property
    def recipes(self) -> list[Path]:
        return sorted((HERE / "recipes" / self.name).glob("*.yaml"))

    def prepare(self) -> str:
        """Make model and data unless they are there; what they are, in a line.

        Raises:
            subprocess.CalledProcessError: the script failed.
        """
        said = self.folder / "said.txt"
        if not said.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            script = HERE / "subjects" / f"{self.name}.py"
            command = [interpreter(), "-W", "ignore", script, self.folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            said.write_text(done.stdout.strip().splitlines()[-1])
        return said.read_text()

    def data(self, part: str) -> Path:
        """The file with the part `train` or `test`."""
        return next(self.folder.glob(f"{part}.*"))


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("digits", "digits, a CNN of 52,138 parameters", "1%"),
        Subject("minilm", "all-MiniLM-L6-v2", "1.5%", batch=8, forced=("smoothed-int8", "no-padding")),
        Subject("cancer", "breast cancer, 300 boosted trees", "1%"),
        Subject("writer", "writer, a language model of 12.2 million parameters", "2%", batch=8, plain="", generates=True),
    )
}
