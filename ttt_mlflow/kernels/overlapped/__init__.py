"""A decode step of few sequences as short kernels that overlap: ``decode_path=overlapped``.

Each kernel is told to start while the one before still runs (programmatic dependent launch). It requests its weights
and its state, which depend on no kernel of the step, and then waits for the results that it takes. So the memory reads
on from kernel to kernel, and a launch costs little more than what it waits for.
"""
