"""The catalog of names, by name: tests write and read records as people know them."""

from collections.abc import Mapping, Sequence

from ttt_mlflow import names
from ttt_mlflow.names import Artifact, Metric, Metrics, Point, Series, Tag, Tags

_METRICS = {metric.name: metric for metric in (*names.METRICS, *names.GPU_METRICS)}
_TAGS = {tag.name: tag for tag in names.TAGS}
_ARTIFACTS = {artifact.path: artifact for artifact in names.ARTIFACTS}
METRIC_NAMES, TAG_NAMES, ARTIFACT_PATHS = frozenset(_METRICS), frozenset(_TAGS), frozenset(_ARTIFACTS)
KERNEL_METRIC_NAMES = frozenset(metric.name for metric in names.KERNEL_METRICS)


def metric(name: str) -> Metric:
    """The metric of that name; one that the catalog does not have is made up."""
    return _METRICS.get(name) or Metric(name, "1", "of a test")


def metrics(values: Mapping[str, float]) -> Metrics:
    return {metric(name): value for name, value in values.items()}


def series(values: Mapping[str, Sequence[Point]]) -> Series:
    return {metric(name): list(points) for name, points in values.items()}


def tags(values: Mapping[str, str]) -> Tags:
    return {_TAGS[name] if name in _TAGS else Tag(name, "of a test"): value for name, value in values.items()}


def artifact(path: str) -> Artifact:
    return _ARTIFACTS.get(path) or Artifact(path, "of a test")


def by_name(values: Metrics) -> dict[str, float]:
    return {one.name: value for one, value in values.items()}
