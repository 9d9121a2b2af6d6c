# SPDX-License-Identifier: BSD-3-Clause
"""Builds a guest's initramfs: a base that depends on the kernel and on the
host's tools, cached in the lab, and a small part of each run's own. The kernel
unpacks concatenated archives one after the other."""

import functools
import hashlib
import lzma
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile

from cpio import Archive

HERE = os.path.dirname(os.path.abspath(__file__))
LIBDIR = "/usr/lib/x86_64-linux-gnu"

# Programs of the host that every guest has, beside busybox. modprobe and its
# like are links to kmod.
TOOLS = ("kmod", "lspci", "setpci")
KMOD_LINKS = ("modprobe", "insmod", "rmmod", "lsmod", "modinfo", "depmod")
# Opened by glibc at run time (thread cancellation), so no ldd shows it.
DLOPENED = ("libgcc_s.so.1",)

PASSWD = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
GROUP = "root:x:0:\nuser:x:1000:\n"


class LabError(Exception):
    """Something the user can put right; the text says how."""


def which(name):
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin")
    if not path:
        raise LabError(f"{name} is not installed; run: "
                       "apt-get install $(config/lab.sh packages)")
    return os.path.realpath(path) if name != "busybox" else path


def read(path):
    with open(path, "rb") as f:
        return f.read()


def is_elf(path):
    with open(path, "rb") as f:
        return f.read(4) == b"\x7fELF"


@functools.lru_cache(maxsize=None)
def libraries(path):
    """[(name, host path)] of the shared libraries that an ELF file loads,
    the interpreter among them; empty for a static one."""
    run = subprocess.run(["ldd", path], capture_output=True, text=True, check=False,
                         env={**os.environ, "LC_ALL": "C"})
    if run.returncode:
        if "not a dynamic executable" in run.stderr or "statically linked" in run.stdout:
            return ()
        raise LabError(f"ldd {path}: {run.stderr.strip() or run.stdout.strip()}")
    found = []
    for line in run.stdout.splitlines():
        line = line.strip()
        if line.endswith("=> not found"):
            raise LabError(f"{path}: its library {line.split()[0]} is not found on the host; "
                           "build or install it, or set LD_LIBRARY_PATH")
        m = re.match(r"(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)$", line)
        if m:
            name, host = m.groups()
            found.append((name or host, host))
    return tuple(found)


def add_libraries(archive, path, skip=frozenset()):
    """Libraries go flat into the directory that the loader searches by default,
    wherever the host has them; the interpreter keeps its path."""
    for name, host in libraries(path):
        guest = name if name.startswith("/") else f"{LIBDIR}/{name}"
        if (guest, host) not in skip:
            archive.file(guest, read(host), 0o755)


def add_program(archive, host, guest, skip=frozenset()):
    archive.file(guest, read(host), stat.S_IMODE(os.stat(host).st_mode))
    if is_elf(host):
        add_libraries(archive, host, skip)


def add_path(archive, host, guest, skip=frozenset()):
    """Adds a file, or a directory with all below it."""
    if not os.path.exists(host):
        raise LabError(f"--add {host}: no such file or directory")
    if not os.path.isdir(host):
        add_program(archive, host, guest, skip)
        return
    archive.directory(guest)
    for root, dirs, files in os.walk(host):
        at = os.path.normpath(os.path.join(guest, os.path.relpath(root, host)))
        for name in sorted(dirs + files):
            path = os.path.join(root, name)
            if os.path.islink(path):
                archive.symlink(os.path.join(at, name), os.readlink(path))
            elif os.path.isdir(path):
                archive.directory(os.path.join(at, name))
            elif os.path.isfile(path):
                add_program(archive, path, os.path.join(at, name), skip)


# --- the base ----------------------------------------------------------------

def wanted_modules(extra):
    names = []
    for line in read(os.path.join(HERE, "modules")).decode().splitlines():
        line = line.partition("#")[0].strip()
        if line:
            names.append(line)
    return names + list(extra)


def module_files(kernel, release, names):
    """Paths below lib/modules/RELEASE of the modules and all they depend on."""
    top = os.path.join(kernel, "lib/modules", release)
    files = []
    for name in names:
        # kmod acts as the program it is called.
        run = subprocess.run(["modprobe", "-C", "/dev/null", "-d", kernel, "-S", release,
                              "--show-depends", name.rstrip("?")],
                             executable=which("kmod"), capture_output=True, text=True,
                             check=False)
        if run.returncode and not name.endswith("?"):
            raise LabError(f"kernel {release} has no module {name}: {run.stderr.strip()}")
        for line in run.stdout.splitlines():
            if line.startswith("insmod "):
                path = os.path.relpath(line.split()[1], top)
                if path not in files:
                    files.append(path)
    return files


def add_modules(archive, kernel, release, names):
    """The modules are carried unpacked: the emulated processor is slow at xz."""
    top = os.path.join(kernel, "lib/modules", release)
    with tempfile.TemporaryDirectory(prefix="svio-modules-") as scratch:
        tree = os.path.join(scratch, "lib/modules", release)
        os.makedirs(tree)
        for path in module_files(kernel, release, names):
            data = read(os.path.join(top, path))
            if path.endswith(".xz"):
                path, data = path[:-3], lzma.decompress(data)
            elif not path.endswith(".ko"):
                raise LabError(f"{path}: modules compressed like this are not supported")
            os.makedirs(os.path.dirname(os.path.join(tree, path)), exist_ok=True)
            with open(os.path.join(tree, path), "wb") as f:
                f.write(data)
        for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
            if os.path.exists(os.path.join(top, name)):
                shutil.copy(os.path.join(top, name), tree)
        subprocess.run(["depmod", "-b", scratch, release], executable=which("kmod"), check=True)
        for root, _, files in os.walk(tree):
            for name in sorted(files):
                path = os.path.join(root, name)
                archive.file("/lib/modules/" + release + path[len(tree):], read(path))


def base_tools():
    return {name: which(name) for name in ("busybox",) + TOOLS}


def base_libraries():
    """What the base holds already, so that a run's part need not."""
    held = set()
    for path in list(base_tools().values()) + [dlopened(name) for name in DLOPENED]:
        for name, host in libraries(path):
            held.add((name if name.startswith("/") else f"{LIBDIR}/{name}", host))
    return frozenset(held)


def dlopened(name):
    path = os.path.join(LIBDIR, name)
    if not os.path.exists(path):
        raise LabError(f"{path} is missing on the host")
    return path


def base_key(kernel, modules):
    """A digest of everything the base is made from."""
    h = hashlib.sha256()
    for name in sorted(os.listdir(HERE)):
        if os.path.isfile(os.path.join(HERE, name)):
            h.update(name.encode() + read(os.path.join(HERE, name)))
    inputs = sorted(set(base_tools().values()) | {host for _, host in base_libraries()})
    for path in inputs:
        st = os.stat(path)
        h.update(f"{path} {st.st_size} {st.st_mtime_ns}".encode())
    h.update(repr((os.path.realpath(kernel), sorted(modules))).encode())
    return h.hexdigest()[:16]


def write_base(out, kernel, release, modules):
    archive = Archive(out)
    archive.merged_usr()
    for path, mode in (("/dev", 0o755), ("/proc", 0o555), ("/sys", 0o555), ("/run", 0o755),
                       ("/tmp", 0o1777), ("/mnt", 0o755), ("/root", 0o700), ("/etc", 0o755),
                       ("/lab", 0o755), ("/home/user", 0o755), ("/var/tmp", 0o1777)):
        archive.directory(path, mode)
    archive.symlink("/var/run", "/run")
    archive.node("/dev/console", "c", 5, 1, 0o600)
    archive.node("/dev/null", "c", 1, 3, 0o666)
    archive.file("/etc/passwd", PASSWD)
    archive.file("/etc/group", GROUP)
    archive.file("/etc/hostname", "lab\n")
    archive.symlink("/etc/mtab", "/proc/mounts")

    tools = base_tools()
    add_program(archive, tools["busybox"], "/usr/bin/busybox")
    taken = set(TOOLS) | set(KMOD_LINKS) | {"busybox"}
    applets = subprocess.run([tools["busybox"], "--list"], capture_output=True, text=True,
                             check=True).stdout.split()
    for applet in applets:
        if applet not in taken:
            archive.symlink("/usr/bin/" + applet, "busybox")
    for name in TOOLS:
        add_program(archive, tools[name], "/usr/bin/" + name)
    for name in KMOD_LINKS:
        # The kernel itself calls /sbin/modprobe.
        archive.symlink("/usr/sbin/" + name, "../bin/kmod")
    for name in DLOPENED:
        archive.file(os.path.join(LIBDIR, name), read(dlopened(name)), 0o755)
    add_modules(archive, kernel, release, modules)
    archive.file("/init", read(os.path.join(HERE, "init")), 0o755)
    archive.close()


def base(lab, kernel, release, extra_modules):
    """The path of the base archive, made if it is not in the cache."""
    modules = wanted_modules(extra_modules)
    cache = os.path.join(lab, "initrd")
    path = os.path.join(cache, base_key(kernel, modules) + ".cpio")
    if os.path.exists(path):
        return path
    os.makedirs(cache, exist_ok=True)
    fd, new = tempfile.mkstemp(prefix=".new.", dir=cache)
    try:
        with os.fdopen(fd, "wb") as out:
            write_base(out, kernel, release, modules)
        os.rename(new, path)
    except BaseException:
        os.unlink(new)
        raise
    return path


# --- a run's own part ----------------------------------------------------------

def mounts_script(shares):
    lines = ["set -e"]
    for tag, guest in shares:
        where = shlex.quote(guest)
        lines += [f"mkdir -p {where}",
                  f"mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 {tag} {where}"]
    return "\n".join((["modprobe -a 9p 9pnet_virtio"] if shares else []) + lines) + "\n"


def files_script(outs):
    lines = []
    for index, (guest, _) in enumerate(outs):
        f = shlex.quote(guest)
        lines.append(f"if [ -e {f} ]; then echo file {index} $(stat -L -c %s {f}); cat {f}; fi")
    return "\n".join(lines) + "\n"


def build(path, lab, kernel, release, run):
    """Writes a run's initramfs. run has: modules (loaded at boot), extra_modules,
    adds [(host, guest)], command (argv), hugepages, shares [(tag, guest dir)],
    outs [(guest, host)], slow (the factor of SVIO_LAB_SLOW)."""
    held = base_libraries()
    with open(path, "wb") as out:
        with open(base(lab, kernel, release, run.extra_modules), "rb") as f:
            shutil.copyfileobj(f, out, 1 << 20)
        archive = Archive(out)
        for host, guest in run.adds:
            add_path(archive, host, guest, held)
        archive.file("/lab/config", f"HUGEPAGES={run.hugepages}\nexport SVIO_LAB_SLOW={run.slow}\n"
                     f"MODULES={shlex.quote(' '.join(run.modules))}\n")
        archive.file("/lab/command", "exec " + shlex.join(run.command) + "\n")
        archive.file("/lab/mounts", mounts_script(run.shares))
        archive.file("/lab/files", files_script(run.outs))
        archive.close()
