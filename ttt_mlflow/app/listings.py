"""Lists the models and kernels that can be measured."""

from ttt_mlflow.app.output import print_error, print_text


def print_models() -> None:
    """Print the models by name, with their inner nets and what is missing for them."""
    from ttt_mlflow.models.registry import models

    for name, entry in models().items():
        print_text(f"{name}: {entry.description}")
        if entry.inner_nets:
            print_text(f"    inner nets: {', '.join(entry.inner_nets)}")
        if missing := entry.missing():
            print_text(f"    not available here: {missing}")


def print_kernels() -> None:
    """Print the kernels by name, and on standard error the packages whose kernels cannot be loaded."""
    from ttt_mlflow.micro.registry import registered

    known = registered()
    width = max(len(name) for name in known.kernels)
    for name, entry in known.kernels.items():
        print_text(f"{name:<{width}}  {entry.description}{' (needs a GPU)' if entry.needs_gpu else ''}")
    for reason in known.broken:
        print_error(f"Not available: {reason}")
