"""Decoders to OpenVINO, in an environment of its own: its interpreter runs scripts/optimum_convert.py."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from openmaas.core.errors import DeadlineExceeded, InvalidInput, without_paths
from openmaas.core.manifest import Artifact
from openmaas.formats.causal import scripts
from openmaas.formats.converters import Conversion, Converter

ENTRY = "openvino_model.xml"
_SCRIPT = Path(scripts.__file__).with_name("optimum_convert.py")
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
_STAGE = "stage: "
_CUT = 500  # characters of one line that are kept


class CausalToOpenVinoGenai(Converter):
    """options: `weights`, a list of bf16, int8, int4 and int4-calibrated, each of which gets a folder of that name below
    `output`; `prompts`, lists of token ids, for each of which the source's logits are written to `logits-N.npy`, FP32 [tokens,
    vocabulary]; `calibration`, lists of token ids on which calibrated weights are chosen; and `timeout` in seconds. The
    artifact's entry lies in the folder of each of the weights; without any, nothing is exported."""

    source, target, environment = "causal", "openvino-genai", "optimum"

    def convert(self, conversion: Conversion) -> Artifact:
        """Raises InvalidInput with what the library said, DeadlineExceeded after the timeout."""
        said, start = [""], time.monotonic()
        seconds: float = conversion.options["timeout"]
        with _running(conversion) as process:
            late = threading.Timer(seconds, process.kill)
            late.start()
            try:
                for line in _lines(process):
                    if line.startswith(_STAGE):
                        conversion.tell(line.removeprefix(_STAGE))
                    else:
                        said = [*said[-20:], line]
                        conversion.log(line)
                code = process.wait()
            finally:
                late.cancel()
        if code < 0 and time.monotonic() - start >= seconds:
            raise DeadlineExceeded(
                f"The conversion took longer than {seconds:g} s (OPENMAAS_CONVERT_TIMEOUT).",
                code="conversion_timeout",
                next_step="Raise OPENMAAS_CONVERT_TIMEOUT, or convert on a machine with more memory and cores.",
            )
        if code:
            raise InvalidInput(
                f"optimum-intel cannot convert this model: {_cause(said, code)}",
                code="conversion_failed",
                next_step="`openmaas jobs logs` has all that it said; --weights source serves the model as it is.",
            )
        return Artifact(kind=self.target, entry=ENTRY)


@contextlib.contextmanager
def _running(conversion: Conversion) -> Iterator[subprocess.Popen[str]]:
    """The script, with its request sent; it has ended afterwards, whatever happens here."""
    request = {
        "path": str((conversion.folder / conversion.artifact.entry).parent),
        "output": str(conversion.output),
        "weights": conversion.options["weights"],
        "prompts": conversion.options["prompts"],
        "calibration": conversion.options.get("calibration", []),
        "parent": os.getpid(),
    }
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    with (
        tempfile.TemporaryDirectory(prefix="openmaas-optimum-") as home,
        subprocess.Popen(
            [conversion.python, "-I", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=home,
            env=environment | {"HOME": home, "TMPDIR": home},
            text=True,
            errors="replace",
        ) as process,
    ):
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(request))
                process.stdin.close()
            yield process
        finally:
            process.kill()


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """What it writes, without paths and empty lines."""
    assert process.stdout is not None
    for line in process.stdout:
        if text := line.strip():
            yield without_paths(text)[:_CUT]


def _cause(said: list[str], code: int) -> str:
    if code < 0:
        return f"its process was ended by signal {-code}; it may have needed more memory than there is."
    return f"{said[-1][:300].rstrip('. ')}." if said[-1] else f"it ended with exit code {code}."
