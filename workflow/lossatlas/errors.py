"""The one error that users are meant to read."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of an ``OSError`` by which a disk is full, a quota is used up, or a file may not grow."""


class LossAtlasError(Exception):
    """What went wrong, where, and what would be right, in one line.

    Scripts print the message without a traceback and exit with status 2.
    """


class NonFiniteError(LossAtlasError):
    """The loss or one of its derivatives is NaN or infinite at a point."""


@contextmanager
def room_for(file: Path, size: int | None = None) -> Iterator[None]:
    """Say in one line how much room a file needs that is written inside, where its disk has none.

    Args:
        size: the bytes of the file; None where they are not known before it is written.

    Raises:
        LossAtlasError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        needed = "" if size is None else f"{size / 1e6:.3f} MB are needed for it, "
        folder = next(folder for folder in file.absolute().parents if folder.exists())
        free = shutil.disk_usage(folder).free / 1e6
        raise LossAtlasError(
            f"{file}: no room on the disk ({error.strerror}): {needed}{free:.3f} MB are free; "
            "make room and run the same command again"
        ) from error
