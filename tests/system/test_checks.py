# SPDX-License-Identifier: Apache-2.0
"""Each rule of docs/checks.md that a lab can break: met on a healthy lab, and broken by a real thing, told in these words.

Not here: host-maintenance (test_maintenance.py), and, since no lab has them, host-task (its one task ends within a moment), host-version (two versions of drover), disk-lock
(NFS), disks-active (a state of milliseconds). Unit tests (test_checks.c) break those."""

import http.client
import json
import os
import socket
import ssl
import urllib.request
import uuid

import pytest
from labkit import netns, network
from labkit.lab import AGENT_PORT, wait_for

LAB = {"hosts": 3, "qemu_versions": {"host1": "7.2", "host2": "7.2", "host3": "10.0"}}

# What has nothing to say of a VM without a CD-ROM, disks, rules, a pool and distributed switches.
SILENT = {"pool-limit", "pool-reservation", "cdrom", "disk-in-use", "switch-version", "switch-drift", "affinity", "affinity-preference"}
CODES = {"host-connected", "same-host", "host-maintenance", "host-task", "host-version", "vm-running", "disks-active", "backup", "vm-task",
         "machine-type", "qemu-version", "accelerator", "cpu-model", "cpus", "cpu-load", "memory", "datastore", "disk-lock",
         "port-group", "switch", "uplink", "network-applied", "mtu", "switch-type", "mac", "mac-on-host"}


class Machine:
    """A VM that shows no more than its firmware: for rules that need no guest."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name

    def create(self, *options, host="host1", port_group="default", start=True):
        self.lab.drover("vm", "create", self.name, "--memory", "64M", "--datastore", "shared", "--net", port_group,
                        "--host", host, *options, *(["--start"] if start else []))
        return self

    def check(self, to):
        """The broken rules of a move there: {code: check}."""
        report = json.loads(self.lab.run_drover("-o", "json", "vm", "migrate", self.name, "--to", to, "--check").stdout)
        broken = {item["code"]: item for item in report["checks"] if not item["ok"]}
        assert report["ok"] == all(item["severity"] == "warning" for item in broken.values())
        assert all(item["way_out"] for item in broken.values())
        # A machine that is busy with tests warns of its load; that is shown apart.
        return {code: item for code, item in broken.items() if code != "cpu-load"}

    def wait_broken(self, to, code, timeout_s=30):
        return wait_for(f"the rule {code} to be broken", lambda: self.check(to).get(code), timeout_s, 0.5)

    def wait_fine(self, to, timeout_s=30):
        wait_for("all rules to be met", lambda: self.check(to) == {}, timeout_s, 0.5)

    def document(self):
        return self.lab.drover_json("vm", "show", self.name)

    def mac(self):
        return self.document()["spec"]["nics"][0]["mac"]

    def discard(self):
        self.lab.run_drover("vm", "resume", self.name)
        self.lab.run_drover("vm", "stop", self.name, "--force")
        self.lab.run_drover("vm", "delete", self.name)


@pytest.fixture
def machine(lab):
    made = []

    def make(*options, name=None, **more):
        made.append(Machine(lab, name or f"m{uuid.uuid4().hex[:6]}"))
        return made[-1].create(*options, **more)
    yield make
    for one in made:
        one.discard()


@pytest.fixture(scope="module")
def still(lab):
    """One machine on host1 for all rules that break around it."""
    made = Machine(lab, "still").create()
    yield made
    made.discard()


@pytest.fixture(autouse=True)
def healthy(still):
    """Each test begins with, and has to leave behind, a lab in which every rule is met."""
    still.wait_fine("host2")
    yield
    still.wait_fine("host2")


def api(lab, method, path, body=None):
    """For what the CLI does not offer."""
    door = lab.environment(inside=False)
    with open(door["DROVER_TOKEN"], encoding="ascii") as token:
        headers = {"Authorization": f"Bearer {token.read().strip()}"}
    request = urllib.request.Request(f"{door['DROVER_SERVER']}/api/v1{path}", method=method, headers=headers,
                                     data=json.dumps(body).encode() if body is not None else None)
    with urllib.request.urlopen(request, timeout=30, context=ssl.create_default_context(cafile=door["DROVER_CA"])) as answer:
        document = json.loads(answer.read() or b"null")
    while (document or {}).get("kind") == "task" and not document["status"]["finished"]:
        document = lab.drover_json("task", "show", document["name"])
    return document


def test_every_rule_is_met_on_a_healthy_lab(still, lab):
    report = lab.drover_json("vm", "migrate", "still", "--to", "host2", "--check")
    seen = {item["code"] for item in report["checks"]}
    assert seen == CODES and not seen & SILENT
    assert [item for item in report["checks"] if not item["ok"] and item["code"] != "cpu-load"] == []


def test_host_connected(still, lab):
    lab.kill("host2", "agent")
    cause = still.wait_broken("host2", "host-connected")["cause"]
    assert cause == "host host2 is unreachable"
    lab.start("host2", "agent")
    lab.wait_connected()


def test_same_host(still):
    assert still.check("host1")["same-host"]["cause"] == "the virtual machine is on host host1 already"


def test_vm_running(still, lab):
    lab.drover("vm", "pause", "still")
    assert still.check("host2")["vm-running"]["cause"] == "the virtual machine is paused, not running"
    lab.drover("vm", "resume", "still")


class Monitor:
    """QEMU's monitor, as another program would use it while the agent is away."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.stream = self.socket.makefile("rw", encoding="utf-8")
        self.stream.readline()
        self.do("qmp_capabilities")

    def do(self, command, **arguments):
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        while True:
            answer = json.loads(self.stream.readline())
            if "event" not in answer:
                return answer["return"]

    def close(self):
        self.stream.close()
        self.socket.close()


def test_backup(machine, lab, tmp_path):
    vm = machine("--disk", "shared:64M,format=raw")
    socket_path = lab.folder / "host1/run/vms" / vm.document()["uid"] / "qmp.sock"
    lab.kill("host1", "agent")
    monitor = Monitor(socket_path)
    node = next(item["inserted"]["node-name"] for item in monitor.do("query-block") if item.get("inserted"))
    target = lab.folder / "backup.raw"
    target.write_bytes(bytes(64 << 20))
    monitor.do("blockdev-add", **{"driver": "raw", "node-name": "copy",
                                  "file": {"driver": "file", "filename": str(target)}})
    monitor.do("blockdev-backup", **{"job-id": "nightly", "device": node, "target": "copy", "sync": "full", "speed": 1})
    monitor.close()
    lab.start("host1", "agent")
    lab.wait_connected()
    assert vm.wait_broken("host2", "backup")["cause"] == "QEMU works on its disks: job nightly (backup)"


def test_vm_task(still, lab):
    """It has no operating system that would hear the power button."""
    task = lab.drover_json("--no-wait", "vm", "stop", "still", "--patience", "10m")["name"]
    cause = still.wait_broken("host2", "vm-task")["cause"]
    assert cause == f"task {task} (vm.stop) works on the virtual machine"
    lab.drover("task", "cancel", task)
    wait_for("the task to end", lambda: lab.drover_json("task", "show", task)["status"]["finished"], 60)


def test_machine_type_and_qemu_version(machine, lab):
    newest, old = machine(host="host3"), machine("--machine", "pc-q35-7.2", host="host3")
    versions = {host["name"]: host["status"]["qemu"]["version"] for host in lab.drover_json("host", "list")["items"]}
    machine_type = newest.document()["status"]["machine"]
    broken = newest.check("host1")
    assert broken["machine-type"]["cause"] == (
        f"QEMU {versions['host1']} on host host1 does not know the machine type {machine_type}")
    broken = old.check("host1")
    assert set(broken) == {"qemu-version"}
    assert broken["qemu-version"]["severity"] == "warning"
    assert broken["qemu-version"]["cause"] == (
        f"the virtual machine runs on QEMU {versions['host3']} and host host1 has the older QEMU {versions['host1']}")


def test_saved_state_of_a_newer_qemu(machine, lab):
    one = machine("--machine", "pc-q35-7.2", host="host3")
    lab.drover("vm", "suspend", one.name)
    done = lab.run_drover("vm", "resume", one.name, "--host", "host1")
    assert done.returncode == 1
    assert "saved-state: " in done.stderr
    assert one.document()["status"]["power"] == "suspended"
    lab.drover("vm", "resume", one.name, "--host", "host3")


def test_accelerator(lab):
    done = lab.run_drover("vm", "create", "fast", "--memory", "64M", "--datastore", "shared", "--accelerator", "kvm",
                          "--host", "host1")
    assert done.returncode == 1
    assert "accelerator: the virtual machine needs KVM and host host1 has tcg only" in done.stderr


def test_cpu_model_with_each_missing_feature(machine):
    """QEMU 7.2 emulates neither; 10.0 does."""
    fits = machine("--machine", "pc-q35-7.2", "--cpu-model", "Westmere-v1", host="host3")
    assert "cpu-model" not in fits.check("host1")
    needs = machine("--machine", "pc-q35-7.2", "--cpu-model", "Westmere-v1,+sha-ni,+rdpid", host="host3")
    assert needs.check("host1")["cpu-model"]["cause"] == (
        "guests on host host1 cannot have these features of the CPU model Westmere-v1,+sha-ni,+rdpid: rdpid, sha-ni")


def test_cpus_and_cpu_load(machine, lab):
    n = os.cpu_count()
    done = lab.run_drover("vm", "create", "wide", "--memory", "64M", "--datastore", "shared", "--cpus", str(n + 1),
                          "--host", "host1")
    assert done.returncode == 1
    assert f"cpus: the virtual machine has {n + 1} virtual processors and host host1 has {n} processors" in done.stderr
    busy = machine("--cpus", str(n))
    report = lab.drover_json("vm", "migrate", busy.name, "--to", "host2", "--check")
    load = next(item for item in report["checks"] if item["code"] == "cpu-load")
    # Whatever runs this test is a load.
    assert (load["ok"], load["severity"], report["ok"]) == (False, "warning", True)
    assert load["cause"].startswith(f"host host2 has {n} processors, a load of ")


def test_memory(lab):
    done = lab.run_drover("vm", "create", "huge", "--memory", "16T", "--datastore", "shared", "--host", "host1")
    assert done.returncode == 1
    assert "memory: the virtual machine has 16 TiB of memory and host host1 has room for " in done.stderr


def test_datastore_is_the_same_one(machine):
    vm = machine("--disk", "local:16M,format=raw")
    cause = vm.check("host2")["datastore"]["cause"]
    assert cause.startswith("the datastore local on host host2 is another one (id ") and "than on host host1" in cause


def test_cdrom_in_a_local_datastore(machine, lab):
    (lab.local_path("host1") / "tools.iso").write_bytes(bytes(2048))
    broken = machine("--cdrom", "local:tools.iso").check("host2")
    assert set(broken) == {"cdrom"}
    assert broken["cdrom"]["cause"].startswith("the datastore local on host host2 is another one")
    assert broken["cdrom"]["way_out"].startswith("Eject the CD-ROM")


def test_disk_in_use(machine, lab):
    first = machine("--disk", "shared:64M,format=raw")
    path = first.document()["spec"]["disks"][0]["path"]
    done = lab.run_drover("vm", "create", "second", "--memory", "64M", "--disk", f"shared:{path},format=raw")
    assert done.returncode == 1
    assert (f"disk-in-use: the disk image shared:{path} is in use by the virtual machine {first.name} on host host1"
            in done.stderr)


@pytest.fixture
def side(lab):
    """Makes a second switch and port group, "side"; its uplink "up1" is a cable with both ends on the host."""
    made = []

    def make(hosts, mtu=None, mtus=None):
        made.extend(hosts)
        for host in hosts:
            lab.machines.run(host, "ip", "link", "add", "up1", "type", "veth", "peer", "name", "far1")
            lab.machines.run(host, "ip", "link", "set", "up1", "mtu", str((mtus or {}).get(host, 1500)))
            lab.machines.run(host, "ip", "link", "set", "far1", "up")
        api(lab, "POST", "/switches", {"name": "side", "spec": {"uplink": "up1", "mtu": mtu}})
        api(lab, "POST", "/port-groups", {"name": "side", "spec": {"switch": "side"}})
    yield make
    lab.run_drover("network", "port-group", "remove", "side")
    lab.run_drover("network", "switch", "remove", "side")
    for host in made:
        lab.machines.run(host, "sh", "-c", "ip link delete up1 2>/dev/null || true")


@pytest.fixture
def on_side(lab):
    """A machine on that port group; gone before the port group goes."""
    made = []

    def make():
        made.append(Machine(lab, f"s{uuid.uuid4().hex[:6]}").create(port_group="side"))
        return made[-1]
    yield make
    for one in made:
        one.discard()


# The virtual-switch and MAC cases. Those of distributed switches are in test_distributed_switch.py.


def test_port_group_is_missing_at_the_destination(side, on_side):
    side(["host1"])
    assert on_side().wait_broken("host2", "port-group")["cause"] == "host host2 does not have the port group side"


def test_switch_of_the_port_group_does_not_work(side, on_side, lab):
    side(["host1", "host2"])
    vm = on_side()
    assert vm.check("host2") == {}
    lab.machines.run("host2", "ip", "link", "delete", "up1")
    lab.restart("host2", "agent")
    assert vm.wait_broken("host2", "switch")["cause"] == (
        "the switch side of port group side does not work on host host2: this host has no network interface up1, the "
        "uplink of switch side")


def test_uplink_is_broken(still, lab):
    lab.network.cut("host2", network=network.VMNET)
    broken = still.wait_broken("host2", "uplink")
    assert broken["cause"] == "the uplink vm0 of switch default has no carrier on host host2, so port group default leads nowhere"
    assert "switch" not in still.check("host2")
    lab.network.cut("host2", up=True, network=network.VMNET)


def test_configuration_was_not_applied(side, on_side, lab):
    side(["host1", "host2"], mtu=1500, mtus={"host1": 9000})
    vm = on_side()
    assert vm.check("host2") == {}
    api(lab, "PUT", "/switches/side", {"spec": {"uplink": "up1", "mtu": 9000}})
    broken = vm.wait_broken("host2", "network-applied")
    assert broken["cause"] == ("the switch side on host host2 has MTU 1500, and 9000 is configured (the uplink up1 has MTU "
                               "1500, the switch needs 9000)")
    lab.machines.run("host2", "ip", "link", "set", "up1", "mtu", "9000")
    api(lab, "PUT", "/switches/side", {"spec": {"uplink": "up1", "mtu": 9000}})
    vm.wait_fine("host2")


def test_mtu_is_smaller_at_the_destination(side, on_side, lab):
    side(["host1", "host2"], mtus={"host1": 9000})
    broken = on_side().wait_broken("host2", "mtu")
    assert broken["severity"] == "warning"
    assert broken["cause"] == ("the port group side has MTU 9000 on host host1 and 1500 on host host2: larger packets of the "
                               "guest would be lost")


def agent_call(lab, host, method, path, body):
    """As the manager calls an agent: somebody who has its key starts a VM behind its back."""
    pki = lab.folder / "manager/state/pki"
    context = ssl.create_default_context(cafile=pki / "ca.pem")
    context.check_hostname = False
    context.load_cert_chain(pki / "manager.pem", pki / "manager.key")
    address = (network.host_address(lab.hosts.index(host) + 1), AGENT_PORT)
    connection = http.client.HTTPConnection(*address)
    connection.sock = context.wrap_socket(netns.connect(lab.machines.pid("manager"), address, 30))
    connection.request(method, path, json.dumps(body), {"X-Drover-Epoch": "1", "X-Drover-Request": str(uuid.uuid4()),
                                                        "Content-Type": "application/json"})
    answer = connection.getresponse()
    document = json.loads(answer.read())
    assert answer.status == 200, document
    return document


def test_mac_address_of_another_vm(still, lab):
    mac, uid = still.mac(), str(uuid.uuid4())
    done = lab.run_drover("vm", "create", "twin", "--memory", "64M", "--datastore", "shared", "--net", f"default,mac={mac}")
    assert done.returncode == 5 and f"the MAC address {mac} is in use in this cluster" in done.stderr
    twin = {"kind": "vm", "name": "twin", "uid": uid,
            "spec": {"memory_bytes": 64 << 20, "datastore": "shared", "nics": [{"port_group": "default", "mac": mac}]}}
    twin = agent_call(lab, "host3", "POST", f"/agent/v1/vms/{uid}/create", twin)
    agent_call(lab, "host3", "POST", f"/agent/v1/vms/{uid}/start", twin)
    cause = still.wait_broken("host2", "mac")["cause"]
    assert cause == f"the MAC address {mac} is also that of the virtual machine twin"
    lab.drover("vm", "stop", "twin", "--force")
    lab.drover("vm", "delete", "twin")


def test_foreign_mac_address_at_the_destination(still, lab):
    """A container on host2 that speaks with the VM's address."""
    mac = still.mac()
    lab.machines.run("host2", "ip", "link", "add", "ct0", "type", "veth", "peer", "name", "ct1")
    lab.machines.run("host2", "ip", "link", "set", "ct0", "master", "dv-default", "up")
    lab.machines.run("host2", "ip", "link", "set", "ct1", "address", mac, "up")
    lab.machines.run("host2", "bridge", "fdb", "replace", mac, "dev", "ct0", "master", "dynamic")
    cause = still.wait_broken("host2", "mac-on-host")["cause"]
    assert cause == f"the MAC address {mac} is in use on host host2, at ct0, by something that is not drover's"
    lab.machines.run("host2", "ip", "link", "delete", "ct0")


@pytest.fixture
def rule(lab):
    made = []

    def make(name, *words):
        lab.drover("affinity", "add", name, *words)
        made.append(name)
    yield make
    for name in made:
        lab.drover("affinity", "remove", name)


def test_affinity_that_must_be_kept(still, machine, rule, lab):
    other = machine(host="host2")
    rule("spread", "--type", "keep-apart", "--vm", "still", "--vm", other.name)
    assert still.check("host2")["affinity"]["cause"] == f"rule spread keeps it apart from {other.name} on host host2"
    assert still.check("host3") == {}
    done = lab.run_drover("vm", "migrate", "still", "--to", "host2")
    assert done.returncode == 1 and "affinity: rule spread keeps it apart" in done.stderr
    done = lab.run_drover("affinity", "add", "pair", "--type", "keep-together", "--vm", other.name, "--vm", "still")
    assert done.returncode == 5
    assert f"rule spread keeps still and {other.name} apart, and they are kept together by rule pair" in done.stderr


def test_affinity_that_should_be_kept(still, rule, lab):
    rule("prefer", "--type", "run-on", "--vm", "still", "--host", "host1", "--host", "host3", "--should")
    broken = still.check("host2")["affinity-preference"]
    assert (broken["severity"], broken["cause"]) == ("warning", "rule prefer lets it run on host1 and host3 only")
    ranking = lab.drover_json("vm", "advise", "still")["ranking"]
    assert [host["host"] for host in ranking] == ["host3", "host2"]


@pytest.fixture
def pool(lab):
    """Makes a resource pool; gone before its machines are."""
    made = []

    def make(*options):
        made.append(f"p{uuid.uuid4().hex[:6]}")
        lab.drover("pool", "create", made[-1], *options)
        return made[-1]
    yield make
    for name in made:
        lab.run_drover("pool", "delete", name)


def used(lab, name):
    return lab.drover_json("pool", "show", name)["status"]["used"]


def test_pool_limit(machine, pool, lab):
    sales = pool("--memory", "128M", "--vms", "5")
    label = ("--label", f"pool={sales}")
    first, second = machine(*label), machine(*label, host="host2")
    assert used(lab, sales) == {"cpus": 2, "memory_bytes": 128 << 20, "vms": 2}
    full = f"pool-limit: pool {sales} may use 128 MiB of memory, 128 MiB are in use, and the virtual machine has 64 MiB"
    done = lab.run_drover("vm", "create", "onemore", "--memory", "64M", "--datastore", "shared", "--host", "host1", *label, "--start")
    assert done.returncode == 1 and full in done.stderr and "drover pool set" in done.stderr
    # A paused one keeps its memory, so that it can always be resumed; a stopped one gives its place to the next.
    lab.drover("vm", "pause", second.name)
    assert used(lab, sales)["vms"] == 2
    lab.drover("pool", "set", sales, "--memory", "64M", "--lift", "vms")
    lab.drover("vm", "resume", second.name)
    lab.drover("vm", "stop", second.name, "--force")
    assert used(lab, sales) == {"cpus": 1, "memory_bytes": 64 << 20, "vms": 1}
    assert lab.run_drover("pool", "set", sales, "--vms", "3", "--lift", "vms").returncode == 2
    # What runs moves, also where the pool is over its limits.
    lab.drover("pool", "set", sales, "--vms", "0")
    assert first.check("host2") == {}
    lab.drover("vm", "migrate", first.name, "--to", "host2")
    done = lab.run_drover("vm", "start", second.name, "--host", "host2")
    assert done.returncode == 1 and f"pool-limit: pool {sales} may use 64 MiB" in done.stderr and "and 1 more" in done.stderr
    done = lab.run_drover("vm", "advise", second.name)
    assert done.returncode == 1 and done.stdout.count("UNFIT") == 3
    assert done.stdout.count(f"pool-limit: at most 0 of pool {sales} may run at once, and 1 do") == 3
    lab.drover("pool", "set", sales, "--memory", "128M", "--lift", "vms")
    lab.drover("vm", "start", second.name, "--host", "host2")
    assert second.document()["status"]["power"] == "running"


def test_two_starts_at_once_share_what_the_pool_has_left(machine, pool, lab):
    sales = pool("--vms", "1")
    names = [machine("--label", f"pool={sales}", start=False).name for _ in range(3)]
    tasks = [lab.drover_json("--no-wait", "vm", "start", name)["name"] for name in names]

    def states():
        return [lab.drover_json("task", "show", task)["status"]["state"] for task in tasks]
    wait_for("the tasks to end", lambda: not {"queued", "running", "undoing"} & set(states()), 120, 0.5)
    assert sorted(states()) == ["failed", "failed", "succeeded"]
    assert used(lab, sales)["vms"] == 1


def test_pool_reservation(pool, lab):
    """A quarter of what is free fits on each of three hosts, and not beside four fifths of it."""
    free = sum(host["status"]["memory_free_bytes"] for host in lab.drover_json("host", "list")["items"]) >> 20
    ours = pool("--reserve-memory", f"{free * 4 // 5}M")
    quarter = ("--memory", f"{free // 4}M", "--datastore", "shared", "--host", "host1")
    done = lab.run_drover("vm", "create", "theirs", *quarter)
    assert done.returncode == 1
    assert "pool-reservation: the virtual machine takes " in done.stderr and " of memory that no resource pool reserves" in done.stderr
    lab.drover("vm", "create", "ours", *quarter, "--label", f"pool={ours}")
    lab.drover("vm", "delete", "ours")
    done = lab.run_drover("pool", "set", ours, "--reserve-memory", f"{free * 2}M")
    assert done.returncode == 1 and "resource pools would reserve " in done.stderr
    lab.drover("pool", "set", ours, "--lift", "reserve-memory")
    lab.drover("vm", "create", "theirs", *quarter)
    lab.drover("vm", "delete", "theirs")


def test_all_that_is_wrong_is_told_at_once(machine, lab):
    vm = machine("--disk", "local:16M,format=raw", host="host3")
    lab.drover("vm", "pause", vm.name)
    done = lab.run_drover("vm", "migrate", vm.name, "--to", "host1", "--check")
    assert done.returncode == 1
    lines = [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith(("  FAILED", "  WARNING"))]
    assert lines[:3] == ["  FAILED  vm-running", "  FAILED  machine-type", "  FAILED  datastore"]
    assert "  WARNING qemu-version" in lines[3:]


def test_advice_names_the_best_host_and_each_failed_check(machine, lab):
    vm = machine("--disk", "local:16M,format=raw")
    done = lab.run_drover("vm", "advise", vm.name)
    assert done.returncode == 1
    assert "no other host can take it" in done.stdout and done.stdout.count("UNFIT") == 2
    assert done.stdout.count("datastore: the datastore local on host") == 2
    advice = lab.drover_json("vm", "advise", "still")
    assert advice["ok"] and advice["from"] == "host1" and len(advice["ranking"]) == 2
    for host in advice["ranking"]:
        assert host["ok"] and 0 < host["score"] <= 100
        words = " ".join(host["reasons"])
        assert "of memory would stay free" in words and "load" in words and "datastore shared take" in words


def test_migration_without_a_target_takes_the_best_host(machine, rule, lab):
    vm = machine()
    rule("prefer-newer", "--type", "run-on", "--vm", vm.name, "--host", "host3", "--should")
    assert lab.drover_json("vm", "advise", vm.name)["ranking"][0]["host"] == "host3"
    assert lab.drover_json("vm", "migrate", vm.name)["status"]["result"]["to"] == "host3"
