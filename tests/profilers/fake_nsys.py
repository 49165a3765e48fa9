"""Stands for nsys on a machine without a GPU: a shell script that answers, records and fails as it is told."""

import os
import shlex
import sys
from pathlib import Path
from unittest.mock import patch

from ttt_mlflow.profilers.nsys import VARIABLE, Nsys, find_nsys

# what nsys profile does, after its own options: runs the program and leaves a report
RECORD = '"$@" || exit $?; echo a report > "$stem.nsys-rep"'
TABLE = """Time (%),Total Time (ns),Instances,Avg (ns),Name
75.0,3000,2,1500.0,"linear_decode(float *, int)"
25.0,1000,1,1000.0,fill
"""
API = """Time (%),Total Time (ns),Num Calls,Avg (ns),Name
100.0,900,3,300.0,cudaLaunchKernel
"""
RANGES = """Time (%),Total Time (ns),Instances,Avg (ns),Style,Range
100.0,5000,2,2500.0,PushPop,:step 0
"""
# what nsys stats -r NAME does: makes an export of the report where there is none, and prints the table; an export that
# looks older than its report it does not touch unless it is told to
STATS = f"""case "$3" in
cuda_gpu_kern_sum) table={shlex.quote(TABLE)} ;;
cuda_api_sum) table={shlex.quote(API)} ;;
nvtx_sum) table={shlex.quote(RANGES)} ;;
esac
for input; do :; done
if [ "$input" = report.nsys-rep ] && [ "$6" != --force-export=true ] && [ "$input" -nt report.sqlite ]; then
    echo 'usage: nsys stats [<args>] <input-file>'
    exit 1
fi
[ -f report.sqlite ] || printf 'Generating SQLite file report.sqlite from report.nsys-rep\\n'
printf 'Processing...\\n\\n%s\\nthe end\\n' "$table"
echo > report.sqlite"""


class FakeNsys:
    """An nsys at ``path``; its parts are lines of shell: ``answer`` to --version, ``profile``, ``stats``."""

    version = "2025.3.1.90-253135822126v0"

    def __init__(self, folder: Path, profile: str = RECORD, stats: str = STATS, answer: str | None = None) -> None:
        answer = answer or f"echo 'NVIDIA Nsight Systems version {self.version}'"
        self.path = folder / "host" / "target-linux-x64" / "nsys"
        self.path.parent.mkdir(parents=True)
        self.path.write_text(
            f"""#!/bin/sh
case "$1" in
--version)
{answer}
;;
profile)
while [ "$1" != -o ]; do shift; done
stem=$2; shift 2
{profile}
;;
stats)
{stats}
;;
esac
"""
        )
        self.path.chmod(0o755)

    def find(self) -> Nsys:
        with patch.dict(os.environ, {VARIABLE: str(self.path)}):
            return find_nsys()


def python(code: str) -> list[str]:
    """A program to be profiled."""
    return [sys.executable, "-c", code]
