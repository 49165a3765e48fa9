"""The kernels, and their definitions in plain PyTorch.

There is a folder for each inner net, and one for the block around it. In each folder, every kernel has a twin of the
same name and signature in ``reference.py``. The reference functions are also the model on a CPU: ``linear_decode`` and
``mlp_decode`` are the inner nets ``mlp_1_dual`` and ``mlp_2_dual``.

Letters of the shapes: B sequences, D model width, H heads, F head dimension (D = H F), M = 16 tokens of a
mini-batch, N = 4 F, I feed-forward width. ``position`` is an int32 tensor [1] on the device: the token's index in its
mini-batch. No function here reads it back to the host, so one CUDA graph serves every position.

In the reference functions, products with the state matrices are in float32, and arithmetic on vectors is in float64.
Each function rounds its outputs to the dtype of its inputs once. The purpose of float64 is not precision. It makes the
result independent of the order of a reduction and of fused multiply-adds. A compiled step therefore gives the same
bits, and the same greedy tokens, as an eager step. The vectors are small compared with the state.

Source of the update rule: Sun et al. 2024, arXiv 2407.04620, sections 2.4 to 2.7.
"""
