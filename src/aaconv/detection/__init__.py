"""Object detection: how good found boxes are."""
