"""Files that appear whole or not at all, and that one process has to itself."""
import errno
import json
import os
import secrets
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

# What helps where a file cannot be written
REMEDIES = {errno.ENOSPC: "make room on that disk", errno.EFBIG: "raise the limit of ulimit -f",
            getattr(errno, "EDQUOT", None): "your quota is used up, make room"}
REMEDIES |= dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM),
                          "choose a place that may be written to")
REMEDIES |= {errno.ENOENT: "make its folder, or name another place",
             errno.ENAMETOOLONG: "give a shorter name",
             errno.EISDIR: "move that folder away, or name another file"}
REMEDIES |= dict.fromkeys((errno.ENOTDIR, errno.EEXIST),
                          "a part of its path is a file; name another place")

# What opens the file at a place itself: no link is followed, and no pipe is waited for
PLAIN = os.O_CREAT | os.O_RDWR | os.O_APPEND | sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


@contextmanager
def explained(path):
    """An OSError of the block which says that `path` cannot be written becomes a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        raise type(error)(f"{path} cannot be written: {error.strerror}; "
                          f"{REMEDIES[error.errno]}.") from None


def atomic_write(path, chunks):
    """Write bytes to a neighbour of `path`, then rename: nobody ever sees half a file.

    The neighbour's name cannot be foreseen and it must be new, so no link planted there is followed
    ("wb" would overwrite what it points to). What a kill left behind is removed after an hour."""
    path = Path(path)
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for old in path.parent.glob(f"{escape(path.name)}.*.tmp"):
                if time.time() - old.lstat().st_mtime > 3600:
                    old.unlink(missing_ok=True)
            with open(part, "xb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):  # where its folder could not be made, say
            part.unlink(missing_ok=True)


def sync_folder(folder):
    """Wait until a folder's names are on the disk: a renamed file's content is, its name may not
    be yet. Windows opens no folders, and not every file system can do this."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_writable(folder, file_size=0, size=0):
    """Raise an OSError or ValueError that says why, if no file of file_size bytes can be written to
    `folder`, which need not exist yet, or if its disk has no room for `size` bytes."""
    folder = Path(folder)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{folder} cannot be made, {there} is no folder.")
    with explained(folder):
        with tempfile.TemporaryFile(dir=there) as file:
            file.truncate(file_size)  # takes no room, but meets the limits of a file's size
        if shutil.disk_usage(there).free < size:
            raise OSError(errno.ENOSPC, f"{size / 1e6:,.0f} MB are needed")


def read_metadata(path):
    """{key: text} that a safetensors file says of itself; `read_safetensors` has checked the file.
    Entries that are no texts are left out."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    metadata = header.get("__metadata__")
    found = metadata.items() if isinstance(metadata, dict) else ()
    return {key: text for key, text in found if isinstance(text, str)}


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


def open_plain(path, _):
    """For `open`: a file's descriptor. Raises OSError for links, folders, pipes and devices."""
    descriptor = os.open(path, PLAIN, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "It is a pipe or a device")
    return descriptor


def open_locked(path):
    """Open a file for appending, and for this process alone. Raises ValueError if another has it
    open in this way, or if something else than a file is there: what was planted as a link would
    have its target overwritten."""
    try:
        file = open(path, "a+b", opener=open_plain)
    except OSError as error:
        if error.errno in REMEDIES and error.errno != errno.EISDIR:
            with explained(path):
                raise
        raise ValueError(f"{path} cannot be opened as a plain file: {error.strerror}; move it "
                         "away.") from None
    try:
        lock(file)
    except (BlockingIOError, PermissionError):
        file.close()
        raise ValueError(f"{path} is being written by another process; wait for its end, or name "
                         "another place.") from None
    return file


def vanished(file):
    """Whether an open file no longer stands under its name: then its lock keeps nobody away."""
    try:
        return not os.path.samestat(os.stat(file.name), os.fstat(file.fileno()))
    except FileNotFoundError:
        return True


def check_outputs(flags, inputs=()):
    """Raise a ValueError that says why, if one of {flag: the file it names or None} could not be
    written in the end, or would overwrite another, or one of the inputs or a file in a folder of
    these."""
    taken = {Path(path).resolve() for path in inputs if path}
    for flag, path in flags.items():
        if not path:
            continue
        if os.path.exists(path) and not os.path.isfile(path):
            raise ValueError(f"{flag} {path} is no file but a folder or a device; name a file.")
        place, folder = Path(path).resolve(), Path(path).parent.resolve()
        if place in taken or (folder in taken and os.path.lexists(path)):
            raise ValueError(f"{flag} {path} would overwrite another file of this command; name "
                             "a new one.")
        try:
            check_writable(Path(path).parent)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ValueError(f"{flag} {path} cannot be written: {why}") from None
        taken.add(place)
