"""`python -m benchmarks.perf`: measure, and write records, table and figure to results/perf."""

import os
import sys

# Every shape makes oneDNN build its primitives once; its default cache of 1024 would evict them again between the
# widths. The variables count only where they are set before torch starts.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.perf.measure import main

if __name__ == "__main__":
    sys.exit(main())
