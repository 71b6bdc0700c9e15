"""Search spaces: what may vary around which base; no torch, no ray."""
