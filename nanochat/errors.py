"""The error that preparing, fetching and serving data raises; a file of its own, since corpus, hub, debian and data all need it."""

from __future__ import annotations


class DataError(Exception):
    """Data that cannot be prepared or served. `str(error)` is one line: what, where, what to do."""
