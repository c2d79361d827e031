"""Put on PYTHONPATH: kills each store-making process once, after it finished its store and before it links it."""

import os
import signal

_symlink = os.symlink


def _symlink_or_die(target, link, *args, **kwargs):
    marks = os.environ.get("KILL_BEFORE_LINK_MARKS")
    if marks and ".stores" in str(target):
        mark = os.path.join(marks, str(target).replace("/", "_"))
        if not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
    return _symlink(target, link, *args, **kwargs)


os.symlink = _symlink_or_die
