"""Raw things to units and back; one file a kind of thing (`jogak.codecs.text.TextCodec` for text)."""
