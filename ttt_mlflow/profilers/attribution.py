"""Gives the activities of compiled and graph-replayed steps the parts that their names have in an eager step.

Inside a replayed CUDA graph, and inside compiled code, no range is seen. The same model's eager step launches mostly
the same kernels in the same order. So each step is laid beside an eager one, kernel name by kernel name:

1. common runs of at least :data:`RUN_LEAST` names, in order, take the eager step's layers and parts: a shorter one of
   names that several parts use would say little;
2. of what is left, a name that only one part has in the eager step takes that part, without a layer;
3. the rest (kernels that the compiler made, for example) stays ``unknown``.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from ttt_mlflow.profilers.trace import UNKNOWN, Activity, Steps

RUN_LEAST = 3


def with_parts_of(steps: Steps, eager: Sequence[Activity]) -> Steps:
    """``steps`` with layers and parts from ``eager``, the activities of one eager step; those known stay."""
    found: list[Activity] = []
    for index in range(steps.count):
        found += _aligned(steps.of_step(index), eager)
    return replace(steps, activities=sorted(found, key=lambda activity: activity.begin_us))


def _aligned(step: Sequence[Activity], eager: Sequence[Activity]) -> list[Activity]:
    parts = defaultdict(set)
    for one in eager:
        parts[one.name].add(one.part)
    found = list(step)
    matched: set[int] = set()
    names, eager_names = [one.name for one in step], [one.name for one in eager]
    for block in SequenceMatcher(None, eager_names, names, autojunk=False).get_matching_blocks():
        for offset in range(block.size if block.size >= RUN_LEAST else 0):
            source, index = eager[block.a + offset], block.b + offset
            matched.add(index)
            if found[index].part == UNKNOWN:
                found[index] = replace(found[index], layer=source.layer, part=source.part)
    for index, one in enumerate(found):
        if index not in matched and one.part == UNKNOWN and len(parts[one.name]) == 1:
            (part,) = parts[one.name]
            found[index] = replace(one, part=part)
    return found
