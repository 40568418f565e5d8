"""One file a backend; the protocol they share is in `base.py`."""
