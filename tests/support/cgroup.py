"""A real control group for a test, where the machine lets one be made."""

import contextlib
import ctypes
import os
import secrets
import tempfile

from cluster import wait_for

MNT_DETACH = 2
LIBC = ctypes.CDLL(None, use_errno=True)


class OwnCgroup:
    """One of version 1, at the top of the hierarchies of `cpu` and `memory`. They are mounted for a moment and then
    reached through a descriptor only, so that no mount stays whatever becomes of the test."""

    def __init__(self):
        self.name = f"slipway-test-{secrets.token_hex(8)}"
        self.tops = {}
        self.missing = ""  # why there is none
        for controller in ("cpu", "memory"):
            with tempfile.TemporaryDirectory(prefix="slipway-cgroup-") as point:
                if LIBC.mount(b"none", point.encode(), b"cgroup", 0, controller.encode()) != 0:
                    self.missing = (f"mounting the cgroup hierarchy of {controller} (version 1): "
                                    f"{os.strerror(ctypes.get_errno())}")
                    return
                top = self.tops[controller] = os.open(point, os.O_RDONLY | os.O_DIRECTORY)
                LIBC.umount2(point.encode(), MNT_DETACH)
            try:
                os.mkdir(self.name, dir_fd=top)
            except OSError as error:
                self.missing = f"making a group of {controller}: {error}"
                return

    def close(self):
        for controller, top in self.tops.items():
            with contextlib.suppress(FileNotFoundError):
                with open(os.open(f"{self.name}/cgroup.procs", os.O_RDONLY, dir_fd=top)) as procs:
                    left = procs.read().split()
                for pid in left:  # back to the top: a group with processes cannot be removed
                    with contextlib.suppress(OSError):
                        self._write(controller, "../cgroup.procs", pid)
                wait_for(lambda top=top: self._remove(top), 10, f"the group {self.name} going")
            os.close(top)

    def _remove(self, top):
        with contextlib.suppress(OSError):  # a process that has just ended is there for a moment more
            os.rmdir(self.name, dir_fd=top)
            return True

    def _write(self, controller, file, text):
        where = os.open(f"{self.name}/{file}", os.O_WRONLY, dir_fd=self.tops[controller])
        try:
            os.write(where, str(text).encode())
        finally:
            os.close(where)

    def set(self, cores=None, memory_bytes=None):
        if cores is not None:
            self._write("cpu", "cpu.cfs_period_us", 100_000)
            self._write("cpu", "cpu.cfs_quota_us", int(cores * 100_000))
        if memory_bytes is not None:
            self._write("memory", "memory.limit_in_bytes", memory_bytes)

    def take(self, pid=0):
        """Moves a process, or the caller, into the group."""
        for controller in self.tops:
            self._write(controller, "cgroup.procs", pid)
