# SPDX-License-Identifier: BSD-3-Clause
"""Writes initramfs archives: cpio "newc", as the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst lays it out.

Written here rather than by cpio(1) so that everything belongs to root, device
nodes need no privilege, and the same content always gives the same bytes.
"""

import os
import stat

NODE_TYPES = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}


class Archive:
    """One archive. Paths are absolute guest paths; parents are made as needed,
    and the links of a merged /usr are followed, as the kernel would."""

    MERGED = ("bin", "sbin", "lib", "lib64")

    def __init__(self, out):
        self.out = out
        self.ino = 0
        self.dirs = {"/"}
        self.entries = {}

    @classmethod
    def resolve(cls, path):
        path = os.path.normpath("/" + path.lstrip("/"))
        first = path.split("/")[1]
        return "/usr" + path if first in cls.MERGED else path

    def merged_usr(self):
        for name in self.MERGED:
            self.directory("/usr/" + name)
            self._entry("/" + name, stat.S_IFLNK | 0o777, ("usr/" + name).encode())

    def directory(self, path, mode=0o755):
        path = self.resolve(path)
        if path in self.dirs:
            return
        self.directory(os.path.dirname(path))
        self.dirs.add(path)
        self._entry(path, stat.S_IFDIR | mode, b"")

    def file(self, path, data, mode=0o644):
        if isinstance(data, str):
            data = data.encode()
        self._add(path, stat.S_IFREG | mode, data)

    def symlink(self, path, target):
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def node(self, path, kind, major, minor, mode):
        self._add(path, NODE_TYPES[kind] | mode, b"", (major, minor))

    def close(self):
        self._entry("/TRAILER!!!", 0, b"")

    def _add(self, path, mode, data, rdev=(0, 0)):
        path = self.resolve(path)
        self.directory(os.path.dirname(path))
        if self.entries.get(path) == (mode, data):
            return
        self.entries[path] = (mode, data)
        self._entry(path, mode, data, rdev)

    def _entry(self, path, mode, data, rdev=(0, 0)):
        name = path.lstrip("/").encode() + b"\0"
        # The kernel joins entries of equal inode number and nlink > 1 only.
        self.ino += 1
        fields = (self.ino, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + name
        self.out.write(head + bytes(-len(head) % 4))
        self.out.write(data)
        self.out.write(bytes(-len(data) % 4))
