import os

# Before numpy is imported, hence here and not in conftest.py, and for every process that a test starts: OpenBLAS begins
# a thread per core in each, which waits for work by spinning.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
