"""A side for `ttt-mlflow ab` that is slower on purpose. `python -m benchmarks.slower_side FOLDER WAIT_US`.

FOLDER becomes a copy of this checkout's package, without history, in which each decode step waits WAIT_US microseconds.
The wait is a kernel of its own (``spin_kernel.py``), captured in the step's graph. With ``--slowdown-pct`` the wait is
found by ``calibrate.py`` for the given configuration, so this needs the machine that ``ab`` will measure on.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.runs import ROOT, last_line
from ttt_mlflow.errors import BadInput, TTTError

# replaces ttt_mlflow/__main__.py of the copy: every model waits, under its own name
MAIN = '''"""``ttt-mlflow`` whose decode steps wait {wait_us} µs each. Made by benchmarks/slower_side.py."""

from dataclasses import replace

from ttt_mlflow.cli import main
from ttt_mlflow.models import registry
from ttt_mlflow.models.entry import DecodeModel, ModelEntry, ModelRequest
from ttt_mlflow.slower_spin import SpinningModel

find_model = registry.find_model


def find_slower(name: str) -> ModelEntry:
    entry = find_model(name)

    def build(request: ModelRequest) -> DecodeModel:
        return SpinningModel(entry.factory(request), request.device, lambda number: {wait_us!r})

    return replace(entry, factory=build)


registry.find_model = find_slower
main()
'''
# files of benchmarks/ that the copy needs, under names that its package does not have
COPIED = {"spin.py": "slower_spin.py", "spin_kernel.py": "slower_spin_kernel.py"}


def make_slower(folder: Path, wait_us: float) -> None:
    """Write the copy to ``folder``. Raises BadInput if it exists, so that no checkout is overwritten."""
    if folder.exists():
        raise BadInput(f"folder={folder}: it exists; name a new folder")
    package = folder / "ttt_mlflow"
    shutil.copytree(ROOT / "ttt_mlflow", package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, new in COPIED.items():
        text = (ROOT / "benchmarks" / name).read_text()
        (package / new).write_text(text.replace("benchmarks.spin_kernel", "ttt_mlflow.slower_spin_kernel"))
    (package / "__main__.py").write_text(MAIN.format(wait_us=wait_us))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.slower_side", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="new folder, which `ttt-mlflow ab` takes as a side")
    parser.add_argument("wait_us", type=float, nargs="?", help="µs that each step waits")
    parser.add_argument("--slowdown-pct", type=float, help="find the wait that makes a step this much longer")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="parameter of that step")
    arguments = parser.parse_args(words)
    try:
        if (arguments.wait_us is None) == (arguments.slowdown_pct is None):
            raise BadInput("give either WAIT_US or --slowdown-pct")
        wait_us = arguments.wait_us
        if wait_us is None:
            asked = dict(setting.split("=", 1) for setting in arguments.set)
            found = json.loads(last_line("benchmarks.calibrate", json.dumps(asked), str(arguments.slowdown_pct)))
            wait_us = found["wait_us"]
            print(f"a step of {found['step_us']:.1f} µs is {found['seen_pct']:.2f} % longer with {wait_us:.2f} µs")
        make_slower(arguments.folder, wait_us)
    except TTTError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{arguments.folder}: each decode step waits {wait_us:.2f} µs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
