"""The same numbers as what others wrote, from the same weights."""
