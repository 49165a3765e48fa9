"""Names the calls of another package's functions, while a profiler uses names."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


@contextmanager
def inside(owner: Any, name: str, context: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    """Run calls of ``owner.name`` inside ``context()`` until the block ends."""
    function, own = getattr(owner, name), name in vars(owner)

    def call(*args: Any, **kwargs: Any) -> Any:
        with context():
            return function(*args, **kwargs)

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, function) if own else delattr(owner, name)
