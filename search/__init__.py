"""The search: trials, rungs and proposals on Ray Tune."""
