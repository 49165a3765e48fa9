"""Publishes a sweep from its own process: the parent from its beginning, each run when it has ended.

The processes that measure do not publish. So a server that is lost delays no measurement, and one process imports
MLflow for all runs.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ttt_mlflow import names
from ttt_mlflow.app.output import print_error
from ttt_mlflow.app.publishing import Destination, Publishing
from ttt_mlflow.app.signals import ParentRun
from ttt_mlflow.errors import BadInput, BeingPublished, DamagedRecord, Killed, PublishFailed
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.at_work import AtWork
from ttt_mlflow.tracking.publisher import Limits, NoAnswer
from ttt_mlflow.tracking.run_values import record_id

if TYPE_CHECKING:  # it imports PyTorch
    from ttt_mlflow.tracking.sweeps import SweepRuns

QUESTION_S = 10.0  # how long one question may take; a server that is lost is asked before each further publication


class SweepPublishing(Publishing):
    """See :class:`Publishing`. It publishes the record of a sweep's parent, and those of the parent's children.

    lost: why the store did not take something; None while it does. resumption: the run that `mlflow run` made to resume
    a sweep which has a parent already, or None.
    """

    def __init__(self, destination: Destination, parent: ParentRun | None) -> None:
        super().__init__(destination, parent)
        self.lost: str | None = None
        self.resumption: ParentRun | None = None

    @property
    def experiment_name(self) -> str | None:
        """The experiment that was asked for; None under `mlflow run`, which has chosen it."""
        return self._experiment_name

    def find(self, sweep_id: str) -> "SweepRuns | None":
        """The sweep as the store has it. Raises PublishFailed if the store does not answer, BadInput if it refuses."""
        from ttt_mlflow.tracking.store import check_place
        from ttt_mlflow.tracking.sweeps import ChildRun, SweepRuns

        if reason := check_place(self.uri):
            raise PublishFailed(reason)
        found = self._question("find_sweep", uri=self.uri, experiment_name=self._experiment_name, sweep_id=sweep_id)
        if not found:
            return None
        children = [ChildRun(**one) for one in found["children"]]
        return SweepRuns(**{**found, "children": children, "at_work": AtWork.of_words(found["at_work"])})

    def begin(self, record: Journal, alive_s: float) -> None:
        super().begin(record, alive_s)
        if not self._begun:
            self.lost = "it did not answer when the sweep began"

    def resume(self, record: Journal, alive_s: float) -> None:
        """Let the run of the parent's record go on. The run that `mlflow run` made, if any, says that it resumes it."""
        from ttt_mlflow.tracking.sweeps import link_to

        self.set_aside()
        try:
            self._question("resume_sweep", record=str(record.path), uri=self.uri, alive_s=alive_s)
            self._begun = True
            if self.resumption:
                where = record.target
                url = link_to(self.uri, str(where["experiment_id"]), str(where["run_id"]))
                parent = {"run_id": where["run_id"], "name": record.run_name, "url": url}
                resumption = self.resumption.candidate.run_id
                self._question("tell_resumption", tracking_uri=self.uri, run_id=resumption, parent=parent)
        except PublishFailed as error:
            self.lost = str(error)
            print_error(f"Warning: the store cannot be reached ({error}); the runs are kept in {record.path.parent}")

    def set_aside(self) -> None:
        """Leave the run that `mlflow run` has made for this process, if it has, until it is told at the end."""
        if self.confirm_parent():
            self.resumption, self._parent = self._parent, None
            assert self.resumption
            self.resumption.follow()

    def update(self, record: Journal) -> None:
        """Let the store have what the parent's record says by now. Nobody waits for it."""
        if not self.lost:
            self.publish_so_far(record)

    def publish_child(self, child: Journal, parent: Journal, alive_s: float) -> str | None:
        """Publish the record of a run and return the run's id. None if the store does not take it, as ``lost`` tells.

        A store that was lost is first asked for a moment whether it is there again.
        """
        if self.lost and not self._is_back(parent, alive_s):
            return None
        parent_id = {names.TAG_PARENT_JOURNAL_ID: record_id(parent)}
        try:
            if child.tags.get(names.TAG_PARENT_JOURNAL_ID.name) != record_id(parent):
                child.update_tags(parent_id)
            done = self._ask("publish", self._limits, child, candidate=None)
        except BeingPublished as error:
            print_error(str(error))
            return None
        except (PublishFailed, DamagedRecord, BadInput) as error:
            if not isinstance(error, DamagedRecord):
                self.lost = str(error)
            print_error(f"Warning: {error}")
            return None
        return str(done["published"]["run_id"])

    def end_resumption(self, parent: Mapping[str, str], description: str, killed: Killed | None) -> None:
        """End the run that `mlflow run` made for the resumption: it shows the parent's link and table."""
        if self.resumption is None:
            return
        self._question(
            "tell_resumption",
            tracking_uri=self.uri,
            run_id=self.resumption.candidate.run_id,
            parent=dict(parent),
            description=description,
            status="killed" if killed else "ok",
            message=f"stopped by {killed}" if killed else None,
        )
        if killed:
            self.resumption.keep_killed()

    def reject(self, error: BadInput | DamagedRecord | Killed) -> None:
        if self.resumption is None:
            super().reject(error)

    def _is_back(self, parent: Journal, alive_s: float) -> bool:
        """Whether the store is there again. Then the parent is, too: it is made, or goes on as the store has it."""
        try:
            if self._question("answers", uri=self.uri) is not None:
                return False
            if not self._begun:
                self._begin_late(parent, alive_s)
        except (PublishFailed, BadInput):
            return False
        self.lost = None
        return True

    def _begin_late(self, parent: Journal, alive_s: float) -> None:
        stored = self.find(parent.tags[names.TAG_SWEEP_ID.name])
        if stored:
            adopt(parent, stored)
            self.resume(parent, alive_s)
            return
        candidate = asdict(self._parent.candidate) if self._parent else None
        begun = self._ask("begin", self._limits, parent, candidate=candidate, alive_s=alive_s)
        self._begun = True
        if begun["taken_over"] and self._parent:
            self._parent.follow()
        else:
            self._parent = None

    def _question(self, do: str, **asked: Any) -> Any:
        limits = Limits(min(self._limits.patience_s, QUESTION_S), self._limits.most_s)
        try:
            return self._process().ask(do, limits, **asked)
        except NoAnswer:
            self._publisher = None  # it has ended; the next request starts another
            raise


def adopt(parent: Journal, stored: "SweepRuns") -> None:
    """Let the record ``parent`` be a copy of that of the parent which the store has."""
    parent.update_tags({names.TAG_JOURNAL_ID: stored.journal_id})
    target = parent.target
    uri, name = target["tracking_uri"] or "", target["experiment_name"]
    parent.set_target(uri, stored.run_id, name, stored.experiment_id)
