# SPDX-License-Identifier: Apache-2.0
"""Wrong and hostile input at every door: refused with the cause, nothing half done, and everybody else is served as before."""

import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import tempfile

import pytest
from labkit import netns, network
from labkit.lab import AGENT_PORT, MANAGER_PORT, wait_for
from labkit.workload import Workload

LAB = {"hosts": 2}
HOST1 = network.host_address(1)
GARBAGE = {
    "nothing": b"",
    "noise": os.urandom(20000),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "half a hello": bytes.fromhex("160301020001000001fc0303") + bytes(40),
    "huge record": bytes.fromhex("1603ffffff") + bytes(70000),
    "newlines": b"\n" * 50000,
}


@pytest.fixture(scope="module")
def guest(lab):
    made = Workload(lab, "witness").create(host="host1", append="workload.memory=32,mixed workload.disk=20")
    yield made
    made.discard()


def connect(lab, address, port, machine="client"):
    return netns.connect(lab.machines.pid(machine), (address, port), 10)


def throw(lab, address, port, data):
    """Sends data and reads whatever comes until the other side closes, or says nothing for a while."""
    with connect(lab, address, port) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(1)
        while connection.recv(65536):
            pass


def tls(connection, certificate=None, key=None):
    """TLS as a client that believes anybody."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(certificate, key)
    return context.wrap_socket(connection)


def request(lab, port, text, certificate=None, key=None):
    """The status of the answer to an HTTP request over TLS; None when the connection is refused."""
    with connect(lab, {AGENT_PORT: HOST1, MANAGER_PORT: network.MANAGER_ADDRESS}[port], port) as plain:
        try:
            with tls(plain, certificate, key) as connection:
                connection.sendall(text.encode())
                answer = connection.recv(65536).decode(errors="replace")
        except OSError:
            return None
    found = re.match(r"HTTP/1\.1 (\d+) ", answer)
    return int(found[1]) if found else None


def get(path, headers=""):
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"


def make_certificate(folder, name):
    """A key and a certificate for a DNS name by a CA that nobody here knows."""
    run = lambda *words: subprocess.run(["openssl", *words], cwd=folder, check=True, stderr=subprocess.DEVNULL)  # noqa: E731
    run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "ca.key", "-out",
        "ca.pem", "-subj", "/CN=drover", "-days", "2")
    run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem", "-out", "req.pem",
        "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")
    run("x509", "-req", "-in", "req.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-copy_extensions", "copy",
        "-out", "cert.pem", "-days", "2")
    return folder / "cert.pem", folder / "key.pem"


def check_everybody_serves(lab, guest):
    assert {host["status"]["state"] for host in lab.drover_json("host", "list")["items"]} == {"connected"}
    guest.verify()


@pytest.mark.parametrize("data", GARBAGE.values(), ids=[name.replace(" ", "-") for name in GARBAGE])
@pytest.mark.parametrize(("address", "port"), [(network.MANAGER_ADDRESS, MANAGER_PORT), (HOST1, AGENT_PORT)],
                         ids=["manager", "agent"])
def test_garbage_instead_of_tls_does_no_harm(lab, guest, address, port, data):
    machine, program = ("manager", "manager") if port == MANAGER_PORT else ("host1", "agent")
    before = lab.find(machine, program)
    for _ in range(3):
        throw(lab, address, port, data)
    assert lab.find(machine, program) == before
    check_everybody_serves(lab, guest)


def test_many_silent_connections_do_not_keep_others_out(lab, guest):
    with contextlib.ExitStack() as stack:
        for port, address in ((MANAGER_PORT, network.MANAGER_ADDRESS), (AGENT_PORT, HOST1)):
            for _ in range(100):
                stack.enter_context(connect(lab, address, port))
        wait_for("the manager to answer", lambda: lab.try_drover("vm", "list"), 20)
        guest.verify()
    lab.wait_connected()


def test_agent_refuses_a_certificate_of_another_ca(lab, tmp_path):
    certificate, key = make_certificate(tmp_path, "manager.drover")
    assert request(lab, AGENT_PORT, get("/agent/v1/vms"), certificate, key) is None


def test_agent_refuses_a_client_without_certificate(lab):
    assert request(lab, AGENT_PORT, get("/agent/v1/vms")) is None


def test_agent_refuses_another_hosts_certificate_where_only_the_manager_may_ask(lab):
    identity = lab.folder_of("host2") / "state/identity"
    assert request(lab, AGENT_PORT, get("/agent/v1/vms"), identity / "cert.pem", identity / "key.pem") == 403


def test_host_that_takes_no_part_in_a_migration_learns_nothing(lab):
    identity = lab.folder_of("host2") / "state/identity"
    path = "/agent/v1/peer/migrations/0b1c2d3e-0000-4000-8000-000000000001"
    assert request(lab, AGENT_PORT, get(path), identity / "cert.pem", identity / "key.pem") == 404


@pytest.mark.parametrize(("text", "status"), [
    (get("/api/v1/vms"), 401),
    (get("/api/v1/vms", "Authorization: Bearer drv1.wrong\r\n"), 401),
    (get("/api/v1/vms", f"Authorization: Bearer {'x' * 3000}\r\n"), 401),
    # Who has no token does not learn which paths there are.
    (get("/api/v1/../../../etc/passwd"), (401, 404)),
    (get("/" + "a" * 4000), (401, 404, 414, 431)),
    ("POST /api/v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{", (400, 401, 413)),
], ids=["no-token", "wrong-token", "long-token", "path", "long-path", "huge-body"])
def test_bad_request_to_the_manager_is_refused(lab, guest, text, status):
    assert request(lab, MANAGER_PORT, text) in (status if isinstance(status, tuple) else (status,))
    check_everybody_serves(lab, guest)


def data_ports(lab, host):
    text = lab.machines.run(host, "ss", "-Hltn")
    return {int(line.split()[3].rsplit(":", 1)[1]) for line in text.splitlines()} - {AGENT_PORT}


def test_garbage_on_the_data_port_does_not_spoil_the_migration(lab, guest):
    gate = lab.folder_of("host2") / "gate"
    lab.restart("host2", "agent", {"DROVER_HOLD_AT": f"destination-prepare:{gate}"})
    session = guest.session()
    task = guest.begin_migration("host2", "--verify")
    wait_for("the destination to be prepared", gate.with_name("gate.held").exists, 30, 0.02)
    port, = wait_for("the data port", lambda: data_ports(lab, "host2"), 10)
    for data in GARBAGE.values():
        throw(lab, network.host_address(2), port, data)
    with connect(lab, network.host_address(2), port), connect(lab, network.host_address(2), port) as stranger:
        with contextlib.suppress(OSError):
            tls(stranger)
        gate.touch()
        ended = guest.wait_task(task)
    assert ended["status"]["state"] == "succeeded", ended["status"]
    session.close()
    guest.verify()
    guest.migrate("host1")


BAD_VMS = {
    "memory-0": ["--memory", "0"], "memory-negative": ["--memory", "-1G"], "memory-word": ["--memory", "lots"],
    "memory-huge": ["--memory", "99999T"], "memory-beyond-64-bits": ["--memory", "99999999999999999999G"],
    "cpus-0": ["--cpus", "0"], "cpus-1000": ["--cpus", "1000"], "cpus-word": ["--cpus", "two"],
    "disk-absolute": ["--disk", "shared:/etc/passwd,format=raw"], "disk-up": ["--disk", "shared:../host1/agent.conf,format=raw"],
    "disk-json": ["--disk", 'shared:json:{"driver":"nbd"},format=raw'], "disk-protocol": ["--disk", "shared:nbd:127.0.0.1:9,format=raw"],
    "disk-size-0": ["--disk", "shared:0"], "disk-size-huge": ["--disk", "shared:9999999T"],
    "disk-option": ["--disk", "shared:1G,colour=red"], "disk-comma": ["--disk", "shared:x,,y=1"],
    "net-unknown-model": ["--net", "default,model=ne2000"], "net-mac": ["--net", "default,mac=zz:00:00:00:00:00"],
    "kernel-up": ["--kernel", "shared:../../etc/shadow"], "append-alone": ["--append", "quiet"],
    "append-long": ["--kernel", "shared:guests/workload/vmlinuz", "--append", "x" * 5000],
    "firmware": ["--firmware", "coreboot"], "host": ["--host", "host99"],
}


@pytest.mark.parametrize("words", BAD_VMS.values(), ids=BAD_VMS)
def test_bad_vm_is_refused_and_leaves_nothing(lab, words):
    base = [] if "--memory" in words else ["--memory", "64M"]
    disk = [] if "--disk" in words else ["--disk", "shared:16M,format=raw"]
    done = lab.run_drover("vm", "create", "bad1", *base, *disk, *words)
    check_refused(done)
    assert lab.run_drover("vm", "show", "bad1").returncode == 3
    assert not (lab.folder / "shared/bad1").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a b", "-x", "x" * 64, "ümlaut", "a\nb", "$(reboot)", "%s%n"])
def test_bad_name_is_refused(lab, name):
    before = sorted(os.listdir(lab.folder / "shared"))
    check_refused(lab.run_drover("vm", "create", "--memory", "64M", "--disk", "shared:16M,format=raw", "--", name))
    check_refused(lab.run_drover("vm", "show", "--", name))
    assert sorted(os.listdir(lab.folder / "shared")) == before


def check_refused(done):
    assert done.returncode not in (0, -6, -11)
    assert re.search(r"^drover: .{10,}", done.stderr, re.M), done.stderr


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"x" * 100000, b"two\nlines\n", b"\xff\xfe\n", b"drv1.\r\n"],
                         ids=["empty", "zeros", "huge", "lines", "bytes", "prefix"])
def test_bad_token_file_is_refused(lab, content):
    with tempfile.NamedTemporaryFile(dir=lab.folder) as token:
        token.write(content)
        token.flush()
        check_refused(lab.run_drover("--token", token.name, "vm", "list"))


def test_missing_token_file_is_refused(lab):
    check_refused(lab.run_drover("--token", lab.folder / "nothing-here", "vm", "list"))


def test_used_enrolment_token_works_no_more(lab):
    enrol = lab.drover_json("host", "add", f"{network.host_address(9)}:{AGENT_PORT}", "--name", "host9")
    lab.drover("host", "remove", "host9")
    config = lab.folder_of("host1") / "other.conf"
    config.write_text(f"[agent]\nname = host9\nlisten = 0.0.0.0:8555\nstate-dir = {lab.folder_of('host1')}/other\n"
                      f"runtime-dir = {lab.folder_of('host1')}/other-run\n", encoding="utf-8")
    command, environment = lab.command("host1", lab.program("drover-agent"), "--config", config, "enrol", "--manager",
                                       f"{network.MANAGER_ADDRESS}:{MANAGER_PORT}", "--token", enrol["enrol_token"])
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode != 0 and "token" in done.stdout
    names = [host["name"] for host in lab.drover_json("host", "list")["items"]]
    assert "host9" not in names, json.dumps(names)
