# SPDX-License-Identifier: Apache-2.0
"""The lab itself: what the other tests stand on."""

import subprocess

import pytest
from labkit import network
from labkit.machines import LabError, Machines
from labkit.lab import Lab

from conftest import leftovers


@pytest.fixture
def bare(tmp_path):
    """Machines and cables without any of our programs."""
    lab = Lab(tmp_path)
    yield lab
    lab.machines.destroy()


def connect_hosts(lab, **link):
    lab.machines.create(lab.program("labinit"), ["client", "host1", "host2"])
    lab.network.create_switches()
    lab.network.plug("client", "vm0", network.VMNET, "192.168.77.1/24")
    for number in (1, 2):
        lab.network.plug_link(f"host{number}", "eth0", network.MGMT, f"{network.host_address(number)}/16",
                              lab.folder / "link.log", **link)
        lab.network.plug(f"host{number}", "vm0", network.VMNET)


def round_trip_ms(lab, count=5):
    text = lab.machines.run("host1", "ping", "-q", "-c", str(count), "-i", "0.05", network.host_address(2))
    return float(text.rsplit("= ", 1)[1].split("/")[0])


def test_machines_reach_each_other(bare):
    connect_hosts(bare)
    assert round_trip_ms(bare) < 5


def test_machines_have_their_own_host_name_and_processes(bare):
    connect_hosts(bare)
    assert bare.machines.run("host2", "hostname").strip() == "host2"
    assert "labinit" in bare.machines.run("host2", "ps", "-p", "1", "-o", "args=")


def test_link_delays_by_the_round_trip(bare):
    connect_hosts(bare, rtt_ms=40)
    assert 39 <= round_trip_ms(bare) <= 50


def test_link_loses_frames(bare):
    connect_hosts(bare, loss_percent=30)
    done = subprocess.run([*bare.machines.enter("host1"), "ping", "-q", "-c", "200", "-i", "0.002", "-W", "1",
                           network.host_address(2)], text=True, stdout=subprocess.PIPE, check=False)
    lost = float(done.stdout.split("% packet loss")[0].rsplit(" ", 1)[1])
    # Two passes of two links each with half of the loss: about 48 % of the round trips.
    assert 25 <= lost <= 70


def test_unplugged_machine_is_not_reachable_until_plugged_in(bare):
    connect_hosts(bare)
    bare.network.cut("host2")
    with pytest.raises(LabError):
        bare.machines.run("host1", "ping", "-q", "-c", "1", "-W", "1", network.host_address(2))
    bare.network.cut("host2", up=True)
    bare.machines.run("host1", "ping", "-q", "-c", "3", "-W", "1", network.host_address(2))


def test_switch_sends_to_the_old_port_until_the_mac_speaks_elsewhere(bare):
    """What makes a forgotten announcement visible: a MAC that appears silently behind another port gets nothing."""
    connect_hosts(bare)
    mac, address = "52:54:00:00:00:07", "192.168.77.27"

    def appear(host):
        bare.machines.run(host, "ip", "link", "add", "vm7", "link", "vm0", "address", mac, "type", "macvlan", "mode", "bridge")
        bare.machines.run(host, "ip", "address", "add", f"{address}/24", "dev", "vm7")
        bare.machines.run(host, "sysctl", "-qw", "net.ipv6.conf.vm7.disable_ipv6=1")
        bare.machines.run(host, "ip", "link", "set", "vm7", "up")

    appear("host1")
    bare.machines.run("host1", "arping", "-q", "-c", "1", "-U", "-I", "vm7", address)
    bare.machines.run("client", "ping", "-q", "-c", "1", "-W", "1", address)
    assert bare.network.learned()[mac] == "host1-v"
    bare.machines.run("host1", "ip", "link", "delete", "vm7")
    appear("host2")
    with pytest.raises(LabError):
        bare.machines.run("client", "ping", "-q", "-c", "1", "-W", "1", address)
    bare.machines.run("host2", "arping", "-q", "-c", "1", "-U", "-I", "vm7", address)
    assert bare.network.learned()[mac] == "host2-v"
    bare.machines.run("client", "ping", "-q", "-c", "1", "-W", "1", address)


def test_two_labs_do_not_meet(bare, tmp_path_factory):
    other = Lab(tmp_path_factory.mktemp("other"))
    try:
        connect_hosts(bare)
        connect_hosts(other)
        other.network.cut("host2")
        assert round_trip_ms(bare) < 5
    finally:
        other.machines.destroy()


def test_orphans_end_with_the_lab(tmp_path):
    machines = Machines(tmp_path)
    lab = Lab(tmp_path)
    machines.create(lab.program("labinit"), ["host1"])
    machines.start("host1", tmp_path / "log", "sleep", "1000")
    assert len(machines.processes("host1")) == 1
    machines.destroy()
    assert [word for word in leftovers(tmp_path) if not word.startswith("folder")] == []


@pytest.mark.parametrize("text", ["fast", "1 gbit", "-5", "1gbit/s"])
def test_bad_rate_is_refused(text):
    with pytest.raises(LabError):
        network.parse_rate(text)


def test_exec_names_the_machines_there_are(bare):
    connect_hosts(bare)
    with pytest.raises(LabError, match="host2"):
        bare.machines.pid("host9")
