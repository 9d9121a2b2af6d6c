# SPDX-License-Identifier: BSD-3-Clause
"""Runs QEMU with one guest: carries its output through, answers markers with QMP
commands, takes files and the exit status, and tells a broken guest from a failed
command."""

import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time

# Kernel messages after which the guest's result means nothing. "BUG:" begins KASAN's
# reports, those of sleeping and of processor numbers in the wrong place, and some of
# lockdep's; its others are warnings that it words itself.
BROKEN = re.compile(
    rb"Kernel panic|\bBUG: |\bOops: |general protection fault|unable to handle|"
    rb"WARNING: (?:CPU: )?\d|WARNING: \S+ at |"
    rb"WARNING: (?:possible|bad |inconsistent|suspicious|lock held|held lock|Nested lock|chain_key)|"
    rb"WARNING: \S+ (?:-> |still has locks)|"
    rb"INFO: possible|INFO: task .* blocked for more than|INFO: lockdep|INFO: trying to register|"
    rb"DEBUG_LOCKS_WARN_ON|KASAN: |KCSAN: |UBSAN: |refcount_t: |"
    rb"list_(?:add|del) corruption|svio-lab: init: ")

# Seconds a boot may take; on a busy machine it takes many times the usual 5.
BOOT_TIMEOUT = 300

TAIL = 60


class GuestFailure(Exception):
    """The guest, not the command, failed. code is what the runner exits with."""

    def __init__(self, text, code=125):
        super().__init__(text)
        self.code = code


class Marker:
    """What is sent when a text appears in the output: one list of QMP commands
    for each occurrence, in order."""

    def __init__(self, text):
        self.text = text.encode()
        self.pending = []
        self.fired = 0


class Scanner:
    """Finds markers in one stream, across the boundaries of reads."""

    def __init__(self, markers):
        self.markers = markers
        self.keep = max((len(m.text) for m in markers), default=1) - 1
        self.seen = b""
        self.offset = 0
        self.next = {m: 0 for m in markers}

    def feed(self, data):
        if not self.markers:
            return []
        self.seen += data
        hits = []
        for m in self.markers:
            while True:
                at = self.seen.find(m.text, max(0, self.next[m] - self.offset))
                if at < 0:
                    break
                self.next[m] = self.offset + at + len(m.text)
                hits.append((self.next[m], m))
        cut = max(0, len(self.seen) - self.keep)
        self.seen = self.seen[cut:]
        self.offset += cut
        return [m for _, m in sorted(hits, key=lambda hit: hit[0])]


class Machine:
    """One QEMU process. argv is the emulator and its arguments up to what is
    added here: the QMP monitor, the console and the virtio-serial ports."""

    PORTS = ("out", "err", "ctl")

    def __init__(self, argv, markers, outs, timeout, verbose, slow=1):
        self.argv = argv
        self.slow = slow
        self.markers = markers
        self.outs = outs
        self.timeout = timeout
        self.verbose = verbose
        self.console = b""
        self.log = b""
        self.qemu_output = b""
        self.status = None
        self.files = {}
        self.times = {}
        self.qmp_queue = []
        self.qmp_busy = None
        self.qmp_ready = False
        self.qmp_events = []
        self.qmp_wait = None
        self._ctl = b""
        self._ctl_need = None
        self._qmp = b""
        self._scanners = {"out": Scanner(markers), "err": Scanner(markers)}
        self._sel = selectors.DefaultSelector()
        self._socks = {}

    # -- process

    def start(self):
        args, theirs = [], []
        for name in ("qmp", "console") + self.PORTS:
            ours, other = socket.socketpair()
            ours.setblocking(False)
            theirs.append(other)
            self._socks[name] = ours
            self._sel.register(ours, selectors.EVENT_READ, name)
            args += ["-chardev", f"socket,id=lab-{name},fd={other.fileno()}"]
        args += ["-qmp", "chardev:lab-qmp", "-serial", "chardev:lab-console"]
        for nr, name in enumerate(self.PORTS, 1):
            args += ["-device", f"virtserialport,bus=lab-serial.0,nr={nr},"
                     f"chardev=lab-{name},name=svio.{name}"]
        # The emulator must not outlive the runner, however that ends.
        argv = ["setpriv", "--pdeathsig", "KILL"] + self.argv + args
        if self.verbose:
            print("vm:", " ".join(argv), file=sys.stderr, flush=True)
        self.times["start"] = time.monotonic()
        self.proc = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            pass_fds=[s.fileno() for s in theirs], start_new_session=True)
        for s in theirs:
            s.close()
        os.set_blocking(self.proc.stdout.fileno(), False)
        self._sel.register(self.proc.stdout, selectors.EVENT_READ, "qemu")

    def stop(self):
        if getattr(self, "proc", None) and self.proc.poll() is None:
            self.proc.send_signal(signal.SIGKILL)
            self.proc.wait()
        self._sel.close()
        for s in self._socks.values():
            s.close()

    def run(self):
        """Returns the command's exit status, or raises GuestFailure."""
        while self._sel.get_map():
            if "command" in self.times:
                began, limit, what = self.times["command"], self.timeout * self.slow, "the command did not end"
            else:
                began, limit, what = self.times["start"], BOOT_TIMEOUT * self.slow, "the guest did not boot"
            left = began + limit - time.monotonic()
            if left <= 0:
                raise GuestFailure(f"timeout: {what} within {limit:g} s", 124)
            for key, _ in self._sel.select(left):
                self._readable(key)
            if self.status is not None and self.proc.poll() is None and not self.qmp_busy \
               and "quit" not in self.times and self.qmp_ready:
                self.times["quit"] = time.monotonic()
                self._send({"execute": "quit"})
        self.proc.wait()
        self.times["end"] = time.monotonic()
        self._judge()
        return self.status

    def _judge(self):
        for text, name in ((self.log, "kernel log"), (self.console, "console")):
            m = BROKEN.search(text)
            if m:
                line = text[text.rfind(b"\n", 0, m.start()) + 1:].split(b"\n", 1)[0]
                raise GuestFailure(f"the guest's kernel failed ({name}): "
                                   + line.decode(errors="replace").strip())
        if self.status is None:
            how = f"with status {self.proc.returncode}" if self.proc.returncode >= 0 else \
                f"killed by signal {-self.proc.returncode}"
            raise GuestFailure(f"QEMU ended ({how}) before the command did")
        if self.proc.returncode != 0:
            raise GuestFailure(f"QEMU failed after the command: status {self.proc.returncode}")

    # -- streams

    def _readable(self, key):
        try:
            data = os.read(key.fd, 1 << 16)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._sel.unregister(key.fileobj)
            return
        getattr(self, "_on_" + key.data)(data)

    def _on_qemu(self, data):
        self.qemu_output += data
        if self.verbose:
            sys.stderr.buffer.write(data)
            sys.stderr.flush()

    def _on_console(self, data):
        self.console += data
        if self.verbose:
            sys.stderr.buffer.write(data)
            sys.stderr.flush()

    def _on_out(self, data):
        self._output("out", sys.stdout.buffer, data)

    def _on_err(self, data):
        self._output("err", sys.stderr.buffer, data)

    def _output(self, name, stream, data):
        stream.write(data)
        stream.flush()
        for m in self._scanners[name].feed(data):
            if m.fired < len(m.pending):
                self.qmp_queue += m.pending[m.fired]
                m.fired += 1
                self._qmp_next()

    def _on_ctl(self, data):
        self._ctl += data
        while True:
            if self._ctl_need:
                kind, index, size = self._ctl_need
                if len(self._ctl) < size:
                    return
                body, self._ctl = self._ctl[:size], self._ctl[size:]
                self._ctl_need = None
                if kind == "log":
                    self.log = body
                else:
                    self.files[index] = body
                continue
            line, newline, rest = self._ctl.partition(b"\n")
            if not newline:
                return
            self._ctl = rest
            word = line.decode(errors="replace").split()
            if word[:1] == ["start"]:
                self.times["command"] = time.monotonic()
            elif word[:1] == ["log"]:
                self._ctl_need = ("log", None, int(word[1]))
            elif word[:1] == ["file"]:
                self._ctl_need = ("file", int(word[1]), int(word[2]))
            elif word[:1] == ["exit"]:
                self.status = int(word[1])
                self.times["exit"] = time.monotonic()
            else:
                raise GuestFailure(f"unexpected report from the guest: {line!r}")

    # -- QMP: one command at a time, in order

    def _send(self, message):
        self._socks["qmp"].sendall(json.dumps(message).encode() + b"\n")

    def _qmp_next(self):
        while self.qmp_ready and not self.qmp_busy and not self.qmp_wait and self.qmp_queue:
            command = self.qmp_queue.pop(0)
            if "wait" in command:
                self.qmp_wait = command
                self._qmp_check_wait()
            else:
                if self.verbose:
                    print("vm: qmp:", json.dumps(command), file=sys.stderr, flush=True)
                self.qmp_busy = command
                self.qmp_events.clear()
                self._send(command)

    def _qmp_check_wait(self):
        """{"wait": EVENT, "data": {...}} holds back what follows it until the event
        has come, counted from the command before it."""
        want = self.qmp_wait
        for event in self.qmp_events:
            if event["event"] == want["wait"] and \
               want.get("data", {}).items() <= event.get("data", {}).items():
                self.qmp_wait = None
                return True
        return False

    def _on_qmp(self, data):
        self._qmp += data
        while b"\n" in self._qmp:
            line, _, self._qmp = self._qmp.partition(b"\n")
            message = json.loads(line)
            if "QMP" in message:
                self._send({"execute": "qmp_capabilities"})
            elif "event" in message:
                if self.verbose:
                    print("vm: qmp:", line.decode(), file=sys.stderr, flush=True)
                self.qmp_events.append(message)
                if self.qmp_wait and self._qmp_check_wait():
                    self._qmp_next()
            elif "error" in message:
                raise GuestFailure(f"QMP command {json.dumps(self.qmp_busy)} failed: "
                                   f"{message['error'].get('desc')}")
            elif "return" in message:
                self.qmp_ready = True
                self.qmp_busy = None
                self._qmp_next()

    # -- for the failure report

    def tail(self):
        """The end of what the kernel said."""
        parts = []
        for name, text in (("QEMU", self.qemu_output), ("kernel log", self.log),
                           ("console", self.console)):
            if name == "console" and self.log and not BROKEN.search(text):
                continue
            lines = text.decode(errors="replace").replace("\r", "").splitlines()
            if not lines:
                continue
            first = max(0, len(lines) - TAIL)
            for i, text_line in enumerate(lines):
                if BROKEN.search(text_line.encode()):
                    first = min(first, max(0, i - 5))
                    lines = lines[:i + 2 * TAIL]
                    break
            parts += [f"--- {name}:"] + lines[first:]
        return "\n".join(parts)
