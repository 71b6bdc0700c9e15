"""The one detector that every trial trains: model, data, training and evaluation, without ray."""

import os

# A batch of images and its feature maps are tens of megabytes. In huge pages torch's CPU allocator gets them with a
# fraction of the page faults; what is freed then fits again, where the process keeps it (detector/memory.py).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
