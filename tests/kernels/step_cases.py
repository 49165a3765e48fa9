"""Random whole-step inputs, and products of a step."""

from dataclasses import fields, replace
from functools import partial

import torch

from tests.kernels.decode_cases import poisoned_memory
from ttt_mlflow.kernels.attention.decode import decode_attention
from ttt_mlflow.kernels.inner_layers import INNER_LAYERS, MINI_BATCH
from ttt_mlflow.kernels.overlapped.launch import OverlappedStep, product
from ttt_mlflow.kernels.overlapped.reference import overlapped_step, transformer_step
from ttt_mlflow.kernels.overlapped.tensors import (
    LayerTensors,
    StepTensors,
    TransformerLayerTensors,
    TransformerTensors,
)
from ttt_mlflow.kernels.overlapped.transformer import TransformerStep
from ttt_mlflow.kernels.overlapped.tuning import StagedTiling


def make_step(
    kind,
    batch,
    *,
    position=0,
    layers=2,
    heads=2,
    dim=16,
    intermediate=88,
    vocab=101,
    dtype=torch.float16,
    seed=0,
    device="cpu",
):
    """Random weights, and a state at ``position`` of a mini-batch: NaN in the slots that are not written yet."""
    generator = torch.Generator(device).manual_seed(seed)
    width, inner = heads * dim, INNER_LAYERS[kind]

    def random(*shape, scale=1.0, shift=0.0, dtype=dtype):
        return (torch.randn(shape, generator=generator, device=device) * scale + shift).to(dtype)

    def slots(width):
        written = random(batch, heads, MINI_BATCH, width, scale=0.1)
        written[:, :, position:] = float("nan")
        return written

    def layer():
        rows = -(-(3 * width + heads) // 64) * 64
        projection = random(rows, width, scale=width**-0.5)
        projection[3 * width + heads :] = 0
        return LayerTensors(
            random(width, scale=0.1, shift=1), random(4, width, scale=0.5), random(width, scale=0.1),
            random(width, scale=0.1, shift=1), projection,
            random(4, width, scale=0.5), random(width, scale=0.1),
            random(4, width, scale=0.5), random(width, scale=0.1),
            random(heads), random(MINI_BATCH, scale=0.1, shift=0.3, dtype=torch.float32),
            random(heads, dim, scale=0.1, shift=1), random(heads, dim, scale=0.1),
            random(width, scale=0.1, shift=1), random(width, scale=0.1), random(width, width, scale=width**-0.5),
            random(width, scale=0.1, shift=1), random(2 * intermediate, width, scale=width**-0.5),
            random(width, intermediate, scale=intermediate**-0.5),
            random(batch, 4, width), random(batch, 4, width),
            tuple(random(batch, heads, *shape, scale=dim**-0.5) for shape in inner.state_shapes(dim)),
            tuple(slots(width) for width in inner.slot_widths(dim)),
        )  # fmt: skip

    angles = torch.outer(torch.arange(MINI_BATCH).float(), 10000 ** -(torch.arange(0, dim, 2).float() / dim)).to(device)
    embedding = torch.zeros(-(-vocab // 64) * 64, width, dtype=dtype, device=device)
    embedding[:vocab] = random(vocab, width)
    return StepTensors(
        [layer() for _ in range(layers)], embedding, random(width, scale=0.1, shift=1), angles.cos(), angles.sin(),
        torch.tensor([position], dtype=torch.int32, device=device), inner, vocab,
    )  # fmt: skip


def make_transformer_step(
    batch, *, position=0, layers=2, heads=2, kv_heads=2, dim=16, length=32, intermediate=88, vocab=101,
    dtype=torch.float16, seed=0, device="cpu",
):  # fmt: skip
    """Random weights, and a cache with ``position`` tokens: NaN where none is written yet."""
    generator = torch.Generator(device).manual_seed(seed)
    width = heads * dim

    def random(*shape, scale=1.0, shift=0.0):
        return (torch.randn(shape, generator=generator, device=device) * scale + shift).to(dtype)

    def cache():
        written = random(batch, kv_heads, length, dim)
        written[:, :, position:] = float("nan")
        return written

    def layer():
        return TransformerLayerTensors(
            random(width, scale=0.1, shift=1), random(width + 2 * kv_heads * dim, width, scale=width**-0.5),
            random(width, width, scale=width**-0.5), random(width, scale=0.1, shift=1),
            random(2 * intermediate, width, scale=width**-0.5),
            random(width, intermediate, scale=intermediate**-0.5), cache(), cache(),
        )  # fmt: skip

    angles = torch.outer(torch.arange(length).float(), 10000 ** -(torch.arange(0, dim, 2).float() / dim)).to(device)
    embedding = torch.zeros(-(-vocab // 64) * 64, width, dtype=dtype, device=device)
    embedding[:vocab] = random(vocab, width)
    return TransformerTensors(
        [layer() for _ in range(layers)], embedding, random(width, scale=0.1, shift=1), angles.cos(), angles.sin(),
        torch.tensor([position], dtype=torch.int32, device=device), vocab,
    )  # fmt: skip


def converted(step, to):
    """The same step with every tensor ``to(tensor)``, in memory of its own."""

    def copy(x):
        if torch.is_tensor(x):
            return to(x)
        if isinstance(x, list):
            return list(map(copy, x))
        if isinstance(x, tuple):
            return type(x)(*map(copy, x)) if hasattr(x, "_fields") else tuple(map(copy, x))
        return x

    return replace(step, **{field.name: copy(getattr(step, field.name)) for field in fields(step)})


def widened(x):
    return x.double() if x.is_floating_point() else x.clone()


def distance(out, exact):
    """‖out - exact‖ / ‖exact‖"""
    return float((out.double() - exact.double()).norm() / exact.double().norm())


def check_step(kind, batch, *, tokens, device="cpu", most=1.2, tuning=None, **shape):
    """A step of a TTT model: see :func:`_check`."""

    def prepare(tensors):
        return OverlappedStep(tensors, batch, tuning=tuning)

    step = make_step(kind, batch, device=device, **shape)
    return _check(prepare, overlapped_step, step, batch, tokens, device, most)


def check_transformer_step(
    batch, *, tokens, device="cpu", most=1.2, tuning=None, splits=1, block=16, early=True, ahead=0, heads=2,
    **shape,
):  # fmt: skip
    """A step of a transformer: see :func:`_check`. splits, block, early, ahead: of the attention."""

    def prepare(tensors):
        def attention(overlap):
            launch = {"splits": splits, "block": block, "overlap": overlap, "early": early, "ahead": ahead}
            return partial(decode_attention, heads=heads, **launch)

        return TransformerStep(tensors, batch, attention, tuning=tuning)

    step = make_transformer_step(batch, heads=heads, device=device, **shape)
    with poisoned_memory():
        return _check(prepare, transformer_step, step, batch, tokens, device, most)


def _check(prepare, plain, step, batch, tokens, device, most):
    """A step against float64, no farther from it than ``most`` times its twin in 16 bit is, over all tokens.

    A single token may be twice as far, because with few logits its distance is much of chance. All buffers and outputs
    are poisoned before each step. Returns the distances of the step and of the twin.
    """
    exact, twin = converted(step, widened), converted(step, lambda x: x.clone())
    mine = prepare(step)
    generator = torch.Generator().manual_seed(1)
    distances = []
    for _ in range(tokens):
        fed = torch.randint(step.vocab, (batch,), generator=generator)
        for buffer in mine.buffers:
            buffer.fill_(float("nan") if buffer.is_floating_point() else -1)
        following = torch.full((batch,), -1, device=device)
        logits = mine(fed.to(device), following)
        wanted, _ = plain(exact, fed.to(device))
        rounded, _ = plain(twin, fed.to(device))
        assert following.tolist() == logits.float().argmax(-1).tolist()
        assert step.position.item() == exact.position.item()
        distances.append((distance(logits, wanted), distance(rounded, wanted)))
        assert distances[-1][0] <= 2 * distances[-1][1]
    own, other = torch.tensor(distances, dtype=torch.float64).square().mean(0).sqrt().tolist()
    assert own <= most * other, distances
    for own, other, ideal in zip(step.layers, twin.layers, exact.layers, strict=True):
        for name, (a, b, c) in _changed(own, other, ideal).items():
            written = ~c.isnan()
            assert torch.equal(a.isnan(), c.isnan()), f"{name}: other elements were written"
            assert distance(a[written], c[written]) <= most * distance(b[written], c[written]) + 1e-6, name
    return distances


def check_flight(tiling, n, k, *, batch=3, device="cpu", **kind):
    """How many tiles are on their way at once changes no bit of a product, which is right. kind: partial or gated."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(batch, k, generator=generator).half()
    w = (torch.randn(n, k, generator=generator) * k**-0.5).half()
    exact = x.double() @ w.double().T
    if kind.get("gated"):
        gate, up = exact.chunk(2, 1)
        exact = gate * gate.sigmoid() * up
    found = []
    for flight in range(1, (tiling.stages if isinstance(tiling, StagedTiling) else tiling.tiles) + 1):
        shape = (tiling.parts_of(k), *exact.shape) if kind.get("partial") else exact.shape
        dtype = torch.float32 if kind.get("partial") else torch.float16
        out = torch.full(shape, float("nan"), dtype=dtype, device=device)
        product(x.to(device), w.to(device), out, tiling=replace(tiling, flight=flight), overlap=False, **kind)
        found.append(out.cpu())
    assert distance(found[0].double().reshape(-1, *exact.shape).sum(0), exact) < 1e-3
    assert all(torch.equal(one, found[0]) for one in found)


def _changed(*layers):
    """What a step updates of a layer, by name, of each of ``layers``."""
    one = layers[0]
    if isinstance(one, TransformerLayerTensors):
        return {name: [getattr(layer, name) for layer in layers] for name in ("k", "v")}
    names = ["conv_ring", "qk_ring", *(f"state {i}" for i, _ in enumerate(one.state)),
             *(f"slots {i}" for i, _ in enumerate(one.slots))]  # fmt: skip
    return dict(zip(names, zip(*(layer.changed() for layer in layers), strict=True), strict=True))
