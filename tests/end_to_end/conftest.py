"""What the end-to-end tests share."""

import pytest

from tests.browser import chromium


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium for the tests of one file (its event loop must not outlive them)."""
    with chromium() as running:
        yield running
