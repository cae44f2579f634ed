"""How many inputs are decoded together."""

from jogak.decoding import search
from jogak.models import Decoder
from tests.unit.decoding.writers import decoder


def test_large_states_make_small_batches(monkeypatch):
    model = decoder("mamba2")
    assert isinstance(model, Decoder)
    largest = max(block.mixer.init_state(1, device="meta").nbytes for block in model.decoder.stack.blocks)
    monkeypatch.setattr(search, "HELD", 12 * largest)
    assert search.together(model, 64, 1) == 12
    assert search.together(model, 64, 5) == 2
    assert search.together(model, 8, 1) == 8
    assert search.together(model, 64, 100) == 1


def test_other_devices_take_what_was_asked():
    model = decoder().to("meta")
    assert isinstance(model, Decoder)
    assert search.together(model, 64, 100) == 64
