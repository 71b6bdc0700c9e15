"""The parts of the detector, one a file, put together in `detector.py`."""
