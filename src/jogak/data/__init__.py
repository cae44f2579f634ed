"""From files to batches: sources, the split, encoded stores, batching and packing (see docs/data.md)."""
