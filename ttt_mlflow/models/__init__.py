"""Language models that decode token by token: the interface of a model, and the models of this package.

This module exports what other packages need to register a model. docs/adding-a-model.md has a complete example.
"""

from ttt_mlflow.models.allocations import Allocations, add_decoder
from ttt_mlflow.models.entry import DecodeModel, Decoder, Execution, ModelEntry, ModelRequest

__all__ = ["Allocations", "DecodeModel", "Decoder", "Execution", "ModelEntry", "ModelRequest", "add_decoder"]
