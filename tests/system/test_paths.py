# SPDX-License-Identifier: Apache-2.0
"""Hosts with several migration NICs: all are used, and a migration goes on over the others when one fails."""

import time

import pytest

from test_lost_channel import check_arrived, end_one

LAB = {"hosts": 2, "link": "100mbit", "migration_nics": 2}
PATIENCE_S = 60
SIZE = 96 * 2**20
STALL_S = 5  # less than the 10 s that a connection is given


def begin(guest, *options):
    """Takes some seconds: 96 MiB of noise over two cables of 100 Mbit/s. Returns when an eighth has been sent."""
    guest.do("memory 96 random")
    to = "host2" if guest.host() == "host1" else "host1"
    task = guest.begin_migration(to, "--verify", *options)
    assert not guest.wait_sent(task, SIZE / 8)["finished"]
    return task


def check_moved(guest, task, session):
    result = check_arrived(guest, task)
    session.close()
    print(f"total {result['total_ms']} ms, pause {result['pause_ms']} ms, reconnects {result['reconnects']}, "
          f"paths {result['paths']}")
    return result


def by_device(result):
    return {path["device"]: path for path in result["paths"]}


def test_all_nics_are_used(busy_vm):
    session = busy_vm.session(patience_s=PATIENCE_S)
    result = check_moved(busy_vm, begin(busy_vm), session)
    paths = by_device(result)
    assert set(paths) == {"eth1", "eth2"}
    assert all(path["mtu"] == 1500 and path["mtu_probed"] and path["up"] for path in paths.values())
    sent = [path["bytes"] for path in paths.values()]
    assert min(sent) > 0.5 * max(sent)
    assert result["channels"] == 4 and all(path["lost"] == 0 for path in paths.values())


@pytest.mark.parametrize("victim", ["host1", "host2"])
def test_migration_goes_on_over_the_other_nic(busy_vm, lab, victim):
    session = busy_vm.session(patience_s=PATIENCE_S)
    task = begin(busy_vm)
    lab.network.cut(victim, network="mig2")
    try:
        result = check_moved(busy_vm, task, session)
    finally:
        lab.network.cut(victim, up=True, network="mig2")
    paths = by_device(result)
    assert paths["eth1"]["channels"] == 4 and paths["eth1"]["lost"] == 0
    assert not paths["eth2"]["up"] and paths["eth2"]["lost"] == 2


def test_nic_that_works_again_is_used_again(busy_vm, lab):
    session = busy_vm.session(patience_s=PATIENCE_S)
    task = begin(busy_vm, "--rate-limit", "100mbit")
    lab.network.cut("host2", network="mig1")
    busy_vm.wait_replaced(task, 2)
    lab.network.cut("host2", up=True, network="mig1")
    result = check_moved(busy_vm, task, session)
    assert all(path["channels"] > 0 for path in result["paths"])
    assert all(path["up"] for path in result["paths"])


def test_nic_that_is_down_from_the_beginning_is_left_out(busy_vm, lab):
    session = busy_vm.session(patience_s=PATIENCE_S)
    lab.network.cut("host2", network="mig2")
    try:
        result = check_moved(busy_vm, begin(busy_vm), session)
    finally:
        lab.network.cut("host2", up=True, network="mig2")
    assert by_device(result)["eth1"]["channels"] == 4


def end_a_connection(lab, guest):
    end_one(lab, guest.host())


def cut_a_nic(lab, _guest):
    """It stays cut until the guest has arrived."""
    lab.network.cut("host2", network="mig2")


def stall_all(lab, _guest):
    for network in ("mig1", "mig2"):
        lab.network.cut("host1", network=network)
    time.sleep(STALL_S)
    heal(lab)


def heal(lab):
    for host in lab.hosts:
        for network in ("mig1", "mig2"):
            lab.network.cut(host, up=True, network=network)


@pytest.mark.parametrize("fault", [end_a_connection, cut_a_nic, stall_all])
def test_faults_in_turn(busy_vm, lab, fault, request):
    """--fault-rounds 10 is the full series. Begun at different moments of the copy."""
    session = busy_vm.session(patience_s=PATIENCE_S)
    rounds = request.config.getoption("--fault-rounds")
    for number in range(rounds):
        task = begin(busy_vm)
        busy_vm.wait_sent(task, SIZE * (1 + 5 * number / rounds) / 8)
        fault(lab, busy_vm)
        result = check_arrived(busy_vm, task)
        heal(lab)
        print(f"{fault.__name__} {number + 1}: total {result['total_ms']} ms, pause {result['pause_ms']:.1f} ms, reconnects "
              f"{result['reconnects']}, memory {'equal' if result['verified'] else 'not compared'}")
    session.close()


@pytest.fixture
def jumbo(lab):
    """Interfaces of 9000 bytes; the switches' ports as asked for."""
    def set_up(size):
        for host in lab.hosts:
            for nic in ("1", "2"):
                lab.machines.run("fabric", "ip", "link", "set", f"{host}-{nic}", "mtu", str(size))
                lab.machines.run(host, "ip", "link", "set", f"eth{nic}", "mtu", "9000")
    yield set_up
    for host in lab.hosts:
        for nic in ("1", "2"):
            lab.machines.run("fabric", "ip", "link", "set", f"{host}-{nic}", "mtu", "1500")
            lab.machines.run(host, "ip", "link", "set", f"eth{nic}", "mtu", "1500")


def test_switch_that_drops_jumbo_frames_is_noticed(busy_vm, lab, jumbo):
    """It drops them without a word: a connection that trusts its interface stands still at its first large packet."""
    jumbo(1500)
    session = busy_vm.session(patience_s=PATIENCE_S)
    where = busy_vm.host()
    result = check_moved(busy_vm, begin(busy_vm), session)
    assert [path["mtu"] for path in result["paths"]] == [1500, 1500]
    assert all(path["lost"] == 0 for path in result["paths"])
    assert "only 1500 reach" in lab.log_of(where, "agent").read_text(encoding="utf-8")


def test_jumbo_frames_that_pass_are_used(busy_vm, jumbo):
    jumbo(9000)
    session = busy_vm.session(patience_s=PATIENCE_S)
    result = check_moved(busy_vm, begin(busy_vm), session)
    assert [(path["mtu"], path["mtu_probed"]) for path in result["paths"]] == [(9000, True)] * 2
