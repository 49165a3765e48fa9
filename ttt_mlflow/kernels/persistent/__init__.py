"""A whole decode step of a TTT model as one kernel, for small batches.

At batch 1, a step reads 2.6 GB of weights in 0.59 ms on an H200, in a hundred products of 2 to 10 µs each. Launched one
by one, each of them starts with an empty memory pipeline and ends with a draining one. Here, one program per
multiprocessor runs from the embedding to the arg-max. The programs meet between stages in device memory
(:mod:`.grid`), and each requests its first weights of the next stage before it waits. docs/small-batches.md describes
the design. The stages and their order stand in :mod:`.step`.
"""
