"""The micro-benchmark: what a plug-in package imports to register its kernels."""

from ttt_mlflow.micro.registry import KernelEntry

__all__ = ["KernelEntry"]
