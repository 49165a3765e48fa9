"""What a person reads of an unexpected error: one line, and a file with the traceback to send.

An error of the host, such as a full disk or a folder that nobody may write to, is no fault of this program. It is told
as what it is.
"""

import errno
import os

from ttt_mlflow.app.output import print_error
from ttt_mlflow.errors import FAULT, BadInput, one_line
from ttt_mlflow.record.fault_file import report_of, written

# what the host answers, and what to do; in the wording of the line
OF_THE_HOST = {
    errno.ENOSPC: "free some space there, or set TMPDIR to a folder with more space",
    errno.EDQUOT: "free some space there, or set TMPDIR to a folder with more space",
    errno.EROFS: "choose a folder that you may write to",
    errno.EACCES: "choose a file or folder that you may use",
    errno.EPERM: "choose a file or folder that you may use",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network file system",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files of this host",
    errno.ENOMEM: "free some memory on this host",
}
NO_FOLDER = "No usable temporary directory found"  # what Python says if it can write to none


def tell_unexpected(error: Exception, command: str) -> int:
    """Print why ``command`` ended, in one line, and return the exit code."""
    if obstacle := _of_the_host(error):
        print_error(f"Error: `{command}`: {obstacle}")
        return BadInput.exit_code
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", []))
    fault = f"Error: a fault of ttt-mlflow in `{command}`: {one_line(error)}{notes}"
    report = report_of(error)
    try:
        path = written(report)
    except OSError as not_written:
        reason = not_written.strerror or str(not_written)
        print_error(f"{fault}; please send what follows to its maintainers; no file can be written ({reason})")
        print_error(report)
    else:
        print_error(f"{fault}; the traceback is in {path}; please send that file to its maintainers")
    return FAULT


def _of_the_host(error: Exception) -> str | None:
    """What stands in the way and what to do, for an error of the host; None for a fault of this program."""
    if not isinstance(error, OSError):
        return None
    if NO_FOLDER in str(error):
        return "no folder for temporary files can be written; set TMPDIR to a folder with free space"
    if error.errno not in OF_THE_HOST:
        return None
    place = f"{error.filename}: " if error.filename is not None else ""
    return f"{place}{error.strerror or os.strerror(error.errno)}; {OF_THE_HOST[error.errno]}"
