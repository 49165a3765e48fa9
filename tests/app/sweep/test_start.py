"""In which order a sweep starts. What it then does: test_command.py."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from ttt_mlflow.app.fork_server import ForkServer
from ttt_mlflow.cli import main
from ttt_mlflow.tracking.publisher import Publisher

def note(kind):
    begin = kind.__init__

    def noted(self, *given):
        print(kind.__name__, [name for name in ("torch", "mlflow", "pandas") if name in sys.modules])
        begin(self, *given)

    kind.__init__ = noted

note(ForkServer)
note(Publisher)
sys.argv = ["ttt-mlflow", "sweep", "--model-name=ttt-tiny", "--device=cpu", *sys.argv[1:]]
main()
"""


def starts(folder: Path, *options: str) -> tuple[list[str], int, str]:
    """What was started, each with what had been imported by then; the exit code and what was said."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, *options], cwd=folder, capture_output=True, text=True)
    return done.stdout.splitlines(), done.returncode, done.stderr


def test_what_imports_for_seconds_begins_first(tmp_path: Path) -> None:
    """The sweep's own import of PyTorch took 5 s, for which the processes that measure and publish had to wait."""
    started, code, said = starts(tmp_path, "--inner-net=no-such-net", "--batch=1")
    assert started == ["ForkServer []", "Publisher []"]
    assert code == 2
    assert "inner_net=no-such-net" in said
    assert list(tmp_path.iterdir()) == [], "no store is made for a sweep that is refused"


def test_what_the_words_refuse_starts_nothing(tmp_path: Path) -> None:
    for options, said in (
        (["--executor=inline", "--gpus=0", "--batch=1"], "gpus=0: executor=inline"),
        (["--executor=none"], "executor=none"),
    ):
        started, code, text = starts(tmp_path, *options)
        assert (started, code) == ([], 2)
        assert said in text


def test_a_dry_run_starts_nothing(tmp_path: Path) -> None:
    started, code, _ = starts(tmp_path, "--inner-net=mlp_1_dual", "--batch=1", "--dry-run")
    assert code == 0
    assert not any(line.startswith(("ForkServer", "Publisher")) for line in started)
