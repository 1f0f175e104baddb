# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the system tests: real programs, real QEMU, real guests, in a lab of namespaces (dev/lab).

A module that wants another lab than two plain hosts says so: LAB = {"hosts": 3, "link": "1gbit"}, the arguments of Lab.up()."""

import itertools
import os
import pathlib
import shutil
import signal
import sys
import threading

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "dev"))

from labkit.lab import Lab  # noqa: E402 (the path comes first)
from labkit.workload import Workload  # noqa: E402
from fault_matrix import Cell  # noqa: E402

LOGS = REPOSITORY / "out/test/lab"
LABS = pathlib.Path("/run/drover-lab")
# Workers (pytest -n N) are children of the run that hands out the modules.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
RUN = os.getppid() if WORKER else os.getpid()
_numbers = itertools.count()


def pytest_configure():
    # A run that a time limit ends takes its labs down, as one that Ctrl-C ends does. A worker whose tests do not run in its main thread, as it may be on a
    # busy machine, cannot: then the run that hands out the modules does.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_unconfigure():
    """A worker that is ended while it takes its lab down leaves that to us."""
    for folder in [] if WORKER else LABS.glob(f"test-{RUN}-*"):
        Lab(folder).down()


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, default=6, help="migrations back and forth of the busy guest (30 in full)")
    parser.addoption("--fault-rounds", type=int, default=1, help="migrations with each fault of the network (10 in full)")
    parser.addoption("--takeover-migrations", type=int, default=4, help="migrations that run while a standby takes over (10 in full)")
    parser.addoption("--maintenance-vms", type=int, default=4, help="small guests on the host that is emptied (20 in full)")
    parser.addoption("--all-points", action="store_true", help="all cells of the larger fault matrices, not some")
    parser.addoption("--earlier", help="build folder of an earlier version, for test_upgrade.py")
    parser.addoption("--pgbench-rounds", type=int, default=2, help="migrations under pgbench (10 in full)")


def pytest_collection_modifyitems(items):
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="the lab needs root"))


def leftovers(folder):
    """What a lab that is down must not have: processes that mention it, mounts, its folder."""
    words = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                if f"{folder}/" in line or f"{folder}\0" in line:
                    words.append(f"process {entry.name}: {line!r}")
        except OSError:
            continue
    words += [f"mount {line}" for line in pathlib.Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
              if str(folder) in line]
    if pathlib.Path(folder).exists():
        words.append(f"folder {folder}")
    return words


@pytest.fixture(scope="module")
def lab(request):
    folder = LABS / f"test-{RUN}-{WORKER}{next(_numbers)}"
    made = Lab(folder)
    failed_before = request.session.testsfailed
    try:
        made.up(**getattr(request.module, "LAB", {}))
        yield made
        # A manager that a failed test has left dead is not asked.
        if request.session.testsfailed == failed_before:
            check_audit(made, request.module)
    finally:
        if request.session.testsfailed > failed_before or sys.exc_info()[0]:
            keep_logs(made, request.module.__name__)
        made.down()
    assert leftovers(folder) == []


def check_audit(lab, module):
    """The audit log over all that the module did. A module that leaves no manager that can answer says so: AUDIT = False."""
    verdict = lab.verify_audit()
    if verdict is None and not getattr(module, "AUDIT", True):
        return
    assert verdict is not None, "no manager could be asked for its audit log"
    assert verdict["ok"], verdict["message"]
    assert verdict["n_entries"] > 0


def keep_logs(lab, name):
    target = LOGS / name
    shutil.rmtree(target, ignore_errors=True)
    for log in [*lab.folder.rglob("*.log"), *lab.folder.rglob("*.conf")]:
        copy = target / log.relative_to(lab.folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(log, copy)


@pytest.fixture
def vm(lab):
    """Makes VMs with the workload guest: vm("--label", "a=b", name="w1", host="host1", ...), see Workload.create. They go with the test."""
    made = []

    def make(*words, name=None, **options):
        guest = Workload(lab, name or f"vm{next(_numbers)}")
        made.append(guest)
        return guest.create(*words, **{"host": "host1", **options})

    yield make
    for guest in made:
        guest.discard()


@pytest.fixture
def busy_vm(vm):
    """A guest that changes memory of every kind of content, writes to its disk, and is hard at it."""
    return vm(append="workload.memory=64,mixed workload.dirty=5000,32,random workload.disk=100")


@pytest.fixture(scope="module")
def matrix_guest(lab):
    """One guest for all faults of a module: what it went through before makes it only harder."""
    made = Workload(lab, "matrix").create(
        host="host1", append="workload.memory=64,mixed workload.dirty=3000,32,random workload.disk=50")
    yield made
    made.discard()


@pytest.fixture
def cell(lab, matrix_guest):
    """One migration of that guest with a fault in it."""
    if matrix_guest.power() != "running":
        matrix_guest.start("host1")
    made = Cell(lab, matrix_guest)
    yield made
    if not made.passed:
        made.clean_up()
