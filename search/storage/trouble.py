"""What an error says of the places that a study needs, and what is to be mended while it waits."""

from __future__ import annotations

import errno

from search.storage.store import StorageError, UnfitNodeError

# In words that follow where the study lives.
IS_FULL = "is full"
SILENT = "does not answer"
UNFIT_NODE = "cannot be used on every node"
NO_ROOM_FOR_IMAGES = "finds no room for its images on a node"
ERRNOS = {
    IS_FULL: (errno.ENOSPC, errno.EDQUOT),
    "is read-only": (errno.EROFS,),
    "cannot be written to": (errno.EACCES, errno.EPERM),
    SILENT: (errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH),
}
REMEDIES = {
    IS_FULL: "Make room", SILENT: "Bring it back", UNFIT_NODE: "Mend that",
    NO_ROOM_FOR_IMAGES: "Make room there, or add --cache encoded or off",
}  # fmt: skip
ELSE = "Make it writable"


def storage_trouble(error: BaseException | None) -> str:
    """What an error says of the place where a study lives ("is full"), "" where it says something else."""
    from detector.data.dataset import NoRoomError  # brings numpy, which a command that only reads need not wait for

    if isinstance(error, NoRoomError):
        return NO_ROOM_FOR_IMAGES
    if isinstance(error, UnfitNodeError):
        return UNFIT_NODE
    if isinstance(error, StorageError):
        return SILENT
    number = error.errno if isinstance(error, OSError) else None
    return next((told for told, numbers in ERRNOS.items() if number in numbers), "")


def paused_line(place: str, trouble: str, resume: str) -> str:
    """Why a study is paused, and how it goes on."""
    where = f"the disk of {place}" if trouble == IS_FULL and "://" not in place else place
    return f"{where} {trouble}: the study is paused. {REMEDIES.get(trouble, ELSE)}, then: {resume}"
