# SPDX-License-Identifier: Apache-2.0
"""The destination's network is tried while the guest runs at the source, and what is wrong there ends the migration before the pause; then
the guest's arrival: verified, and its gap beside a ping from outside."""

import contextlib
import hashlib
import json
import re
import subprocess
import time

import pytest
from labkit import guest as guests
from labkit import network
from labkit.lab import wait_for
from labkit.machines import FABRIC
from labkit.workload import Workload, install

LAB = {"hosts": 2}
GATEWAY = network.CLIENT_VM_ADDRESS


@pytest.fixture(scope="module")
def guest(lab):
    made = Workload(lab, "moved").create(host="host1", append=f"workload.memory=16,mixed guest.gateway={GATEWAY}")
    yield made
    made.discard()


@pytest.fixture
def at_home(guest, lab):
    """Each test begins, and has to end, with the guest on host1."""
    if guest.host() != "host1":
        guest.migrate("host1")
    # What the manager knows of addresses on the hosts may be older than the end of the test before.
    wait_for("the checks to be met", lambda: lab.run_drover("vm", "migrate", guest.name, "--to", "host2", "--check").returncode == 0, 60)
    yield guest
    guest.status()


def fabric(lab, *words):
    return lab.machines.run(FABRIC, *words)


def checks(result):
    return {item["code"]: item for item in result["network"]["checks"]}


def teach_gateway(lab, guest):
    """Traffic through the gateway: the client asks from an address that is not in the guest's network."""
    lab.machines.run("client", "ping", "-q", "-c", "200", "-i", "0.01", "-I", network.CLIENT_ADDRESS, guest.address)


def refused(lab, guest, *options):
    """The error of a migration that has to fail; the guest was never paused for it."""
    log = lab.log_of("host1", "agent")
    before = log.stat().st_size
    task = guest.wait_task(guest.begin_migration("host2", *options))["status"]
    assert task["state"] == "failed" and task["error"]["code"] == "check-failed", task
    assert guest.host() == "host1" and guest.power() == "running"
    with open(log, encoding="utf-8") as text:
        text.seek(before)
        told = text.read()
    assert "is to end: network-" in told and "handed-off" not in told and "phase switching" not in told
    wait_for("the destination to be clean", lambda: lab.find("host2", "qemu") == [], 30)
    return task["error"]["detail"], task["error"]["hint"]


def test_without_a_known_gateway_there_is_a_warning_and_the_migration_goes_on(at_home):
    result = at_home.migrate("host2")
    found = checks(result)
    assert [code for code, item in found.items() if not item["ok"]] == ["network-gateway"], found
    assert found["network-gateway"]["severity"] == "warning"
    assert "is not known" in found["network-gateway"]["cause"]


def test_a_good_network_is_proven_and_the_arrival_verified(at_home, lab):
    teach_gateway(lab, at_home)
    ping = at_home.ping()
    time.sleep(0.5)  # a base line to compare with, not a synchronisation
    result = at_home.migrate("host2")
    at_home.status()
    seen = ping.stop()
    assert [item for item in result["network"]["checks"] if not item["ok"]] == []
    assert set(checks(result)) == {"network-segment", "network-mac", "network-address", "network-gateway", "network-mtu"}
    arrival = result["arrival"]
    assert arrival["nics"][0]["verified_by"] == "answer", arrival
    print(f"gap: {arrival['gap_ms']:.1f} ms ({arrival['gap_between']}; {arrival['gap_clock']}); "
          f"ping from outside: {seen['longest_gap_ms']:.1f} ms; pause: {result['pause_ms']:.1f} ms; "
          f"gateway's answer {arrival['nics'][0]['answer_ms']:.1f} ms after the stop; proof: {result['network']['ms']} ms of {result['total_ms']} ms")
    # Both see the same absence, from two places of one network. On a busy machine the ping may also see another, longer one, when nothing of the
    # guest ran, and the last question of the source's host may be late.
    assert arrival["gap_ms"] >= result["pause_ms"] * 0.8 - 150
    assert arrival["gap_ms"] <= seen["longest_gap_ms"] + 1000


@pytest.fixture
def six(lab):
    """The address of a guest that has IPv6 alone, and has spoken with the client."""
    address, image = "fd00:77::20", install(lab, "workload")
    line = (guests.build("workload") / "append").read_text(encoding="ascii").strip()
    lab.machines.run("client", "ip", "address", "add", "fd00:77::1/64", "dev", "vm0", "nodad")
    lab.drover("vm", "create", "six", "--memory", "96M", "--datastore", "shared", "--net", "default", "--kernel", f"shared:{image}/vmlinuz",
               "--initrd", f"shared:{image}/initrd", "--append", f"{line} guest.ip={address}/64", "--host", "host1", "--start")
    yield address
    lab.drover("vm", "stop", "six", "--force")
    lab.drover("vm", "delete", "six")
    lab.machines.run("client", "ip", "address", "delete", "fd00:77::1/64", "dev", "vm0")


def answers(lab, address):
    words, environment = lab.command("client", "ping", "-q", "-c", "1", "-W", "1", address)
    return subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_arrival_of_a_guest_with_ipv6_alone_is_verified(six, lab):
    wait_for("the guest to answer", lambda: answers(lab, six))
    result = lab.drover_json("vm", "migrate", "six", "--to", "host2")["status"]["result"]
    assert checks(result)["network-segment"]["ok"]
    # Nobody but the one that was asked says anything to it meanwhile.
    nic, = result["arrival"]["nics"]
    assert nic["asked"] >= 1 and nic["verified_by"] == "answer", nic
    assert answers(lab, six)


def test_no_switch_learns_the_guest_at_the_destination_before_it_runs_there(at_home, lab):
    """The port group is on the wrong segment there too: had a frame with the guest's address been sent, that switch would know it."""
    mac = at_home.document()["spec"]["nics"][0]["mac"]
    with other_segment(lab):
        refused(lab, at_home)
        assert mac not in lab.network.learned("other")
        assert lab.network.learned("other"), "nothing was sent there at all"
    assert lab.network.learned().get(mac) == "host1-v"


@contextlib.contextmanager
def other_segment(lab):
    fabric(lab, "ip", "link", "add", "other", "type", "bridge", "stp_state", "0", "forward_delay", "0")
    fabric(lab, "ip", "link", "set", "other", "up")
    try:
        fabric(lab, "ip", "link", "set", "host2-v", "master", "other")
        yield
    finally:
        fabric(lab, "ip", "link", "set", "host2-v", "master", network.VMNET)
        fabric(lab, "ip", "link", "delete", "other")


def test_port_group_on_the_wrong_segment(at_home, lab):
    with other_segment(lab):
        cause, way_out = refused(lab, at_home)
    assert cause == (
        "network-segment: the port group default on host host2 leads to another network segment: the virtual machine's own address "
        f"{at_home.address} answers on host host1 and not there, and test frames between the two hosts are lost")
    assert "--accept network-segment" in way_out


def test_gateway_is_away(at_home, lab):
    teach_gateway(lab, at_home)
    with apart(lab, FABRIC, "client-v", "host2-v"):
        cause, way_out = refused(lab, at_home)
        assert cause == f"network-gateway: the gateway {GATEWAY} answers in port group default on host host1 and not on host host2"
        assert "--accept network-gateway" in way_out
        # Who knows better may go on.
        result = at_home.migrate("host2", "--accept", "network-gateway")
        assert checks(result)["network-gateway"]["severity"] == "warning"
        assert result["arrival"]["nics"][0]["verified_by"] != "answer"
    at_home.wait_ready()


@contextlib.contextmanager
def station(lab, machine, switch, mac, address):
    """A station with that MAC and IP address at a new port, ct0, of a switch of that machine. Its kernel answers whoever asks for the address, at
    once, and it says nothing else."""
    quiet = "sysctl -q -w net.ipv6.conf.default.disable_ipv6=1 net.ipv6.conf.all.disable_ipv6=1 && echo ready && exec cat"
    with subprocess.Popen(["unshare", "--net", "sh", "-c", quiet], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as its:
        def run(pid, *words):
            subprocess.run(["nsenter", "--target", str(pid), "--net", "--", *map(str, words)], check=True)

        outside = lab.machines.pid(machine)
        try:
            assert its.stdout.readline() == "ready\n"
            run(outside, "ip", "link", "add", "ct0", "type", "veth", "peer", "name", "ct1", "netns", its.pid)
            run(its.pid, "ip", "link", "set", "ct1", "address", mac, "up")
            run(its.pid, "ip", "address", "add", f"{address}/32", "dev", "ct1")
            run(outside, "ip", "link", "set", "ct0", "master", switch, "up")
            yield
        finally:
            subprocess.run(["nsenter", "--target", str(outside), "--net", "--", "ip", "link", "delete", "ct0"], check=False)
            its.stdin.close()


@contextlib.contextmanager
def apart(lab, machine, *ports):
    """The switch carries between any two of its ports but these."""
    try:
        for port in ports:
            lab.machines.run(machine, "bridge", "link", "set", "dev", port, "isolated", "on")
        yield
    finally:
        for port in ports:
            lab.machines.run(machine, "bridge", "link", "set", "dev", port, "isolated", "off")


@contextlib.contextmanager
def heard_by_destination_alone(lab, mac, address):
    """A station of the network between the hosts that the source does not see: what it saw itself would be a warning."""
    with apart(lab, FABRIC, "host1-v"), station(lab, FABRIC, network.VMNET, mac, address):
        fabric(lab, "bridge", "link", "set", "dev", "ct0", "isolated", "on")
        yield


def answers_too_often(mac, address):
    return (rf"network-mac: the MAC address {mac} is taken in the network of port group default at host host2: \d+ answers for "
            rf"{address} came from it there, and the virtual machine gave \d+")


def test_mac_address_is_taken_on_the_host(at_home, lab):
    mac = at_home.document()["spec"]["nics"][0]["mac"]
    # Seen from the host itself alone, as above.
    with apart(lab, "host2", "vm0"), station(lab, "host2", "dv-default", mac, at_home.address):
        lab.machines.run("host2", "bridge", "link", "set", "dev", "ct0", "isolated", "on")
        cause, _ = refused(lab, at_home)
    # The switch's table says so if the twin spoke last.
    assert (cause == f"network-mac: the MAC address {mac} is taken on host host2: something at its port ct0 uses it"
            or re.fullmatch(answers_too_often(mac, at_home.address), cause)), cause
    at_home.wait_ready()


def test_mac_address_is_taken_elsewhere_in_the_network(at_home, lab):
    mac = at_home.document()["spec"]["nics"][0]["mac"]
    with heard_by_destination_alone(lab, mac, at_home.address):
        cause, _ = refused(lab, at_home)
    assert re.fullmatch(answers_too_often(mac, at_home.address), cause), cause
    at_home.wait_ready()


def test_ip_address_is_taken_at_the_destination(at_home, lab):
    with heard_by_destination_alone(lab, "02:00:00:00:07:07", at_home.address):
        cause, _ = refused(lab, at_home)
    assert cause == (f"network-address: the virtual machine's address {at_home.address} is taken in the network of port group default "
                     "at host host2: 02:00:00:00:07:07 answers for it")


def test_switch_between_the_hosts_carries_too_small_packets(at_home, lab):
    fabric(lab, "ip", "link", "set", "host2-v", "mtu", "1400")
    try:
        cause, way_out = refused(lab, at_home)
    finally:
        fabric(lab, "ip", "link", "set", "host2-v", "mtu", "1500")
    assert cause == ("network-mtu: the network between the hosts host1 and host2 does not carry packets of 1500 bytes, the MTU of port "
                     "group default: the guest's larger ones would be lost")
    assert "--accept network-mtu" in way_out


def test_both_hosts_get_one_signed_specification(at_home, lab, tmp_path):
    record = at_home.migrate("host2")["handshake"]
    spec = json.loads(record["spec"])
    hosts = {host["name"]: host["uid"] for host in lab.drover_json("host", "list")["items"]}
    assert (spec["source"]["host"], spec["destination"]["host"]) == (hosts["host1"], hosts["host2"])
    assert spec["vm"]["uid"] == at_home.uid() and spec["epoch"] >= 1 and spec["handshake"]["both"]
    # Both worked by these very bytes, and their movers' keys were made for it.
    assert record["agreed"] and record["digest"] == hashlib.sha256(record["spec"].encode()).hexdigest()
    assert record["source_key"] != record["destination_key"]
    assert "PRIVATE" not in json.dumps(record)
    # Anybody can check who signed it, with nothing of ours.
    files = {"spec": record["spec"].encode(), "signature": bytes.fromhex(record["signature"]), "cert.pem": record["certificate"].encode()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    openssl = ["openssl", "x509", "-in", tmp_path / "cert.pem", "-noout", "-pubkey"]
    (tmp_path / "key.pem").write_bytes(subprocess.run(openssl, stdout=subprocess.PIPE, check=True).stdout)
    subprocess.run(["openssl", "verify", "-CAfile", lab.folder / "manager/state/pki/ca.pem", tmp_path / "cert.pem"], check=True)
    subprocess.run(["openssl", "dgst", "-sha256", "-verify", tmp_path / "key.pem", "-signature", tmp_path / "signature", tmp_path / "spec"],
                   check=True)


def test_what_cannot_be_accepted_is_refused(guest, lab):
    done = lab.run_drover("vm", "migrate", guest.name, "--to", "host2", "--accept", "network-segment,memory")
    assert done.returncode == 1 and 'field accept names "memory", which is no check that can be accepted' in done.stderr
