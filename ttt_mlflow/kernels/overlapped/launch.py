"""Prepares and launches the kernels of a step: buffers, addresses, and how its products are divided."""

from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from ttt_mlflow.kernels.arithmetic import NORM_EPS
from ttt_mlflow.kernels.block import fused
from ttt_mlflow.kernels.inner_layers import MINI_BATCH, MLP
from ttt_mlflow.kernels.launch import has_warpgroups, overlaps, prefer_cache
from ttt_mlflow.kernels.overlapped import stages
from ttt_mlflow.kernels.overlapped.heads import WEIGHTS
from ttt_mlflow.kernels.overlapped.product import product_kernel
from ttt_mlflow.kernels.overlapped.shape import LARGEST_BATCH, LARGEST_STAGED, StepShape, check_shape
from ttt_mlflow.kernels.overlapped.staged import staged_product_kernel
from ttt_mlflow.kernels.overlapped.tensors import LayerTensors, StepTensors, TransformerTensors
from ttt_mlflow.kernels.overlapped.tiles import GROUP, ROWS
from ttt_mlflow.kernels.overlapped.tuning import StagedTiling, Tiling, Tuning, padded_batch
from ttt_mlflow.kernels.ttt_linear.decode import linear_decode
from ttt_mlflow.kernels.ttt_mlp.decode import mlp_decode
from ttt_mlflow.workload import CONVOLUTION, FEED_FORWARD, HEAD, INNER, PROJECTIONS, SAMPLING, in_layer, in_part

CHUNK = 32  # hidden units of TTT-MLP that are folded at a time
SMALLEST_HEAD = 32  # that the inner nets' kernels of ``launches`` take
assert LayerTensors._fields[:-2] == WEIGHTS


def product(
    x: Tensor, weight: Tensor, out: Tensor, *,
    best: Tensor | None = None, words: int = 0, partial: bool = False, gated: bool = False,
    tiling: Tiling | StagedTiling, overlap: bool,
) -> None:  # fmt: skip
    """out = x Wᵀ, or of one kind of :func:`.product.product_kernel`. x [B, K], W [N, K].

    best: [:func:`padded_batch`, :meth:`Tiling.programs_of`] int64, for the largest value of each program's rows, of the
    first ``words``. partial: out has :meth:`Tiling.parts_of`. ValueError for what the kernel would compute wrongly.
    """
    if isinstance(tiling, StagedTiling):
        _staged_product(x, weight, out, best, words, partial, gated, tiling, overlap)
    else:
        _register_product(x, weight, out, best, words, partial, gated, tiling, overlap)


def _check_product(x: Tensor, weight: Tensor, largest: int, rows: int) -> None:
    (batch, k), n = x.shape, weight.shape[0]
    if not 1 <= batch <= largest or n % rows or k % GROUP:
        raise ValueError(
            f"{batch} sequences, weight of {n} x {k}: it takes 1 to {largest} sequences, rows in multiples of {rows} "
            f"and columns in multiples of {GROUP}"
        )


def _register_product(
    x: Tensor, weight: Tensor, out: Tensor, best: Tensor | None, words: int, partial: bool, gated: bool,
    tiling: Tiling, overlap: bool,
) -> None:  # fmt: skip
    _check_product(x, weight, LARGEST_BATCH, ROWS)
    (batch, k), n = x.shape, weight.shape[0]
    grid = (tiling.programs_of(n), out.shape[0] if partial else 1)
    compiled = product_kernel[grid](
        x, x.stride(0), weight, 0, out, out if best is None else best, batch, words, out.stride(-2),
        N=n, K=k, BATCH=padded_batch(batch), COLUMNS=tiling.columns if partial else k, SPAN=tiling.span_of(k),
        WARPS=tiling.warps, HELD=tiling.tiles, FLIGHT=tiling.flight, PARTIAL=partial, GATED=gated,
        BEST=best is not None, OVERLAP=overlap, num_warps=tiling.warps, maxnreg=tiling.registers, launch_pdl=overlap,
    )  # fmt: skip
    if x.device.type == "cuda":
        prefer_cache(compiled.function)


def _staged_product(
    x: Tensor, weight: Tensor, out: Tensor, best: Tensor | None, words: int, partial: bool, gated: bool,
    tiling: StagedTiling, overlap: bool,
) -> None:  # fmt: skip
    _check_product(x, weight, LARGEST_STAGED, 2 if gated else 1)
    (batch, k), n = x.shape, weight.shape[0]
    columns = tiling.rows // 2 if gated else tiling.rows
    grid = (tiling.programs_of(n), tiling.parts_of(k) if partial else 1)
    staged_product_kernel[grid](
        _blocks(x, padded_batch(batch), tiling.step), _blocks(weight, columns, tiling.step), out,
        out if best is None else best, batch, words, out.stride(-2),
        N=n, K=k, STEPS=tiling.steps_of(k) if partial else triton.cdiv(k, tiling.step), STAGES=tiling.stages,
        FLIGHT=tiling.flight or tiling.stages, PARTIAL=partial, GATED=gated, BEST=best is not None, OVERLAP=overlap,
        num_warps=tiling.warps, launch_pdl=overlap,
    )  # fmt: skip


def _blocks(rows: Tensor, height: int, width: int) -> TensorDescriptor:
    """The blocks of a matrix, as the copy engine takes them to shared memory."""
    return TensorDescriptor.from_tensor(rows, [height, width], _block_layout(height, width))


@cache
def _block_layout(height: int, width: int) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for([height, width], gl.float16)  # bfloat16 has the same size


class DecodeStep:
    """What the decode steps of all models have, from the embedding to the next token. A model adds its layers.

    Below compute capability 9.0, the kernels do not overlap.
    """

    slots = 0  # positions after which the next one is 0 again; 0: there is always a next one

    def __init__(self, tensors: StepTensors | TransformerTensors, shape: StepShape, batch: int, tuning: Tuning) -> None:
        self.ends, self.batch, self.tuning = tensors, batch, tuning
        self.device, self.dtype = tensors.embedding.device, tensors.embedding.dtype
        self.overlap = overlaps(self.device)
        self.width, self.projected, self.intermediate = shape.width, shape.projected, shape.intermediate
        self.hidden, self.between, self.x = (self._empty(batch, shape.width) for _ in range(3))
        self.projection, self.inner = self._empty(batch, shape.projected), self._empty(batch, shape.intermediate)
        o_parts, down_parts = tuning.output.parts_of(shape.width), tuning.down.parts_of(shape.intermediate)
        self.o_sums = self._empty(o_parts, batch, shape.width, dtype=torch.float32)
        self.down_sums = self._empty(down_parts, batch, shape.width, dtype=torch.float32)
        self.scores = self._empty(batch, shape.embedding)  # of words, and of the rows that pad the embedding
        self.logits = self.scores[:, : tensors.vocab]
        self.count = tuning.head.programs_of(shape.embedding)
        self.best = self._empty(padded_batch(batch), self.count, dtype=torch.int64)
        self.buffers = [
            self.hidden, self.between, self.x, self.projection, self.inner, self.o_sums, self.down_sums, self.scores,
            self.best,
        ]  # fmt: skip
        self._row = {"WIDTH": shape.width, "BLOCK": triton.next_power_of_2(shape.width)}

    def _empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.device)

    def __call__(self, tokens: Tensor, next_tokens: Tensor) -> Tensor:
        """Feed tokens [B] int64; the next ones go to ``next_tokens`` [B] int64, which may be the same tensor.

        Returns logits [B, V], which the next call overwrites. Raises ValueError if ``next_tokens`` is not contiguous.
        """
        if not next_tokens.is_contiguous():
            raise ValueError("next_tokens: the kernel writes one after the other, and this tensor has gaps")
        ends, rows, tuning = self.ends, (self.batch,), self.tuning
        with in_part(HEAD):
            stages.embedding_kernel[rows](
                tokens.contiguous(), ends.embedding, self.hidden, **self._row, OVERLAP=self.overlap,
                num_warps=tuning.norm_warps,
            )  # fmt: skip
        for index in range(len(ends.layers)):
            with in_layer(index):
                self._layer(index, self.down_sums.shape[0] if index else 0)
        with in_part(HEAD):
            self._add_norm(self.hidden, self.down_sums, self.down_sums.shape[0], ends.last_norm, self.between)
            self._product(self.x, ends.embedding, self.scores, tuning.head, best=self.best, words=ends.vocab)
        with in_part(SAMPLING):
            self._launch(
                stages.sampling_kernel, rows, self.best, next_tokens, ends.position, self.count,
                COUNT=triton.next_power_of_2(self.count), SLOTS=self.slots, num_warps=tuning.norm_warps,
            )  # fmt: skip
        return self.logits

    def _layer(self, index: int, parts: int) -> None:
        """From ``hidden`` and, not yet added to it, the first ``parts`` of ``down_sums`` to the same."""
        raise NotImplementedError

    def _feed_forward(self, norm: Tensor, gate_up: Tensor, down_proj: Tensor) -> None:
        """The end of a layer, from ``between`` and, not yet added to it, ``o_sums``."""
        with in_part(FEED_FORWARD):
            self._add_norm(self.between, self.o_sums, self.o_sums.shape[0], norm, self.hidden)
            self._product(self.x, gate_up, self.inner, self.tuning.gate_up, gated=True)
            self._product(self.inner, down_proj, self.down_sums, self.tuning.down, partial=True)

    def _add_norm(self, hidden: Tensor, sums: Tensor, parts: int, norm: Tensor, out_hidden: Tensor) -> None:
        """out_hidden = hidden + the first ``parts`` of ``sums``; ``x`` is that, normed."""
        self._launch(
            fused.add_rms_norm_kernel, (self.batch,), hidden, sums, self.batch, norm, out_hidden, self.x, **self._row,
            EPS=NORM_EPS, PARTS=parts, num_warps=self.tuning.norm_warps,
        )  # fmt: skip

    def _product(self, x: Tensor, weight: Tensor, out: Tensor, tiling: Tiling | StagedTiling, **kind: Any) -> None:
        product(x, weight, out, tiling=tiling, overlap=self.overlap, **kind)

    def _launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        kernel[grid](*arguments, **constants, OVERLAP=self.overlap, launch_pdl=self.overlap)


class OverlappedStep(DecodeStep):
    """A decode step of ``batch`` sequences of a TTT model as overlapping kernels.

    Twin: :func:`.reference.overlapped_step`. Raises ValueError for what it cannot do (:func:`.shape.unsupported`).
    """

    slots = MINI_BATCH

    def __init__(self, tensors: StepTensors, batch: int, *, tuning: Tuning | None = None) -> None:
        """tuning: another choice than that for the batch."""
        shape = check_shape(tensors, batch)
        tuning = tuning or Tuning.of(shape.model, batch, has_warpgroups(tensors.embedding.device))
        super().__init__(tensors, shape, batch, tuning)
        self.tensors = tensors

        columns = max(len(layer.flat()) for layer in tensors.layers)
        columns += columns % 2  # so that each layer's row begins at a multiple of 16 bytes
        self.table = torch.zeros(len(tensors.layers), columns, dtype=torch.int64)
        for row, layer in zip(self.table, tensors.layers, strict=True):
            row[: len(layer.flat())] = torch.tensor([tensor.data_ptr() for tensor in layer.flat()])
        self.table = self.table.to(self.device)

        self.mixed = self._empty(batch, shape.width)
        self.buffers.append(self.mixed)
        self.gate = self.projection[:, 2 * shape.width : 3 * shape.width]
        heads = shape.width // shape.head_dim
        self.held = tuning.held or shape.head_dim < SMALLEST_HEAD
        self._units = batch * heads
        self._heads = {
            "PROJECTED": shape.projected, "WIDTH": shape.width, "HEADS": heads, "HEAD_DIM": shape.head_dim,
            "MLP": shape.model == "ttt_mlp", "CHUNK": CHUNK, "SLOTS": MINI_BATCH, "EPS": NORM_EPS,
            "WARPS": tuning.head_warps,
        }  # fmt: skip

    def _layer(self, index: int, parts: int) -> None:
        shared, layer, rows, tuning = self.tensors, self.tensors.layers[index], (self.batch,), self.tuning
        with in_part(CONVOLUTION):
            self._launch(
                fused.conv_rms_norm_kernel, rows, self.hidden, self.down_sums, self.batch, layer.conv_ring,
                shared.position, layer.conv_norm, layer.conv_taps, layer.conv_bias, layer.seq_norm, self.between,
                self.x, **self._row, EPS=NORM_EPS, PARTS=parts, num_warps=tuning.norm_warps,
            )  # fmt: skip
        with in_part(PROJECTIONS):
            self._product(self.x, layer.projection, self.projection, tuning.projection)
        if self.held:
            mixed = self.mixed
            with in_part(INNER):
                self._launch(
                    stages.heads_kernel, (self._units,), self.table[index], shared.position, shared.cos,
                    shared.sin, shared.inner_layer.base_lr, self.projection, mixed, **self._heads,
                    num_warps=tuning.head_warps,
                )  # fmt: skip
        else:
            mixed = self._inner_net(layer)
        with in_part(PROJECTIONS):
            self._launch(
                fused.gated_layer_norm_kernel, rows, mixed, self.gate, self.projected, layer.post_norm_weight,
                layer.post_norm_bias, self.x, **self._row, EPS=NORM_EPS, num_warps=tuning.norm_warps,
            )  # fmt: skip
            self._product(self.x, layer.o_proj, self.o_sums, tuning.output, partial=True)
        self._feed_forward(layer.ffn_norm, layer.gate_up, layer.down_proj)

    def _inner_net(self, layer: LayerTensors) -> Tensor:
        """The inner net's output [B, D], by the kernels of ``launches``."""
        shared, width, heads = self.tensors, self.width, layer.norm_weight.shape[0]
        qk, v, logits = (
            self.projection[:, :width],
            self.projection[:, width : 2 * width],
            self.projection[:, 3 * width :],
        )
        with in_part(CONVOLUTION):
            q, k, lr = fused.qk_conv_rotary(
                qk, logits[:, :heads], layer.qk_ring, shared.position, layer.q_taps, layer.q_bias, layer.k_taps,
                layer.k_bias, layer.lr_bias.flatten(), shared.cos, shared.sin, shared.inner_layer.base_lr,
                overlap=self.overlap,
            )  # fmt: skip
        decode = mlp_decode if shared.inner_layer is MLP else linear_decode
        with in_part(INNER):
            return decode(
                q, k, v, lr, layer.eta, shared.position, layer.norm_weight, layer.norm_bias, *layer.state,
                *layer.slots, overlap=self.overlap,
            )  # fmt: skip
