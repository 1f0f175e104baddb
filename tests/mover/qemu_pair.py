#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Migrates a real QEMU guest to another real QEMU on this machine with nothing but two drover-mover processes
and QMP: the data path alone, without agents. Plays both agents' part (docs/internals/mover-control.md), then
compares the two guests' memory byte for byte while both stand still.

    tests/mover/qemu_pair.py --mover build/src/mover/drover-mover [--kernel BZIMAGE --initrd FILE] [--runs N]
"""

import argparse
import array
import json
import mmap
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
import uuid

CONTROL_FD = 3


class Qmp:
    def __init__(self, path, deadline_s=20):
        end = time.monotonic() + deadline_s
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(path)
                break
            except OSError:
                self.sock.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        self.buffer = b""
        self.events = []
        self.read()
        self.command("qmp_capabilities")

    def read(self, timeout=60):
        while b"\n" not in self.buffer:
            self.sock.settimeout(timeout)
            data = self.sock.recv(65536)
            if not data:
                raise EOFError("QEMU closed its QMP socket")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def command(self, name, fds=(), **arguments):
        request = json.dumps({"execute": name, "arguments": arguments}).encode()
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([request], ancillary)
        while True:
            reply = self.read()
            if "event" in reply:
                self.events.append(reply)
            elif "error" in reply:
                raise RuntimeError("%s: %s" % (name, reply["error"]["desc"]))
            else:
                return reply["return"]

    def poll_events(self):
        while True:
            if b"\n" not in self.buffer and not select.select([self.sock], [], [], 0)[0]:
                return
            self.events.append(self.read())

    def event_time(self, name):
        for event in reversed(self.events):
            if event["event"] == name:
                return event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6
        return None


class Guest:
    """A QEMU whose RAM is a memfd of ours."""

    def __init__(self, args, folder, name, incoming):
        self.ram_bytes = args.ram_kib * 1024
        self.ram_fd = os.memfd_create("ram-" + name)
        os.ftruncate(self.ram_fd, self.ram_bytes)
        qmp = os.path.join(folder, name + ".qmp")
        command = [
            args.qemu, "-nodefaults", "-display", "none", "-accel", "tcg", "-cpu", "qemu64", "-smp", "1",
            "-machine", args.machine + ",memory-backend=pc.ram", "-m", "%dK" % args.ram_kib,
            "-object", "memory-backend-file,id=pc.ram,mem-path=/proc/self/fd/%d,share=on,size=%dK"
            % (self.ram_fd, args.ram_kib),
            "-vga", "std", "-qmp", "unix:%s,server=on,wait=off" % qmp,
            "-serial", "file:" + os.path.join(folder, name + ".serial"),
        ]
        if args.kernel:
            command += ["-kernel", args.kernel, "-initrd", args.initrd, "-append", args.append]
        if incoming:
            command += ["-S", "-incoming", "defer"]
        self.process = subprocess.Popen(command, pass_fds=[self.ram_fd])
        args.processes.append(self.process)
        self.qmp = Qmp(qmp)

    def map(self):
        return mmap.mmap(self.ram_fd, self.ram_bytes, mmap.MAP_SHARED)

    def kill(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ram_fd)


class Mover:
    def __init__(self, program, role, processes):
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.role = role

        def place():
            os.dup2(theirs.fileno(), CONTROL_FD)

        self.process = subprocess.Popen([program, role], preexec_fn=place, close_fds=False)
        processes.append(self.process)
        theirs.close()
        self.stats = {}
        self.peak_anon_kib = 0

    def send(self, message, fds=()):
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([json.dumps(message).encode()], ancillary)

    def receive(self, timeout=60):
        self.sock.settimeout(timeout)
        packet = self.sock.recv(65536)
        if not packet:
            raise EOFError("the %s mover is gone (exit code %s)" % (self.role, self.process.wait()))
        message = json.loads(packet)
        if message["event"] == "stats":
            self.stats = message
            self.measure_memory()
        if message["event"] == "failed":
            raise RuntimeError("%s mover: %s" % (self.role, message))
        return message

    def wait_for(self, event, timeout=60):
        while True:
            message = self.receive(timeout)
            if message["event"] == event:
                return message

    def measure_memory(self):
        with open("/proc/%d/status" % self.process.pid) as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    self.peak_anon_kib = max(self.peak_anon_kib, int(line.split()[1]))


def make_identity(folder, name):
    key, cert = (os.path.join(folder, name + suffix) for suffix in (".key", ".crt"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
         "-out", cert, "-subj", "/CN=" + name, "-days", "1"], check=True, capture_output=True)
    text = subprocess.run(["openssl", "x509", "-in", cert, "-noout", "-fingerprint", "-sha256"], check=True,
                          capture_output=True, text=True).stdout
    return {"cert": open(cert).read(), "key": open(key).read(),
            "fingerprint": text.split("=")[1].strip().replace(":", "").lower()}


def connect_movers(args, folder, source_guest, destination_guest):
    identities = [make_identity(folder, name) for name in ("source", "sink")]
    ids = {"migration": str(uuid.uuid4()), "vm": str(uuid.uuid4()), "block": "pc.ram",
           "ram_bytes": source_guest.ram_bytes, "timeout_ms": 10000, "op": "start"}

    sink = Mover(args.mover, "sink", args.processes)
    theirs, ours = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    sink.send({**ids, "cert_pem": identities[1]["cert"], "key_pem": identities[1]["key"],
               "peer_fingerprint": identities[0]["fingerprint"]},
              [ours.fileno(), destination_guest.ram_fd, listener.fileno()])
    ours.close()
    destination_guest.qmp.command("getfd", [theirs.fileno()], fdname="stream")
    destination_guest.qmp.command("migrate-incoming", uri="fd:stream")
    theirs.close()
    sink.wait_for("ready")

    source = Mover(args.mover, "source", args.processes)
    theirs, ours = socket.socketpair()
    channels = [socket.create_connection(listener.getsockname()) for _ in range(args.channels)]
    source.send({**ids, "cert_pem": identities[0]["cert"], "key_pem": identities[0]["key"],
                 "peer_fingerprint": identities[1]["fingerprint"], "max_pause_ms": args.max_pause_ms,
                 "verify": args.verify, "codec": args.codec, "rate_limit_bps": args.rate_limit, "tunnel": args.tunnel},
                [ours.fileno(), source_guest.ram_fd] + [c.fileno() for c in channels])
    for fd in [ours, listener] + channels:
        fd.close()
    source_guest.qmp.command("getfd", [theirs.fileno()], fdname="stream")
    theirs.close()
    print("source ready:", source.wait_for("ready"), file=sys.stderr)
    return source, sink


def prepare(guest, source):
    names = {c["capability"] for c in guest.qmp.command("query-migrate-capabilities")}
    wanted = {"events": True, "return-path": True, "auto-converge": True}
    if not source:
        wanted = {"events": True}
    if "late-block-activate" in names:
        wanted["late-block-activate"] = True
    guest.qmp.command("migrate-set-capabilities",
                      capabilities=[{"capability": n, "state": s} for n, s in wanted.items()])
    guest.qmp.command("migrate-set-parameters", **{"max-bandwidth": 0, "downtime-limit": 1, "throttle-trigger-threshold": 100})


def drive(source_guest, source):
    """The source agent's loop until QEMU's stream has ended."""
    qmp, next_status, throttled = source_guest.qmp, 0, False
    stopped = False
    while True:
        qmp.poll_events()
        if not stopped and qmp.event_time("STOP"):
            stopped = True
            source.send({"op": "stopped"})
        if not stopped and time.monotonic() > next_status:
            info = qmp.command("query-migrate")
            next_status = time.monotonic() + 0.2
            if info["status"] in ("failed", "cancelled"):
                raise RuntimeError("QEMU: %s" % info)
            if info["status"] == "active":
                ram = info["ram"]
                source.send({"op": "qemu-status", "remaining_bytes": ram["remaining"],
                             "dirty_pages_per_s": ram["dirty-pages-rate"],
                             "dirty_sync_count": ram["dirty-sync-count"], "mbps": ram["mbps"]})
        if not select.select([source.sock], [], [], 0.02)[0]:
            continue
        message = source.receive()
        if message["event"] == "switchover" and not stopped:
            qmp.command("migrate-set-parameters", **{"downtime-limit": message["downtime_limit_ms"]})
        elif message["event"] == "device-state":
            source.send({"op": "handed-off"})
        elif message["event"] == "stream-end":
            return
        elif message["event"] == "stats" and not message["converging"] and not throttled and not stopped:
            print("not converging: cpu throttle", file=sys.stderr)
            qmp.command("migrate-set-parameters", **{
                "throttle-trigger-threshold": 1, "cpu-throttle-initial": 40, "cpu-throttle-increment": 20})
            throttled = True


def wait_status(guest, wanted, timeout=30):
    end = time.monotonic() + timeout
    while True:
        status = guest.qmp.command("query-migrate").get("status")
        if status == wanted:
            return
        if status == "failed" or time.monotonic() > end:
            raise RuntimeError("QEMU's migration is %s instead of %s" % (status, wanted))
        time.sleep(0.002)


def differences(a, b):
    first, second = a.map(), b.map()
    step = 4096
    return [i // step for i in range(0, a.ram_bytes, step) if first[i:i + step] != second[i:i + step]]


def migrate(args, folder, number, source_guest):
    destination_guest = Guest(args, folder, "guest%d" % number, True)
    prepare(source_guest, True)
    prepare(destination_guest, False)
    source, sink = connect_movers(args, folder, source_guest, destination_guest)
    started = time.monotonic()
    source_guest.qmp.command("migrate", uri="fd:stream")
    drive(source_guest, source)
    wait_status(source_guest, "completed")
    source.send({"op": "commit"})
    sink.wait_for("commit")
    wait_status(destination_guest, "completed")
    wrong = differences(source_guest, destination_guest) if args.compare else []
    resumed = time.time()
    destination_guest.qmp.command("cont")
    total = time.monotonic() - started
    sink.send({"op": "result", "outcome": "running", "resumed_realtime_ns": int(resumed * 1e9), "message": ""})
    result = source.wait_for("result")
    assert result["outcome"] == "running", result
    try:
        while True:
            sink.receive()
    except EOFError:
        pass
    codes = source.process.wait(), sink.process.wait()
    pause = (resumed - source_guest.qmp.event_time("STOP")) * 1000
    print(json.dumps({
        "run": number, "total_ms": round(total * 1000), "pause_ms": round(pause, 1), "wrong_pages": len(wrong),
        "exit_codes": codes, "anon_kib": [source.peak_anon_kib, sink.peak_anon_kib],
        "hash_equal": source.stats.get("ram_hash") == sink.stats.get("ram_hash"),
        "source": source.stats, "sink": sink.stats}))
    source_guest.kill()
    if wrong and args.verify or codes != (0, 0):
        raise RuntimeError("pages differ: %s, exit codes %s" % (wrong[:20], codes))
    return destination_guest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mover", required=True)
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--machine", default="pc-i440fx-7.2")
    parser.add_argument("--ram-kib", type=int, default=131080, help="no multiple of 256: see the QEMU bug in docs")
    parser.add_argument("--kernel")
    parser.add_argument("--initrd")
    parser.add_argument("--append", default="console=ttyS0 quiet")
    parser.add_argument("--boot-s", type=float, default=1.0, help="time for the guest before the first run")
    parser.add_argument("--fill-mib", type=int, default=0, help="fill this much guest memory from outside")
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--codec", default="auto")
    parser.add_argument("--rate-limit", type=int, default=0)
    parser.add_argument("--max-pause-ms", type=int, default=100)
    parser.add_argument("--no-verify", dest="verify", action="store_false")
    parser.add_argument("--no-compare", dest="compare", action="store_false")
    parser.add_argument("--tunnel", action="store_true")
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    args.processes = []
    with tempfile.TemporaryDirectory(prefix="qemu-pair-") as folder:
        guest = Guest(args, folder, "guest0", False)
        try:
            time.sleep(args.boot_s)
            if args.fill_mib:
                memory, text = guest.map(), open(sys.executable, "rb").read()
                base = args.ram_kib * 1024 - args.fill_mib * 1024 * 1024
                for i in range(args.fill_mib):
                    at = base + i * 1024 * 1024
                    memory[at:at + 1048576] = (os.urandom(1048576) if i % 4 == 0 else
                                               (text[i * 4099 % len(text):] + text)[:1048576])
            for number in range(1, args.runs + 1):
                guest = migrate(args, folder, number, guest)
        finally:
            for process in args.processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
