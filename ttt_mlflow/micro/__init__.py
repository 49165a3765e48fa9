"""The micro-benchmark: times kernels alone, each for one decode step, or a prompt.

This module exports what other packages need to register a kernel. docs/adding-a-kernel.md has a complete example.
"""

from ttt_mlflow.micro.entry import KernelEntry

__all__ = ["KernelEntry"]
