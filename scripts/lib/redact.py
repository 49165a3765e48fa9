"""Copies standard input to standard output without the credentials in it."""

import signal
import sys

from ttt_mlflow.redaction import without_secrets

# it ends with its input: the last words of a program that is being stopped are to be seen too
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
shown = True
for line in sys.stdin:
    try:
        if shown:
            print(without_secrets(line), end="", flush=True)
    except BrokenPipeError:  # nobody reads any more, but the program that writes must not end of it
        shown = False
        sys.stdout = None  # type: ignore[assignment]
