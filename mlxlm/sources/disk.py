"""What an operating system's error means to someone who wants a model on the disk."""

import errno

from ..errors import SourceError

_MEANINGS = {
    errno.ENOSPC: ("the disk is full", "Make room, or put the cache elsewhere"),
    errno.EDQUOT: ("the disk quota is used up", "Make room, or put the cache elsewhere"),
    errno.EACCES: ("there is no permission to write the cache", "Change its permissions, or put the cache elsewhere"),
    errno.EPERM: ("there is no permission to write the cache", "Change its permissions, or put the cache elsewhere"),
    errno.EROFS: ("the disk is read-only", "Put the cache elsewhere"),
    errno.ENOTDIR: ("the cache's path leads through a file", "Put the cache elsewhere"),
    errno.EEXIST: ("the cache's path leads through a file", "Put the cache elsewhere"),
}


def explain(error: OSError, where: object, variable: str = "HF_HOME") -> SourceError | None:
    """A SourceError for a disk that is full or can't be written; None for any other error."""
    meaning = _MEANINGS.get(error.errno or 0)
    if meaning is None:
        return None
    problem, hint = meaning
    place = f"{problem} ({error.filename})" if error.filename else problem
    return SourceError(place, where=where, hint=f"{hint}: set {variable}.")
