# SPDX-License-Identifier: Apache-2.0
"""A distributed switch over two hosts that have Open vSwitch each (its userspace datapath), with two VLANs. The client machine is
plugged into both VLANs by an Open vSwitch of its own."""

import contextlib
import json
import re

import pytest
from labkit import network as lab_network
from labkit import openvswitch
from labkit.lab import wait_for
from labkit.machines import FABRIC
from labkit.workload import Workload

try:
    openvswitch.root()
except (OSError, SystemExit, openvswitch.subprocess.CalledProcessError) as reason:
    pytest.skip(f"no Open vSwitch: {reason}", allow_module_level=True)

LAB = {"hosts": 2, "open_vswitch": True}
GATEWAY = "192.168.77.1"  # the client, in VLAN 10


@pytest.fixture(scope="module", autouse=True)
def network(lab):
    """The distributed switch d1 with the port groups "default" (VLAN 10) and "other" (VLAN 20), in place of the lab's own."""
    lab.drover("network", "port-group", "remove", "default")
    lab.drover("network", "switch", "remove", "default")
    lab.drover("network", "switch", "add", "d1", "--distributed", "--uplink", "vm0")
    lab.drover("network", "port-group", "add", "default", "--switch", "d1", "--vlan", "10")
    lab.drover("network", "port-group", "add", "other", "--switch", "d1", "--vlan", "20")
    client = lab.openvswitch("client")
    client.create()
    lab.machines.run("client", "ip", "address", "flush", "dev", "vm0")
    client.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev", "--", "add-port", "br0", "vm0")
    for vlan, address in (("10", f"{GATEWAY}/24"), ("20", "192.168.77.2/32")):
        client.vsctl("add-port", "br0", f"vlan{vlan}", f"tag={vlan}", "--", "set", "Interface", f"vlan{vlan}",
                     "type=internal")
        lab.machines.run("client", "ip", "address", "add", address, "dev", f"vlan{vlan}")
        lab.machines.run("client", "ip", "link", "set", f"vlan{vlan}", "up")
    lab.machines.run("client", "ip", "link", "set", "vm0", "up")
    # Each answers for its own address only, and is asked by its own interface.
    lab.machines.run("client", "sysctl", "-q", "-w", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2",
                     "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.vlan20.rp_filter=0")
    yield


@pytest.fixture(scope="module")
def green(lab):
    """In VLAN 20, on host2; it boots while others do."""
    made = Workload(lab, "green").create(host="host2", port_group="other", memory="128M", start=False)
    lab.drover("vm", "start", "green", "--host", "host2")
    yield made
    made.discard()


@pytest.fixture(scope="module")
def blue(lab, green):
    """In VLAN 10, on host1 at first."""
    made = Workload(lab, "blue").create(host="host1", append=f"workload.memory=32,mixed guest.gateway={GATEWAY}")
    yield made
    made.discard()


def reaches(lab, vlan, address):
    return lab.machines.run("client", "sh", "-c", f"ping -n -c 1 -W 1 -I vlan{vlan} {address} >/dev/null && echo yes || echo no"
                            ).strip() == "yes"


def tap_of(lab, host):
    """Blue's on the host's bridge."""
    taps = lab.openvswitch(host).vsctl("--bare", "--columns=name", "find", "Port", "external_ids:drover-port-group=default").split()
    assert len(taps) == 1, taps
    return taps[0]


def switch_on(lab, host):
    return lab.drover_json("network", "switch", "show", "d1")["status"]["hosts"][host]


def broken_rules(lab, to, name="blue"):
    report = json.loads(lab.run_drover("-o", "json", "vm", "migrate", name, "--to", to, "--check").stdout)
    broken = [item for item in report["checks"] if not item["ok"] and item["code"] != "cpu-load"]
    assert len({item["code"] for item in broken}) == len(broken)
    return {item["code"]: item for item in broken}


def test_vms_of_one_vlan_reach_each_other_across_hosts_and_others_do_not(lab, blue, green):
    try:
        wait_for("green to answer in its VLAN", lambda: reaches(lab, 20, green.address), 90)
        assert reaches(lab, 10, blue.address)
        assert not reaches(lab, 10, green.address)
        assert not reaches(lab, 20, blue.address)
        # A port on host2 beside the VM's, in the one VLAN and in the other.
        lab.openvswitch("host2").vsctl("add-port", "dv-d1", "probe", "tag=10", "--", "set", "Interface", "probe", "type=internal")
        lab.machines.run("host2", "ip", "address", "add", "192.168.77.9/24", "dev", "probe")
        lab.machines.run("host2", "ip", "link", "set", "probe", "up")
        ping = ["sh", "-c", f"ping -n -c 3 -i 0.2 -W 2 {blue.address} || true"]
        assert re.search(r"[123] received", lab.machines.run("host2", *ping))
        lab.openvswitch("host2").vsctl("set", "Port", "probe", "tag=20")
        lab.machines.run("host2", "ip", "neigh", "flush", "dev", "probe")
        assert " 0 received" in lab.machines.run("host2", *ping)
    finally:
        lab.openvswitch("host2").vsctl("--if-exists", "del-port", "probe")


def test_running_vm_moves_with_its_session_in_its_vlan(lab, blue):
    assert broken_rules(lab, "host2") == {}
    session = blue.session()
    # Traffic through the gateway, from an address that is not in the guest's network: so it is known.
    lab.machines.run("client", "ping", "-q", "-c", "200", "-i", "0.01", "-I", lab_network.CLIENT_ADDRESS, blue.address)
    for to in ("host2", "host1"):
        result = blue.migrate(to)
        assert result["verified"] and blue.host() == to
        assert [item for item in result["network"]["checks"] if not item["ok"]] == []
        assert {item["code"] for item in result["network"]["checks"]} == {
            "network-segment", "network-mac", "network-address", "network-gateway", "network-mtu"}
        arrival = result["arrival"]
        print(f"to {to}: gap {arrival['gap_ms']} ms between {arrival['gap_between']}; pause {result['pause_ms']} ms; {arrival['nics']}")
        assert arrival["nics"][0]["verified_by"] == "answer" and arrival["gap_ms"] > 0, arrival
        count = session.count
        wait_for("the session to go on", lambda: session.count > count + 20 or session.error, 30)
        assert lab.openvswitch(to).vsctl("get", "Port", tap_of(lab, to), "tag") == "10"
    session.close()
    blue.verify()


@contextlib.contextmanager
def other_segment(lab):
    """The physical switch has host2's NIC on another network, in which VLAN 10 leads nowhere."""
    lab.machines.run(FABRIC, "ip", "link", "add", "other", "type", "bridge", "stp_state", "0", "forward_delay", "0")
    lab.machines.run(FABRIC, "ip", "link", "set", "other", "up")
    lab.machines.run(FABRIC, "ip", "link", "set", "host2-v", "master", "other")
    try:
        yield
    finally:
        lab.machines.run(FABRIC, "ip", "link", "set", "host2-v", "master", lab_network.VMNET)
        lab.machines.run(FABRIC, "ip", "link", "delete", "other")


def test_vlan_that_leads_elsewhere_ends_a_migration_before_the_pause(lab, blue):
    if blue.host() != "host1":
        blue.migrate("host1")
    with other_segment(lab):
        task = blue.wait_task(blue.begin_migration("host2"))["status"]
    assert task["state"] == "failed" and task["error"]["code"] == "check-failed", task
    assert "network-segment: the port group default on host host2 leads to another network segment" in task["error"]["detail"]
    assert blue.host() == "host1" and blue.power() == "running"
    blue.status()


def refused(lab, blue):
    """Why a migration to host2 ended; the guest was never paused for it."""
    task = blue.wait_task(blue.begin_migration("host2"))["status"]
    assert task["state"] == "failed" and task["error"]["code"] == "check-failed", task
    assert blue.host() == "host1" and blue.power() == "running"
    wait_for("the destination to be clean", lambda: lab.find("host2", "qemu:blue") == [], 30)
    return task["error"]["detail"]


def test_gateway_is_away(lab, blue):
    if blue.host() != "host1":
        blue.migrate("host1")
    lab.machines.run("client", "ping", "-q", "-c", "200", "-i", "0.01", "-I", lab_network.CLIENT_ADDRESS, blue.address)
    ports = ("client-v", "host2-v")
    try:
        for port in ports:
            lab.machines.run(FABRIC, "bridge", "link", "set", "dev", port, "isolated", "on")
        cause = refused(lab, blue)
    finally:
        for port in ports:
            lab.machines.run(FABRIC, "bridge", "link", "set", "dev", port, "isolated", "off")
    assert cause == f"network-gateway: the gateway {GATEWAY} answers in port group default on host host1 and not on host host2"
    blue.status()


def broken(lab, guest, host):
    """Codes of the manager's checks that are not met."""
    done = lab.run_drover("-o", "json", "vm", "migrate", guest.name, "--to", host, "--check")
    return [item["code"] for item in json.loads(done.stdout)["checks"] if not item["ok"]]


def test_mac_address_is_taken_on_the_host(lab, blue):
    """Something else on host2, in blue's VLAN, that the source cannot hear."""
    if blue.host() != "host1":
        blue.migrate("host1")
    mac, vswitch = blue.document()["spec"]["nics"][0]["mac"], lab.openvswitch("host2")
    vswitch.vsctl("add-port", "dv-d1", "twin", "tag=10", "--", "set", "Interface", "twin", "type=internal", f'mac="{mac}"')
    try:
        lab.machines.run("host2", "ip", "address", "add", f"{blue.address}/32", "dev", "twin")
        lab.machines.run("host2", "ip", "link", "set", "twin", "up")
        cause = refused(lab, blue)
        # The manager knows by the list of switches, a little later.
        wait_for("the manager to know", lambda: "mac-on-host" in broken(lab, blue, "host2"), 30, 0.5)
    finally:
        vswitch.vsctl("--if-exists", "del-port", "twin")
    assert cause.startswith(f"network-mac: the MAC address {mac} is taken "), cause
    blue.wait_ready()


def test_drift_is_noticed_and_mended(lab, blue):
    vswitch, tap, before = lab.openvswitch("host1"), tap_of(lab, "host1"), switch_on(lab, "host1")
    vswitch.vsctl("clear", "Port", tap, "tag")
    wait_for("the tag to be back", lambda: vswitch.vsctl("get", "Port", tap, "tag") == "10", 30, 0.5)
    now = wait_for("the manager to know", lambda: (lambda said: said if said != before and said["mended"] else None)(
        switch_on(lab, "host1")), 30, 0.5)
    assert now["mended"]["what"] == [f"the port {tap} of port group default has no VLAN tag, and 10 is configured"]
    assert now["drift"] == [] and now["ok"]
    assert reaches(lab, 10, blue.address)


def test_versions_are_rolled_out_host_by_host(lab, blue):
    lab.drover("network", "switch", "set", "d1", "--mtu", "1400")
    assert lab.drover_json("network", "switch", "show", "d1")["status"]["version"] == 2
    assert [switch_on(lab, host)["version"] for host in ("host1", "host2")] == [1, 1]
    # An agent that starts again does not get it either.
    lab.restart("host2", "agent")
    wait_for("host2 to be asked again", lambda: switch_on(lab, "host2")["ok"], 30, 0.5)
    assert switch_on(lab, "host2")["version"] == 1

    lab.drover("network", "switch", "upgrade", "d1", "--host", "host1")
    assert [switch_on(lab, host)["version"] for host in ("host1", "host2")] == [2, 1]
    assert switch_on(lab, "host1")["mtu"] == 1400
    warning = broken_rules(lab, "host2")["switch-version"]
    assert (warning["severity"], warning["cause"]) == (
        "warning", "the distributed switch d1 has version 2 on host host1 and 1 on host host2")

    # The first host that cannot do it ends the roll-out: host2's NIC is too small for version 3.
    lab.machines.run("host1", "ip", "link", "set", "vm0", "mtu", "2000")
    lab.drover("network", "switch", "set", "d1", "--mtu", "2000")
    done = lab.run_drover("network", "switch", "upgrade", "d1")
    assert done.returncode == 1 and "switch d1 on host host2: the uplink vm0 has MTU 1500, the switch needs 2000" in done.stderr
    assert [switch_on(lab, host)["version"] for host in ("host1", "host2")] == [3, 1]
    # Back, everywhere.
    lab.drover("network", "switch", "set", "d1", "--mtu", "1500")
    lab.drover("network", "switch", "upgrade", "d1")
    assert [switch_on(lab, host)["version"] for host in ("host1", "host2")] == [4, 4]
    assert "host1" in lab.drover("network", "switch", "show", "d1")
    wait_for("all rules to be met", lambda: broken_rules(lab, "host2") == {}, 30, 0.5)


def test_distributed_to_standard_is_refused_unless_it_is_allowed(lab, blue):
    """The port groups are on a standard switch on host2."""
    lab.machines.run("host2", "ip", "link", "add", "up1", "type", "veth", "peer", "name", "far1")
    lab.machines.run("host2", "ip", "link", "set", "far1", "up")
    lab.drover("network", "switch", "add", "plain", "--uplink", "up1", "--host", "host2")
    for name, more in (("strict", []), ("lenient", ["--allow-standard"])):
        lab.drover("network", "port-group", "add", name, "--switch", "d1", "--switch-on", "host2=plain", *more)
    vm = Workload(lab, "mixed").create("--net", "lenient", "--datastore", "shared", host="host1", port_group="strict", image=None,
                                       disks=(), start=False)
    lab.drover("vm", "start", "mixed", "--host", "host1")
    try:
        broken = wait_for("the rule to be broken", lambda: broken_rules(lab, "host2", "mixed").get("switch-type"), 30, 0.5)
        assert (broken["severity"], broken["object"], broken["cause"]) == (
            "error", "strict",
            "the port group strict is on the distributed switch d1 on host host1, and on the standard switch plain on host host2")
    finally:
        vm.discard()
