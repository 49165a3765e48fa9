"""What `doctor --neighbors` measures: a configuration for each thing that neighbors can take away."""

from dataclasses import dataclass

from ttt_mlflow.config import RunConfig

# Each run is measured for the whole time, so that those that are measured together end together.
LENGTH = {"genlen": 64, "max_seconds": 10.0, "precision_pct": 1e-6}


@dataclass(frozen=True)
class Case:
    """name: what bounds its steps, as it is shown."""

    name: str
    config: RunConfig


def cases() -> list[Case]:
    """Launch-bound: host cores. Bandwidth-bound: nothing that is shared, a control. Power-bound: power and cooling."""
    return [
        Case("launch-bound", RunConfig(model_name="ttt-1b", inner_net="mlp_1_dual_triton", batch=1, **LENGTH)),
        Case("bandwidth-bound", RunConfig(model_name="ttt-1b", inner_net="mlp_2_dual_triton", batch=512, **LENGTH)),
        Case("power-bound", RunConfig(model_name="ttt-1b", inner_net="mlp_1_dual_triton", batch=1024, **LENGTH)),
    ]
