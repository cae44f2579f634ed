"""Comparing mixers: synthetic probes and real data, the same model around every mixer, the same budget."""
