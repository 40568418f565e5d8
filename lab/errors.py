"""The one exception that a user may cause: a sentence that says what is wrong, where, and what to do.

Commands print it on one line and exit with code 2; everything else that escapes is a bug and shows its traceback.
"""


class UserError(Exception):
    """Wrong input or a refused action. `str(error)` is the whole message: one line, no traceback."""
