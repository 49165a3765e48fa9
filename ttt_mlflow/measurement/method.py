"""The version of the way of measuring. Runs of different versions are not compared without saying so."""

# Raise it whenever the same code on the same GPU would give another number: another timer, warm-up or median.
# 1: CUDA events around each step, warm-up until settled, median of the passes (version 0.1 and later)
# 2: a warm-up that watches the SM clock lasts for two seconds or more
METHOD = 2
FIRST_METHOD = 1  # of runs that were recorded before they named their method
