"""Language models that decode token by token: what one must offer, and those that come with this package.

What another package needs to register its own model is handed on here; docs/adding-a-model.md shows a whole one.
"""

from ttt_mlflow.models.entry import DecodeModel, Decoder, ModelEntry, ModelRequest

__all__ = ["DecodeModel", "Decoder", "ModelEntry", "ModelRequest"]
