"""Comparing mixers: a recipe trained with each, or a trial on a synthetic probe; the same budget for all."""
