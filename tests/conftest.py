"""What holds for every test."""

import os

# The differ's matrices are small: threads over them cost several times the processor's time. Set before numpy loads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
