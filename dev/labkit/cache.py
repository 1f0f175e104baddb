# SPDX-License-Identifier: Apache-2.0
"""Built things (guest images, an unpacked QEMU), kept outside the repository by a hash of their recipe."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import tempfile


def directory():
    """The cache folder: $DROVER_CACHE, else ~/.cache/drover."""
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "drover"
    path = pathlib.Path(os.environ.get("DROVER_CACHE") or default)
    path.mkdir(parents=True, exist_ok=True)
    return path


def recipe_hash(*parts):
    """A hash of everything that decides what is built: strings, and files by their content."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, pathlib.Path) else str(part).encode()
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _lock(path):
    with open(path, "w", encoding="ascii") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def get(name, recipe, build):
    """The folder NAME-RECIPE in the cache; build(folder) fills it the first time. Safe against a second
    process asking for the same at the same time, and against a build that dies halfway."""
    final = directory() / f"{name}-{recipe}"
    if final.is_dir():
        return final
    with _lock(directory() / f"{name}.lock"):
        if final.is_dir():
            return final
        work = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", suffix=".part", dir=directory()))
        try:
            build(work)
            work.chmod(0o755)
            work.rename(final)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    return final
