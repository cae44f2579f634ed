"""The laws that every mixer keeps (docs/mixers.md), one file a law."""
