"""Carries out the commands that read records: profile-diff, sync. The table has a module of its own."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ttt_mlflow.app.janitor import clean_after_sync
from ttt_mlflow.app.output import print_error, print_text
from ttt_mlflow.errors import BadInput, PublishFailed

if TYPE_CHECKING:
    from ttt_mlflow.tracking.sync import SyncResult


def profile_difference(run_a: str, run_b: str, out: Path, logdir: Path, tracking_uri: str | None) -> None:
    """Print which kernels changed from ``run_a`` to ``run_b``, and write the result to ``out`` in three formats.

    Raises :class:`BadInput` for runs that cannot be compared, and if ``out`` is not writable.
    """
    from ttt_mlflow.report import profile_diff as report
    from ttt_mlflow.tracking.find_run import found_run
    from ttt_mlflow.tracking.store import resolve_tracking_uri

    uri = resolve_tracking_uri(tracking_uri)
    with found_run(run_a, logdir, uri) as a, found_run(run_b, logdir, uri) as b:
        diff = report.profile_diff(*report.read_profiles(a, b))
    print_text(report.diff_text(diff))
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "diff.csv").write_text(report.diff_csv(diff))
        (out / "diff.md").write_text(report.diff_markdown(diff))
        (out / "diff.png").write_bytes(report.diff_png(diff))
    except OSError as error:
        raise BadInput(f"out={out}: not writable ({error.strerror}); choose a folder that you may write to") from None
    print_text(f"Written: {out}/diff.csv, diff.md, diff.png")


def sync_records(path: str, tracking_uri: str | None, verify: bool = False) -> int:
    """Publish the unpublished records of ``path``, which is one record or a folder of them. Returns the exit code.

    verify: read back what is in MLflow, also what was published before.
    """
    from rich.console import Console

    from ttt_mlflow.tracking.sync import SyncResult, sync

    with Console(stderr=True).status("reading the records") as status:

        def tell(result: SyncResult, number: int, count: int) -> None:
            if result.remains:
                print_error(f"Error: {result.journal.journal_id}: {_remains(result)}")
            else:
                print_text(f"{result.journal.journal_id}: {result.outcome}")
            for note in (*(result.run.notes if result.run else ()), *result.notes):
                print_error(note)
            status.update(f"{number} of {count} records")

        results = sync(path, tracking_uri, verify, tell)
    if not results:
        print_text(f"No records in {path}.")
    remaining = Counter(result.outcome for result in results if result.remains)
    if remaining and len(results) > 1:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(remaining.items()))
        print_error(f"Not in MLflow: {remaining.total()} of {len(results)} records ({counts})")
    return clean_after_sync(results, tracking_uri) or (PublishFailed.exit_code if remaining else 0)


def _remains(result: "SyncResult") -> str:
    return f"damaged and set aside: {result.message}" if result.outcome == "damaged" else str(result.message)
