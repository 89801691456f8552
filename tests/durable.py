"""What of a folder is on disk: a shim that records every fsync, and gives back the folder as a power cut would leave it."""

import os
import pathlib
import stat


class Disk:
    """Records fsyncs of this process below `root`, between `with`.

    Writes and renames are taken from the folder itself, so that those of native code count, too; their fsyncs do not. The
    worst disk that POSIX allows: of a file only what it held at its last fsync is kept, and of a folder only the names it
    held at its last fsync. Deletions reach the disk at once.

    Attributes:
      events: ("fsync", path) and ("rename", path) in order, relative to `root`.
    """

    def __init__(self, root: pathlib.Path):
        self.root, self.events = root.resolve(), []
        self._content: dict[int, bytes] = {}  # of files by inode
        self._names: dict[int, dict[str, int]] = {}  # of folders by inode
        self._open: list[int] = []  # descriptors that keep the inodes from being used again
        self.on_event = lambda: None

    def __enter__(self) -> "Disk":
        self._fsync, self._replace, self._rename = os.fsync, os.replace, os.rename
        os.fsync, os.replace, os.rename = self.fsync, self.renamed(os.replace), self.renamed(os.rename)
        return self

    def __exit__(self, *_) -> None:
        os.fsync, os.replace, os.rename = self._fsync, self._replace, self._rename
        for descriptor in self._open:
            os.close(descriptor)

    def fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        path = pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not path.is_relative_to(self.root):
            return
        status = os.fstat(descriptor)
        self._open.append(os.dup(descriptor))
        if stat.S_ISDIR(status.st_mode):
            self._names[status.st_ino] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self._content[status.st_ino] = path.read_bytes()
        self._happened("fsync", path)

    def renamed(self, rename):
        def renamed(source, target, **options):
            rename(source, target, **options)
            self._happened("rename", pathlib.Path(target))

        return renamed

    def _happened(self, kind, path):
        if path.is_relative_to(self.root):
            self.events.append((kind, str(path.relative_to(self.root))))
            self.on_event()

    def after_power_cut(self, target: pathlib.Path) -> pathlib.Path:
        """Writes what is on disk now to a new folder, and returns it."""
        self._write(self.root.stat().st_ino, self._existing(self.root), target)
        return target

    def _existing(self, path):
        """Inodes that still have a name below `path`: others are deleted."""
        return {path.stat().st_ino} | {entry.stat().st_ino for entry in path.rglob("*")}

    def _write(self, inode, existing, target):
        target.mkdir()
        for name, child in self._names.get(inode, {}).items():
            if child not in existing:
                continue
            if child in self._content or (child not in self._names and not self._is_folder(child)):
                (target / name).write_bytes(self._content.get(child, b""))
            else:
                self._write(child, existing, target / name)

    def _is_folder(self, inode):
        return any(path.stat().st_ino == inode for path in self.root.rglob("*") if path.is_dir())
