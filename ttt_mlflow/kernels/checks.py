"""Refuses arguments that a decode kernel would read wrongly. Costs no device time and no synchronisation."""

from torch import Tensor

STATE_DTYPES = ("float16", "bfloat16", "float32")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: str, device: object) -> None:
    """Raise ValueError, naming the argument, unless shape, dtype and device are as told."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
    if _dtype(tensor) != dtype:
        raise ValueError(f"{name} is {_dtype(tensor)}, expected {dtype}")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, expected {device}")


def check_contiguous(name: str, tensor: Tensor) -> None:
    """Raise ValueError, naming the argument and its strides, unless it is contiguous."""
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {tensor.stride()} for shape {tuple(tensor.shape)}, must be contiguous")


def check_decode_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lr: Tensor,
    eta: Tensor,
    position: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    state: dict[str, tuple[Tensor, tuple[int, ...]]],
    slots: dict[str, tuple[Tensor, int]],
) -> None:
    """Check one decode step's arguments; ``state`` maps a name to tensor and shape, ``slots`` to tensor and width."""
    (first, (first_state, _)) = next(iter(state.items()))
    dtype, device = _dtype(first_state), first_state.device
    if dtype not in STATE_DTYPES:
        raise ValueError(f"{first} is {dtype}, expected one of {', '.join(STATE_DTYPES)}")
    batch, heads = first_state.shape[:2]
    head_dim = slots["k_slots"][1]
    count = eta.shape[0]
    if count != 16:
        raise ValueError(f"eta has {count} positions, expected 16 (the mini-batch)")
    if head_dim > 128 or head_dim % 8:
        raise ValueError(f"k_slots has head dimension {head_dim}, a multiple of 8 up to 128 is supported")
    for name, (tensor, shape) in state.items():
        check_tensor(name, tensor, shape, dtype, device)
        check_contiguous(name, tensor)
    for name, (tensor, width) in slots.items():
        check_tensor(name, tensor, (batch, heads, count, width), dtype, device)
        check_contiguous(name, tensor)
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, tensor, (batch, heads * head_dim), dtype, device)
    check_contiguous("q", q)
    check_contiguous("k", k)
    if v.stride(1) != 1:
        raise ValueError(f"v has strides {v.stride()}, its rows must be contiguous")
    check_tensor("lr", lr, (batch, heads), "float32", device)
    check_contiguous("lr", lr)
    check_tensor("eta", eta, (count,), "float32", device)
    check_tensor("position", position, (1,), "int32", device)
    for name, tensor in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        check_tensor(name, tensor, (heads, head_dim), dtype, device)
        check_contiguous(name, tensor)
