# SPDX-License-Identifier: Apache-2.0
"""Post-copy: a guest that nothing else can move goes on at the destination before its memory is there."""

import json
import re
import stat
import time

import post_copy
import pytest
from fault_matrix import Cell, DeadHost
from labkit.lab import wait_for
from labkit.workload import Workload

LAB = post_copy.LAB
# A side that hears nothing notices it after 30 s, and waits 50 s for another connection.
ENDS_S = 100


@pytest.fixture(scope="module")
def wild_guest(lab):
    made = Workload(lab, "wild").create(host="host1", memory=post_copy.MEMORY, append=post_copy.APPEND)
    yield made
    made.discard()


@pytest.fixture
def wild_vm(wild_guest):
    if wild_guest.power() != "running":
        wild_guest.start("host1")
        wild_guest.wait_ready()
    wild_guest.do(post_copy.TOO_FAST)
    return wild_guest


def other_host(guest):
    return "host2" if guest.host() == "host1" else "host1"


@pytest.fixture
def cell(wild_vm, lab):
    made = Cell(lab, wild_vm, *post_copy.OPTIONS)
    yield made
    post_copy.set_rate(lab, post_copy.LINK_BPS)
    if not made.passed:
        lab.network.cut(made.source, up=True)
        made.clean_up()


def succeed(cell, timeout_s=120):
    ended = cell.guest.wait_task(cell.task, timeout_s)
    assert ended["status"]["state"] == "succeeded", json.dumps(ended["status"], indent=1)
    cell.guest.do(post_copy.QUIET)
    cell.guest.verify()
    cell.passed = True
    return ended["status"]["result"]


def no_qemu(cell):
    return not any(cell.qemus().values())


def test_guest_that_nothing_else_moves_goes_on_at_the_destination(wild_vm, lab):
    session = wild_vm.session(120)
    source, destination = wild_vm.host(), other_host(wild_vm)
    result = wild_vm.migrate(destination, *post_copy.OPTIONS)
    print(json.dumps(result, indent=1))
    assert result["converged_by"] == "post-copy"
    assert [line["step"] for line in result["convergence"]] == ["post-copy"]
    assert result["throttle_percent"] == 0 and result["verified"] is False and result["tunnel"] is False
    assert result["post_copy"]["pages_requested"] > 0 and result["post_copy"]["bytes"] > 3 << 20
    assert result["pause_ms"] < result["total_ms"] / 2
    wild_vm.do(post_copy.QUIET)
    session.close()
    wild_vm.verify()
    assert (wild_vm.host(), wild_vm.power()) == (destination, "running")
    assert lab.find(source, f"qemu:{wild_vm.name}") == []


def test_path_that_is_cut_for_a_while_is_made_again(cell, lab):
    session = cell.guest.session(120)
    post_copy.begin(cell)
    lab.network.cut(cell.destination, network="mgmt")
    time.sleep(18)  # the source takes a connection for lost after 10 s, and then makes it again
    lab.network.cut(cell.destination, up=True, network="mgmt")
    post_copy.set_rate(lab, post_copy.LINK_BPS)
    assert succeed(cell)["reconnects"] > 0
    session.close()


def test_path_that_stays_cut_ends_the_guest_on_both_sides(cell, lab):
    session = cell.guest.session(120)
    post_copy.begin(cell)
    lab.network.cut(cell.destination, network="mgmt")
    wait_for("the destination to end the guest", lambda: not lab.find(cell.destination, f"qemu:{cell.guest.name}"), ENDS_S)
    lab.network.cut(cell.destination, up=True, network="mgmt")
    ended = cell.guest.wait_task(cell.task, 120)
    assert ended["status"]["state"] == "failed" and "post-copy" in json.dumps(ended["status"]["error"])
    wait_for("no QEMU on either side", lambda: no_qemu(cell), 60)
    wait_for("the end to be noticed", lambda: cell.guest.power() == "crashed", 60)
    cell.passed = True
    session.abandon()


def test_source_that_is_confirmed_down_leaves_a_guest_that_can_be_started(cell, lab):
    session = cell.guest.session(120)
    post_copy.begin(cell)
    dead = DeadHost(lab, cell.source)
    dead.die()
    wait_for("the destination to end the guest", lambda: not lab.find(cell.destination, f"qemu:{cell.guest.name}"), ENDS_S)
    dead.confirm()
    session.abandon()
    cell.guest.wait_task(cell.task, 60)
    wait_for("the end to be noticed", lambda: cell.guest.power() == "crashed", 60)
    cell.guest.start(cell.destination)
    wait_for("the guest to run again", lambda: (cell.guest.host(), cell.guest.power()) == (cell.destination, "running"), 60)
    dead.return_()
    assert lab.find(cell.source, f"qemu:{cell.guest.name}") == []
    cell.passed = True


def told(guest, command):
    try:
        guest.tell(command)
    except OSError:
        return False
    return True


def test_guest_that_powers_itself_off_in_post_copy_is_not_lost(cell):
    session = cell.guest.session(120)
    post_copy.begin(cell)
    session.abandon()
    # Where so little of its memory comes, it may be a while until it answers at all.
    wait_for("the guest to be told", lambda: told(cell.guest, "poweroff"), 60)
    ended = cell.guest.wait_task(cell.task, 120)
    assert ended["status"]["state"] == "succeeded", json.dumps(ended["status"], indent=1)
    wait_for("its end to be seen for what it is",
             lambda: (cell.guest.host(), cell.guest.power()) == (cell.destination, "stopped"), 60)
    wait_for("no QEMU on either side", lambda: no_qemu(cell), 60)
    cell.passed = True


def cancel(cell, answer):
    """Returns when the source's agent has been told, and has logged this."""
    log = cell.lab.log_of(cell.source, "agent")
    before = log.read_text(encoding="utf-8").count(answer)
    cell.lab.drover("--no-wait", "task", "cancel", cell.task)
    wait_for("the agent to be told", lambda: log.read_text(encoding="utf-8").count(answer) > before, 30)


@pytest.mark.parametrize("point", ["switching", "handed-off"])
def test_cancel_before_it_has_begun_leaves_the_guest(cell, point):
    session = cell.guest.session(120)
    cell.begin(point)
    cancel(cell, "is to end: the migration was cancelled")
    cell.gate.touch()
    assert cell.guest.wait_task(cell.task, 60)["status"]["state"] == "cancelled"
    wait_for("the guest to run on", lambda: (cell.guest.host(), cell.guest.power()) == (cell.source, "running"), 60)
    cell.guest.do(post_copy.QUIET)
    cell.guest.verify()
    session.close()
    cell.passed = True


@pytest.mark.parametrize("point", ["completed", "loaded", "owner-written"])
def test_nothing_is_cancelled_once_it_has_begun(cell, point):
    session = cell.guest.session(120)
    cell.begin(point)
    cancel(cell, "cannot be cancelled any more")
    cell.gate.touch()
    assert succeed(cell)["converged_by"] == "post-copy"
    session.close()


def test_no_time_limit_counts_once_it_has_begun(wild_vm, lab):
    cell = Cell(lab, wild_vm, *post_copy.OPTIONS, "--give-up", "60s")
    session = wild_vm.session(120)
    began = time.monotonic()
    cell.begin("loaded")
    time.sleep(max(0, began + 62 - time.monotonic()))
    cell.gate.touch()
    assert succeed(cell)["converged_by"] == "post-copy"
    session.close()


def test_destination_that_is_not_allowed_userfaultfd_refuses_before_anything_is_copied(wild_vm, lab):
    """Its QEMU runs under a seccomp filter and without /dev/userfaultfd, as in many containers."""
    source, destination = wild_vm.host(), other_host(wild_vm)
    config = lab.folder_of(destination) / "agent.conf"
    before = config.read_text(encoding="utf-8")
    wrapper = lab.folder_of(destination) / "qemu-without-userfaultfd"
    wrapper.write_text(WITHOUT_USERFAULTFD.format(qemu=re.search(r"^qemu = (.*)$", before, re.M)[1]), encoding="utf-8")
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    config.write_text(re.sub(r"^qemu = .*$", f"qemu = {wrapper}", before, flags=re.M), encoding="utf-8")
    lab.restart(destination, "agent")
    lab.wait_connected()
    try:
        done = lab.run_drover("vm", "migrate", wild_vm.name, "--to", destination, *post_copy.OPTIONS)
        assert done.returncode != 0 and "userfaultfd" in done.stderr, done.stderr
        assert (wild_vm.host(), wild_vm.power()) == (source, "running")
    finally:
        config.write_text(before, encoding="utf-8")
        lab.restart(destination, "agent")
        lab.wait_connected()


WITHOUT_USERFAULTFD = """#!/usr/bin/python3
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER, USERFAULTFD, EPERM = 38, 22, 2, 323, 1
assert libc.unshare(CLONE_NEWNS) == 0 and libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) == 0
assert not os.path.exists("/dev/userfaultfd") or libc.mount(b"/dev/null", b"/dev/userfaultfd", None, MS_BIND, None) == 0
code = [(0x20, 0, 0, 0), (0x15, 0, 1, USERFAULTFD), (0x06, 0, 0, 0x50000 | EPERM), (0x06, 0, 0, 0x7fff0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(program)))
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 and libc.prctl(PR_SET_SECCOMP, MODE_FILTER, filter, 0, 0) == 0
os.execv("{qemu}", ["{qemu}"] + sys.argv[1:])
"""


def test_verify_and_post_copy_exclude_each_other(wild_vm, lab):
    done = lab.run_drover("vm", "migrate", wild_vm.name, "--to", other_host(wild_vm), *post_copy.OPTIONS, "--verify")
    assert done.returncode != 0 and "post-copy" in done.stderr, done.stderr


def test_post_copy_is_the_last_step(wild_vm, lab):
    done = lab.run_drover("vm", "migrate", wild_vm.name, "--to", other_host(wild_vm), "--converge", "post-copy,throttle")
    assert done.returncode != 0 and "last" in done.stderr, done.stderr
