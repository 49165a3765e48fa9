"""Metrics and tags of a run that its parameters and its end determine.

Runs of version 0.1 lack them. Publishing adds them to every run, ``ttt-mlflow views --update-runs`` to those that are
in a store already.
"""

from collections.abc import Mapping

from ttt_mlflow import names
from ttt_mlflow.config import RunConfig, SweepConfig
from ttt_mlflow.measurement.method import FIRST_METHOD
from ttt_mlflow.record.derived import sizes
from ttt_mlflow.record.recorded_run import kind_of
from ttt_mlflow.tracking.run_color import RUN_COLOR, color_of, series_of


def missing_metrics(kind: str, params: Mapping[str, str], metrics: Mapping[str, float]) -> dict[str, float]:
    """The parameters of a decode or prefill run that sort and filter as numbers, without those in ``metrics``."""
    return {name: value for name, value in sizes(kind, params).items() if name not in metrics}


def missing_tags(params: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """The kind, the method, the series and the color of a run that has ended, without those in ``tags``.

    ``tags`` has the entry point, the status and the verdict of the run.
    """
    entry_point = tags.get(names.TAG_ENTRY_POINT.name, RunConfig.entry_point)
    wanted = {names.TAG_KIND.name: kind_of(tags, entry_point, params.get("mode"))}
    if wanted[names.TAG_KIND.name] != SweepConfig.entry_point:  # its cells are measured, each with a method of its own
        wanted[names.TAG_METHOD.name] = str(FIRST_METHOD)
    if series := series_of(params, tags):
        wanted |= {names.TAG_SERIES.name: series, RUN_COLOR: color_of(series)}
    return {name: value for name, value in wanted.items() if name not in tags}
