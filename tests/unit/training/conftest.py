import os

import pytest


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """These tests kill no machine, so that waiting until bytes are on the platter would only slow them down."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
