"""Files that appear whole or not at all, and that one process has to itself."""
import os
import secrets
import time
from glob import escape
from pathlib import Path


def atomic_write(path, chunks):
    """Write bytes to a neighbour of `path`, then rename: nobody ever sees half a file.

    The neighbour's name cannot be foreseen and it must be new, so no link planted there is followed
    ("wb" would overwrite what it points to). What a kill left behind is removed after an hour."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f"{escape(path.name)}.*.tmp"):
        if time.time() - old.lstat().st_mtime > 3600:
            old.unlink(missing_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(part, "xb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def lock(file):
    """Take an open file for this process alone; the system lets go when the process ends, however
    it ends. Raises BlockingIOError or PermissionError if another has it."""
    try:
        import fcntl
    except ImportError:  # on Windows
        import msvcrt
        file.seek(1 << 30)  # far behind the end: bytes that are locked there cannot be read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
