"""Kernels timed alone: one decode step of an inner layer.

What another package needs to register its own kernel is handed on here; docs/adding-a-kernel.md shows a whole one.
"""

from ttt_mlflow.micro.registry import KernelEntry

__all__ = ["KernelEntry"]
