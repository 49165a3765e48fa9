"""A comparison as an HTML page that needs no network: the changes with their confidence intervals as a picture."""

from ttt_mlflow.report.comparison_export import comparison_data
from ttt_mlflow.report.comparison_text import Report, headline
from ttt_mlflow.report.page import page
from ttt_mlflow.report.profile_diff import diff_rows, diff_title


def comparison_html(report: Report) -> str:
    """The page. Every text of a record is data to its script, which writes text and never HTML."""
    kernels = [{"title": title, "change": diff_title(diff), **diff_rows(diff)} for title, diff in report.profiles]
    return page(
        f"Comparison: {headline(report.compared)}", "comparison", {**comparison_data(report), "kernels": kernels}
    )
