# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL in a guest under pgbench from the client while it moves: no error, nothing lost, nothing corrupt."""

import re
import shutil
import subprocess

import pytest
from labkit import guest as guests
from labkit.lab import wait_for
from labkit.workload import Workload

LAB = {"hosts": 2, "link": "1gbit", "qemu_versions": {"host1": "10.0", "host2": "10.0"}}
CLIENTS, SCALE = 2, 1
SECONDS_PER_ROUND = 30
POSTGRES = "/usr/lib/postgresql/15/bin"


@pytest.fixture
def database(lab, request):
    folder = lab.folder / "shared/images"
    folder.mkdir(exist_ok=True)
    shutil.copy(guests.build("postgres") / "disk.qcow2", folder / "postgres.qcow2")
    guest = Workload(lab, "postgres")
    request.addfinalizer(guest.discard)
    guest.create(host="host1", memory="512M", image="postgres", disks=("shared:images/postgres.qcow2,format=qcow2",))
    return guest


def client(lab, guest, program, *words, **options):
    command, environment = lab.command("client", f"{POSTGRES}/{program}", "-h", guest.address, "-U", "postgres", *words)
    return subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=True, timeout=300, **options).stdout


def query(lab, guest, sql):
    return client(lab, guest, "psql", "-Atc", sql, "postgres").strip()


def test_pgbench_goes_on_while_the_database_moves(database, lab, request):
    wait_for("PostgreSQL", lambda: is_ready(lab, database), 60)
    client(lab, database, "pgbench", "-i", "-q", "-s", str(SCALE), "postgres")
    query(lab, database, "create extension if not exists amcheck")
    rounds = request.config.getoption("--pgbench-rounds")
    command, environment = lab.command("client", f"{POSTGRES}/pgbench", "-h", database.address, "-U", "postgres", "-n",
                                       "-c", str(CLIENTS), "-T", str(rounds * SECONDS_PER_ROUND), "postgres")
    bench = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for("transactions", lambda: count_transactions(lab, database) > 20, 60)
    for number in range(rounds):
        result = database.migrate("host2" if number % 2 == 0 else "host1", "--verify")
        print(f"{number + 1}: {result['total_ms']} ms, pause {result['pause_ms']:.1f} ms")
        before = count_transactions(lab, database)
        wait_for("transactions after the move", lambda seen=before: count_transactions(lab, database) > seen, 60)
    assert bench.poll() is None, "pgbench ended before the last move: more seconds a round are needed"
    output = bench.communicate(timeout=rounds * SECONDS_PER_ROUND + 60)[0]
    assert bench.returncode == 0 and "error" not in output.lower(), output
    processed = int(re.search(r"transactions actually processed: (\d+)", output)[1])
    assert count_transactions(lab, database) >= processed
    # Each transaction adds one delta to a row in each of three tables and to the history.
    sums = query(lab, database, "select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from "
                 "pgbench_branches), (select sum(tbalance) from pgbench_tellers), (select sum(delta) from pgbench_history)")
    assert len(set(sums.split("|"))) == 1, sums
    client(lab, database, "pg_amcheck", "--heapallindexed", "-d", "postgres")


def count_transactions(lab, guest):
    return int(query(lab, guest, "select count(*) from pgbench_history"))


def is_ready(lab, guest):
    try:
        return query(lab, guest, "select 1") == "1"
    except subprocess.CalledProcessError:
        return False
