"""The one detector that every trial trains: model, data, training and evaluation, without ray."""

import os

# A batch of images and its feature maps are tens of megabytes, given back and asked for again every step. In huge pages
# torch's CPU allocator gets them with a fraction of the page faults (a batch of 32 ready for the model: 12 ms, not 29).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
