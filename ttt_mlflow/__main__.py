"""``python -m ttt_mlflow`` is ``ttt-mlflow``."""

from ttt_mlflow.cli import main

main()
