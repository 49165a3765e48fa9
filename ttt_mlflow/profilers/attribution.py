"""Finds the parts of activities in compiled and graph-replayed steps, by comparison with an eager step.

Named ranges are not visible inside a replayed CUDA graph or inside compiled code. The eager step of the same model
launches mostly the same kernels in the same order. Activities without a range are therefore matched with an eager step
by kernel name:

1. Common runs of at least :data:`RUN_LEAST` names, in order, take the layers and parts of the eager step. A shorter run
   of names that several parts use would be too uncertain.
2. Of the rest, a name that occurs in only one part of the eager step takes that part, without a layer.
3. The remaining activities (for example kernels that the compiler made) stay ``unknown``.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from ttt_mlflow.profilers.trace import UNKNOWN, Activity, Steps

RUN_LEAST = 3


def with_parts_of(steps: Steps, eager: Sequence[Activity]) -> Steps:
    """``steps`` with layers and parts from ``eager``, the activities of one eager step. Known parts are kept."""
    found: list[Activity] = []
    for index in range(steps.count):
        found += _aligned(steps.of_step(index), eager)
    return replace(steps, activities=sorted(found, key=lambda activity: activity.begin_us))


def _aligned(step: Sequence[Activity], eager: Sequence[Activity]) -> list[Activity]:
    found = list(step)
    unnamed = [index for index, one in enumerate(step) if one.part == UNKNOWN]
    names, eager_names = [step[index].name for index in unnamed], [one.name for one in eager]
    matched: set[int] = set()
    for block in SequenceMatcher(None, eager_names, names, autojunk=False).get_matching_blocks():
        for offset in range(block.size if block.size >= RUN_LEAST else 0):
            source, index = eager[block.a + offset], unnamed[block.b + offset]
            matched.add(index)
            found[index] = replace(step[index], layer=source.layer, part=source.part)
    parts = defaultdict(set)
    for one in eager:
        parts[one.name].add(one.part)
    for index in unnamed:
        if index not in matched and len(parts[step[index].name]) == 1:
            (part,) = parts[step[index].name]
            found[index] = replace(step[index], part=part)
    return found
