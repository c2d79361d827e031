"""The one error that users are meant to read."""

import errno

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of an ``OSError`` by which a disk is full, a quota is used up, or a file may not grow."""


class LossAtlasError(Exception):
    """What went wrong, where, and what would be right, in one line.

    Scripts print the message without a traceback and exit with status 2.
    """


class NonFiniteError(LossAtlasError):
    """The loss or one of its derivatives is NaN or infinite at a point."""
