"""`python -m benchmarks`: the runner, in an environment of its own.

The environment that starts it stays as it is; its `openmaas` is the one that is measured.
"""

import os
import sys
from pathlib import Path

from benchmarks.environments import Environment
from benchmarks.places import HERE, REPOSITORY

RUNNER = Environment("runner", HERE / "requirements.txt")


def main() -> None:
    if not RUNNER.ready():
        print("Preparing the runner's environment …", file=sys.stderr)
        RUNNER.prepare()
    variables = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "BENCHMARK_OPENMAAS": str(Path(sys.executable).parent / "openmaas"),
    }
    os.execve(RUNNER.python, [str(RUNNER.python), "-m", "benchmarks.command", *sys.argv[1:]], variables)


if __name__ == "__main__":
    main()
