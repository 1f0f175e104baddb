# SPDX-License-Identifier: Apache-2.0
"""The queue of migrations on four hosts: 40 asked for at once, what the record says of costs, order and final pauses; cancel
in each state; a manager that starts again, or is away. Most guests have only firmware (they are many, and idle: the hardest to
hold from stopping by themselves); two have the workload that checks itself."""

import collections
import datetime
import json
import re
import subprocess

import pytest

from labkit.lab import wait_for
from labkit.workload import Workload

LAB = {"hosts": 4}
HOSTS = [f"host{number}" for number in range(1, 5)]
PRIORITIES = ["low", "normal", "high", "critical"]
N_IDLE, N_BUSY = 38, 2
TASK_TIMEOUT_S = 150


def milliseconds(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000


class Idle:
    """A VM with firmware and no more; it never changes anything."""

    def __init__(self, name, home):
        self.name = name
        self.home = home
        self.words = ["vm", "create", name, "--memory", "32M", "--datastore", "shared", "--host", home, "--start"]


@pytest.fixture(scope="module")
def guests(lab):
    """38 firmware guests and 2 workload guests, spread evenly; by name."""
    idle = [Idle(f"idle{number:02}", HOSTS[number % 4]) for number in range(N_IDLE)]
    ended(lab, submit_many(lab, [guest.words for guest in idle]))
    busy = []
    for number, home in enumerate(HOSTS[:N_BUSY]):
        guest = Workload(lab, f"busy{number}")
        guest.create("--datastore", "shared", host=home, memory="96M", disks=(),
                     append="workload.memory=4,mixed workload.dirty=20,1,random")
        guest.home = home
        busy.append(guest)
    return {guest.name: guest for guest in [*idle, *busy]}


def host_of(lab, name):
    return lab.drover_json("vm", "show", name)["status"]["host"]


def submit_many(lab, commands):
    """Gives these commands from one shell on the client, so that they come together; names of their tasks in that order."""
    lines = "\n".join(" ".join([str(lab.program("drover")), "--no-wait", "-o", "json", *words]) for words in commands)
    command, environment = lab.command("client", "sh", "-ec", lines)
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, check=True)
    decoder, rest, names = json.JSONDecoder(), done.stdout.strip(), []
    while rest:
        document, end = decoder.raw_decode(rest)
        rest = rest[end:].strip()
        names.append(document["name"])
    return names


def migrate(lab, guest, to, *options):
    """The name of the task of a migration that was only asked for."""
    return submit_many(lab, [["vm", "migrate", guest.name, "--to", to, *options]])[0]


def task(lab, name):
    return lab.drover_json("task", "show", name)


def state(lab, name):
    return task(lab, name)["status"]["state"]


def ended(lab, names):
    """The documents of all these tasks, when they have ended."""
    left = {}

    def all_ended():
        listed = {item["name"]: item for item in lab.drover_json("task", "list", "--limit", 1000)["items"]}
        left.update({name: listed[name] for name in names})
        return all(document["status"]["finished"] for document in left.values())
    wait_for("the migrations to end", all_ended, TASK_TIMEOUT_S, 0.5)
    return [left[name] for name in names]


def usage_over_time(tasks):
    """For each resource with a cost: (most in use at once, limit), from what the records say was held from start to end."""
    changes = collections.defaultdict(list)
    limits = {}
    for document in tasks:
        status = document["status"]
        if not status["started"]:
            continue
        for cost in status["queue"]["costs"]:
            if cost["resource"].startswith(("host/", "network/", "datastore/")):
                changes[cost["resource"]] += [(milliseconds(status["started"]), cost["units"]),
                                              (milliseconds(status["finished"]), -cost["units"])]
                limits[cost["resource"]] = cost["limit"]
    most = {}
    for resource, list_ in changes.items():
        used = peak = 0
        # What ends in the same millisecond ended first: only that made room for what starts.
        for _, units in sorted(list_):
            used += units
            peak = max(peak, used)
        most[resource] = (peak, limits[resource])
    return most


def pauses_by_link(tasks):
    """For each host: (from, to, task) of each final pause that used its link."""
    pauses = collections.defaultdict(list)
    for document in tasks:
        result = document["status"]["result"]
        record = result["switchover"]
        for host in (result["from"], result["to"]):
            pauses[host].append((record["stopped_unix_ms"], record["resumed_unix_ms"], document["name"]))
    return pauses


def assert_no_overlap(tasks):
    for host, pauses in pauses_by_link(tasks).items():
        pauses.sort()
        for (_, until, first), (begins, _, second) in zip(pauses, pauses[1:]):
            assert until <= begins, f"{host}: the pauses of {first} and {second} overlap by {until - begins:.1f} ms"


def assert_order(tasks):
    """Of two migrations between the same hosts that waited at the same time, the one of higher priority started first, and of
    the same priority the older one."""
    compared = 0
    for first in tasks:
        for second in tasks:
            if (first["status"]["result"]["from"], first["status"]["result"]["to"]) != (
                    second["status"]["result"]["from"], second["status"]["result"]["to"]):
                continue
            rank = [PRIORITIES.index(document["spec"]["priority"]) for document in (first, second)]
            if rank[0] < rank[1] or (rank[0] == rank[1] and first["name"] >= second["name"]):
                continue
            if milliseconds(first["status"]["created"]) > milliseconds(second["status"]["started"]):
                continue  # it came when the other one had started
            compared += 1
            assert milliseconds(first["status"]["started"]) <= milliseconds(second["status"]["started"]), (
                f"{second['name']} ({second['spec']['priority']}) started before {first['name']} ({first['spec']['priority']})")
    return compared


def next_host(host):
    return HOSTS[(HOSTS.index(host) + 1) % len(HOSTS)]


def waits(lab, name):
    """Until a task waits in the queue; what it says."""
    return wait_for(f"task {name} to wait", lambda: (task(lab, name)["status"]["queue"] or {}).get("message"))


def test_forty_migrations_at_once_keep_to_limits_order_and_one_pause_a_link(lab, guests):
    # All that start on one host go to the same one, and all wait before the first begins: what is asked for one by one may be done one by one.
    lab.drover("queue", "drain", "--why", "test")
    targets = {name: next_host(guest.home) for name, guest in guests.items()}
    names = submit_many(lab, [["vm", "migrate", name, "--to", to, "--priority", PRIORITIES[number // 4 % 4]]
                              for number, (name, to) in enumerate(targets.items())])
    assert len(names) == 40
    lab.drover("queue", "resume")
    tasks = ended(lab, names)
    for guest in guests.values():
        guest.home = host_of(lab, guest.name)

    assert [(t["spec"]["object"], t["status"]["error"]) for t in tasks if t["status"]["state"] != "succeeded"] == []
    usage = usage_over_time(tasks)
    assert all(peak <= limit for peak, limit in usage.values()), usage
    assert any(peak == limit for peak, limit in usage.values()), f"nothing was ever full: {usage}"
    assert assert_order(tasks) > 20
    assert {t["status"]["result"]["switchover"]["permit"] for t in tasks} == {"manager"}
    assert_no_overlap(tasks)
    assert {name: guest.home for name, guest in guests.items()} == targets
    for guest in guests.values():
        if isinstance(guest, Workload):
            guest.verify()


def test_cancelled_while_it_waits_in_the_queue(lab, guests):
    guest = guests["idle00"]
    lab.drover("queue", "drain", "--why", "test")
    name = migrate(lab, guest, next_host(guest.home))
    assert "the queue was drained" in waits(lab, name)
    lab.drover("task", "cancel", name)
    (document,) = ended(lab, [name])
    lab.drover("queue", "resume")
    assert document["status"]["state"] == "cancelled" and document["status"]["started"] is None
    assert host_of(lab, guest.name) == guest.home


def test_cancelled_while_it_copies(lab, guests):
    guest = guests["busy0"]
    name = migrate(lab, guest, next_host(guest.home), "--rate-limit", "1mbit")
    guest.wait_phase(name, ["copying"])
    lab.drover("task", "cancel", name)
    (document,) = ended(lab, [name])
    assert document["status"]["state"] == "cancelled"
    assert host_of(lab, guest.name) == guest.home
    guest.verify()


def test_cancelled_after_its_end_it_says_so(lab, guests):
    guest = guests["idle01"]
    name = migrate(lab, guest, next_host(guest.home))
    ended(lab, [name])
    guest.home = next_host(guest.home)
    assert lab.run_drover("task", "cancel", name).returncode == 5


def test_queued_tasks_stay_in_their_order_when_the_manager_starts_again(lab, guests):
    chosen = [guest for guest in guests.values() if guest.home == "host1"][:4]
    lab.drover("queue", "drain")
    names = submit_many(lab, [["vm", "migrate", guest.name, "--to", "host3", "--priority", PRIORITIES[number]]
                              for number, guest in enumerate(chosen)])
    lab.restart("manager", "manager")
    lab.wait_connected()
    queue = lab.drover_json("queue", "show")
    assert queue["state"] == "drained"
    assert [line["task"] for line in queue["waiting"]] == names[::-1]
    lab.drover("queue", "resume")
    # Again while they run: what they hold is in their records.
    wait_for("one of them to run", lambda: any(state(lab, name) != "queued" for name in names), interval_s=0.02)
    lab.restart("manager", "manager")
    lab.wait_connected()
    tasks = ended(lab, names)
    assert {document["status"]["state"] for document in tasks} == {"succeeded"}
    assert_no_overlap(tasks)
    for guest in chosen:
        guest.home = "host3"
        assert host_of(lab, guest.name) == "host3"


def test_metrics_tell_how_long_migrations_waited(lab, guests):
    guest = guests["idle02"]
    ended(lab, [migrate(lab, guest, next_host(guest.home), "--priority", "critical")])
    guest.home = next_host(guest.home)
    command, environment = lab.command("client", "sh", "-ec",
                                       'curl -sS --cacert "$DROVER_CA" -H "Authorization: Bearer $(cat "$DROVER_TOKEN")" "$DROVER_SERVER/metrics"')
    text = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, check=True).stdout
    assert 'drover_queue_length{priority="low"} 0' in text
    assert re.search(r'^drover_queue_wait_seconds_count{priority="critical"} [1-9]', text, re.M)
    assert "drover_queue_drained 0" in text
    assert re.search(r'^drover_switchovers_total{permit="manager"} [1-9]', text, re.M)
