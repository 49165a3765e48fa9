"""Models that can be measured: what a plug-in package imports to register its own."""

from ttt_mlflow.models.entry import DecodeModel, Decoder, ModelEntry, ModelRequest

__all__ = ["DecodeModel", "Decoder", "ModelEntry", "ModelRequest"]
