"""What a model allocates on a GPU, in order, as it says before anything is allocated."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WEIGHTS, STATE, WORKSPACES, TEMPORARIES = "weights", "state", "cuBLAS workspaces", "temporaries"
KINDS = (WEIGHTS, STATE, WORKSPACES, TEMPORARIES)
# of each stream with a matrix product, on compute capability 9.0; a quarter of it on older GPUs
WORKSPACE_BYTES = 32 << 20
DEFAULT_STREAM = "default stream"


@dataclass(frozen=True)
class Allocate:
    """number: of the tensor, from 0. pool: the stream, or the graph in whose own memory it is."""

    number: int
    size: int  # bytes
    kind: str  # one of KINDS
    pool: str


@dataclass(frozen=True)
class Free:
    number: int


@dataclass(frozen=True)
class EmptyCache:
    """What no tensor uses goes back to the GPU, as before each capture of a graph."""


class Allocations:
    """Tensors that come and go, as the variables of a function do. ``events``: in their order."""

    def __init__(self) -> None:
        self.events: list[Allocate | Free | EmptyCache] = []
        self._numbers: dict[str, int] = {}
        self._count = 0
        self._pool = DEFAULT_STREAM
        self._with_workspace: set[str] = set()

    def keep(self, kind: str, sizes: Iterable[int]) -> None:
        """Allocate tensors of ``sizes`` bytes that are never freed."""
        for size in sizes:
            self._allocate(size, kind)

    def put(self, **sizes: int) -> None:
        """Allocate tensors of ``sizes`` bytes, then give them these names. What had a name before is freed."""
        numbers = {name: self._allocate(size) for name, size in sizes.items()}
        for name, number in numbers.items():
            self.drop(name)
            self._numbers[name] = number

    def drop(self, *names: str) -> None:
        """Free the tensors with these names, as far as there are any."""
        for name in names:
            if (number := self._numbers.pop(name, None)) is not None:
                self.events.append(Free(number))

    def rename(self, name: str, new: str) -> None:
        """As an assignment: what ``new`` had before is freed."""
        number = self._numbers.pop(name)
        self.drop(new)
        self._numbers[new] = number

    def add(self, temporaries: "Allocations") -> None:
        """All events of ``temporaries``, in this pool."""
        first = self._count
        for event in temporaries.events:
            if isinstance(event, Allocate):
                self._allocate(event.size, event.kind)
            elif isinstance(event, Free):
                self.events.append(Free(first + event.number))

    def workspace(self) -> None:
        """A matrix product: cuBLAS keeps a workspace for each stream with one."""
        if self._pool not in self._with_workspace:
            self._with_workspace.add(self._pool)
            self._allocate(WORKSPACE_BYTES, WORKSPACES)

    @contextmanager
    def on(self, stream: str, workspace_of: str | None = None) -> Iterator[None]:
        """Until the block ends, allocate on another stream, or in a graph's memory.

        workspace_of: the stream on which the graph is captured, if it was used before: its workspace serves the graph.
        """
        before, self._pool = self._pool, stream
        if workspace_of in self._with_workspace:
            self._with_workspace.add(stream)
        try:
            yield
        finally:
            self._pool = before

    def empty_cache(self) -> None:
        self.events.append(EmptyCache())

    def _allocate(self, size: int, kind: str = TEMPORARIES) -> int:
        number, self._count = self._count, self._count + 1
        self.events.append(Allocate(number, size, kind, self._pool))
        return number


def add_decoder(
    made: Allocations,
    step: Callable[[Allocations], None],
    prompt: Callable[[Allocations], None] | None,
    cuda_graph: bool,
) -> None:
    """What :class:`ttt_mlflow.models.decoder.ModelDecoder` allocates beside the model.

    step: adds what a decode step allocates. prompt: the same for a prompt, if it is processed at once.
    """
    if cuda_graph:
        with made.on("stream of the capture"):
            step(made)
        made.empty_cache()
        with made.on("graph", workspace_of="stream of the capture"):
            step(made)
    else:
        step(made)
    if prompt:
        prompt(made)


def recorded(function: Callable[[], Any]) -> Allocations:
    """What ``function`` allocates and frees, with tensors of the device ``meta``. Its result is freed at the end."""
    made = Allocations()
    with _Recorder(made) as recorder:
        function()
    recorder.close()
    return made


def storage_bytes(tensors: Iterable[Tensor]) -> list[int]:
    """The bytes of each storage of ``tensors``, in their order. Views of one storage count once."""
    return list({_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


class _Recorder(TorchDispatchMode):
    """Notes when storages of the device ``meta`` appear and go. Those of arguments are not new."""

    def __init__(self, made: Allocations) -> None:
        super().__init__()
        self._made = made
        self._alive: dict[int, weakref.finalize] = {}  # by the storage's address

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_key(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.is_meta and _key(tensor) not in given | self._alive.keys():
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, name = storage._cdata, f"storage {storage._cdata}"
        self._made.put(**{name: storage.nbytes()})
        self._alive[key] = weakref.finalize(storage, self._gone, key, name)

    def _gone(self, key: int, name: str) -> None:
        del self._alive[key]
        self._made.drop(name)

    def close(self) -> None:
        for finalizer in list(self._alive.values()):
            finalizer()


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
