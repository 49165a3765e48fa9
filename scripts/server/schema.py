"""MLflow's version of a database's tables, and whether the MLflow that is installed can use them."""


def about_schema(version: str) -> str | None:
    """Why the MLflow here cannot use tables of ``version``, and what to do; None if it can."""
    import mlflow

    if version == newest():
        return None
    if version in known():
        upgrade = "run ./scripts/server/upgrade.sh, which makes a backup first"
        return f"its tables are of an older MLflow (version {version}); {upgrade}"
    return f"its tables (version {version}) are of a newer MLflow than {mlflow.__version__}; install that MLflow again"


def newest() -> str:
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def known() -> set[str]:
    """All versions from which this MLflow can upgrade, and its own."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    script = ScriptDirectory.from_config(_get_alembic_config(db_url=""))
    return {revision.revision for revision in script.walk_revisions()}
