"""Hugging Face checkpoints: read, written and verified; which family reads one is found by its model type."""
