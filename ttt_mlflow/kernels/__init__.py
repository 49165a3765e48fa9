"""Kernels and what each of them means, in plain PyTorch.

A folder for each inner net, and one for the block around it. In each, every kernel has its twin in ``reference.py``,
with the same name and signature. The reference functions are also the model on a CPU, and ``linear_decode`` and
``mlp_decode`` are the inner nets ``mlp_1_dual`` and ``mlp_2_dual``.

Letters of the shapes: B sequences, D model width, H heads, F head dimension (D = H F), M = 16 tokens of a
mini-batch, N = 4 F, I feed-forward width. ``position`` is an int32 tensor [1] on the device: the token's index in its
mini-batch. Nothing here reads it back to the host, so that one CUDA graph serves every position.

In the reference functions, products with the state matrices are in float32, arithmetic on vectors is in float64, and
each function rounds its outputs to the dtype of its inputs once. The float64 is not for precision: it makes the result
independent of the order in which a reduction sums and of whether a multiply and an add are fused, so that a compiled
step gives the same bits, and the same greedy tokens, as an eager one. Next to the state the vectors are small.

Source of the update rule: Sun et al. 2024, arXiv 2407.04620, sections 2.4 to 2.7.
"""
