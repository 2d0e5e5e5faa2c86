"""Timings of slimlib against individually built dense networks of the same channels.

Every shape makes oneDNN build its primitives once; its default cache of 1024 would evict them again
between the widths. The variable counts only if it is set before torch starts.
"""

import os

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
