# SPDX-License-Identifier: Apache-2.0
"""Who may do what, with real hosts and a guest: a user's pool, their tokens, and what of it the audit log tells. And what the API says
meanwhile: its description against real documents, its metrics against promtool."""

import hashlib
import json
import re
import subprocess

import pytest
from labkit import promtool
from labkit.lab import REPOSITORY, wait_for
from labkit.openapi import Api, routes

LAB = {"hosts": 3}
OPENAPI = json.loads((REPOSITORY / "docs/openapi.json").read_text(encoding="utf-8"))
CONTRIB = REPOSITORY / "contrib"
PASSWORD = "correct horse battery"


class User:
    """Somebody with a password, whose commands have a home and no token."""

    def __init__(self, lab, name, *grant):
        self.lab, self.name = lab, name
        self.home = lab.folder / f"home-{name}"
        self.home.mkdir()
        self.password = self.home / "password"
        self.password.write_text(PASSWORD + "\n", encoding="ascii")
        lab.drover("user", "create", name, *grant)
        lab.drover("user", "password", name, "--password-file", self.password)
        assert self.run("login", name, "--password-file", self.password).returncode == 0

    def run(self, *words):
        command, environment = self.lab.command("client", self.lab.program("drover"), *words)
        environment = {**environment, "XDG_CONFIG_HOME": str(self.home), "DROVER_TOKEN": ""}
        return subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)

    def json(self, *words):
        done = self.run("-o", "json", *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def denied(self, *words):
        done = self.run(*words)
        return done.returncode == 4 and "may not" not in done.stdout and "permission" in done.stderr


@pytest.fixture(scope="module")
def pools(lab):
    for host, pool in (("host1", "east"), ("host2", "east"), ("host3", "west")):
        lab.drover("host", "label", host, "--set", f"pool={pool}")
    return lab


@pytest.fixture(scope="module")
def bob(pools):
    return User(pools, "bob", "--role", "vm-admin", "--pool", "east")


@pytest.fixture
def east(pools, vm):
    return vm("--label", "pool=east", name="east")


@pytest.fixture
def west(pools, vm):
    return vm("--label", "pool=west", name="west", host="host3", start=False)


@pytest.fixture(scope="module")
def api(pools):
    environment = pools.environment(inside=False)
    token = (pools.folder_of("manager") / "token").read_text(encoding="ascii").strip()
    return Api(OPENAPI, environment["DROVER_SERVER"], token, environment["DROVER_CA"])


def test_user_moves_a_guest_within_the_pool_and_does_nothing_else(pools, api, bob, east, west):
    session = east.session()
    assert [vm["name"] for vm in bob.json("vm", "list")["items"]] == ["east"]
    assert {host["name"] for host in bob.json("host", "list")["items"]} == {"host1", "host2"}
    assert bob.denied("vm", "migrate", "east", "--to", "host3")
    assert bob.denied("vm", "migrate", "east")
    assert bob.denied("vm", "start", "west")
    assert bob.denied("vm", "delete", "west")
    assert bob.denied("host", "label", "host3", "--set", "pool=east")
    assert bob.denied("queue", "drain")
    assert bob.denied("user", "grant", "bob", "admin")
    assert bob.run("vm", "migrate", "east", "--to", "host2").returncode == 0
    assert east.host() == "host2"
    session.close()
    east.verify()
    task = pools.drover_json("task", "list", "--object", "vm/east", "--action", "vm.migrate")["items"][0]
    assert task["spec"]["by"] == "bob"
    by_bob = pools.drover_json("audit", "list", "--who", "bob", "--result", "denied")["items"]
    assert len(by_bob) == 7
    # What the API says of a guest that has moved is what is described.
    api.validate(task, "Task")
    api.validate(pools.drover_json("host", "show", "host2"), "Host")


def ended(api, method, route, body=None, **parts):
    """The task's end of a call that makes one."""
    status, task = api.call(method, route, body, **parts)
    assert status == 202, task
    return api.finish(task)["status"]["state"]


def test_each_route_about_guests_answers_as_described(pools, api, east):
    """With the unit test manager-openapi, which has all that needs none, each route of the description."""
    name = {"name": "east"}
    one = "/api/v1/vms/{name}"
    assert api.call("GET", one, **name)[1]["spec"]["labels"] == {"pool": "east"}
    assert api.call("GET", one + "/advice?limit=2", **name)[1]["n_hosts"] == 2
    assert api.call("GET", one + "/console?tail=100", **name)[0] == 200
    assert api.call("POST", one + "/forecast", {}, **name)[0] == 200
    assert api.call("POST", one + "/migrate", {"to": "host2", "check": True}, **name)[1]["to"] == "host2"
    api.call("POST", "/api/v1/queue/drain")
    for action, body in (("migrate", {"to": "host2"}), ("migrate-disks", {"to_datastore": "local"})):
        status, task = api.call("POST", f"{one}/{action}", body, **name)
        assert status == 202
        assert api.call("POST", "/api/v1/tasks/{name}/cancel", name=task["name"])[0] == 202
        assert api.finish(task)["status"]["state"] == "cancelled"
    api.call("POST", "/api/v1/queue/resume")
    for action in ("pause", "resume", "suspend", "resume"):
        assert ended(api, "POST", f"{one}/{action}", {}, **name) == "succeeded"
    assert ended(api, "POST", one + "/stop", {"force": True}, **name) == "succeeded"
    assert ended(api, "POST", one + "/start", {"host": "host1"}, **name) == "succeeded"
    assert ended(api, "POST", one + "/stop", {"force": True}, **name) == "succeeded"
    spec = {"memory_bytes": 64 << 20, "datastore": "shared", "nics": [{"port_group": "default"}]}
    assert ended(api, "POST", "/api/v1/vms", {"name": "bare", "spec": spec}) == "succeeded"
    image = {"datastore": "shared", "path": "exports/east.vmdk"}
    assert ended(api, "POST", one + "/export-disk", {"disk": "disk0", **image}, **name) == "succeeded"
    assert ended(api, "POST", one + "/import-disk", image, name="bare") == "succeeded"
    assert ended(api, "POST", one + "/export", {"datastore": "shared", "path": "exports/bare.ova"}, name="bare") == "succeeded"
    assert api.call("GET", one + "/disk-advice", name="bare")[1]["disks"]
    larger = {"size_bytes": 1 << 30}
    assert ended(api, "POST", one + "/disks/{disk}/resize", larger, name="bare", disk="disk0") == "succeeded"
    kept = {"name": "bare", "snapshot": "before"}
    assert ended(api, "POST", one + "/snapshots", {"snapshot": "before"}, name="bare") == "succeeded"
    assert len(api.call("GET", one + "/snapshots", name="bare")[1]["items"]) == 1
    assert api.call("GET", one + "/snapshots/{snapshot}", **kept)[1]["state"] == "ready"
    assert ended(api, "POST", one + "/snapshots/{snapshot}/revert", {}, **kept) == "succeeded"
    assert ended(api, "DELETE", one + "/snapshots/{snapshot}", **kept) == "succeeded"
    rule = {"type": "run-on", "vms": ["bare"], "hosts": ["host1"]}
    assert api.call("POST", "/api/v1/affinity-rules", {"name": "r", "spec": rule})[0] == 201
    assert api.call("GET", "/api/v1/affinity-rules/{name}", name="r")[0] == 200
    assert api.call("PUT", "/api/v1/affinity-rules/{name}", {"spec": {**rule, "mode": "should"}}, name="r")[0] == 200
    assert api.call("DELETE", "/api/v1/affinity-rules/{name}", name="r")[0] == 204
    assert ended(api, "DELETE", one, name="bare") == "succeeded"
    pools.kill("host3", "agent")
    wait_for("host3 to be unreachable", lambda: api.call("POST", "/api/v1/hosts/{name}/confirm-down", name="host3")[0] == 200, 30, 0.5)
    pools.restart("host3", "agent")
    guests = {route for route in routes(OPENAPI) if "/vms/{name}" in route[1] or "/affinity-rules/" in route[1]}
    assert guests <= api.validated, guests - api.validated


def test_token_ends_with_its_user(pools):
    eve = User(pools, "eve", "--role", "read-only")
    pools.drover("user", "grant", "eve", "vm-user")
    secret = eve.run("token", "create", "ci", "--role", "vm-user", "--expires", "1").stdout.strip()
    token = pools.folder / "ci.token"
    token.write_text(secret + "\n", encoding="ascii")
    assert pools.run_drover("--token", token, "vm", "list").returncode == 0
    assert pools.run_drover("--token", token, "datastore", "list").returncode == 4
    pools.drover("user", "disable", "eve")
    assert pools.run_drover("--token", token, "vm", "list").returncode == 4
    assert eve.run("vm", "list").returncode == 4
    pools.drover("user", "enable", "eve")
    assert pools.run_drover("--token", token, "vm", "list").returncode == 0
    pools.drover("user", "delete", "eve")
    pools.drover("user", "create", "eve", "--role", "admin")
    assert pools.run_drover("--token", token, "vm", "list").returncode == 4


def test_guessing_is_slowed_down(pools, bob):
    mallory = pools.folder / "guess"
    mallory.write_text("password123\n", encoding="ascii")
    answers = [pools.run_drover("login", "bob", "--password-file", mallory).stderr for _ in range(12)]
    assert any("too many attempts" in answer for answer in answers)
    assert bob.run("vm", "list").returncode == 0  # who is in stays in


def test_restarted_manager_knows_sessions_and_keys(pools, bob):
    body = pools.folder / "role.json"
    body.write_text(json.dumps({"name": "made-once", "spec": {"permissions": ["vm.read"]}}), encoding="ascii")
    made = pools.drover("api", "POST", "/roles", "--data", body, "--key", "k-1")
    pools.restart("manager", "manager")
    wait_for("the manager", lambda: pools.run_drover("vm", "list").returncode == 0, 30)
    assert bob.run("vm", "list").returncode == 0
    assert json.loads(pools.drover("api", "POST", "/roles", "--data", body, "--key", "k-1")) == json.loads(made)
    assert pools.run_drover("api", "POST", "/roles", "--data", body, "--key", "k-2").returncode == 5
    assert sum(item["name"] == "made-once" for item in pools.drover_json("role", "list")["items"]) == 1


def test_exported_audit_log_checks_without_the_manager(pools, api):
    previous = None
    for line in pools.drover("audit", "export").splitlines():
        entry = json.loads(line)
        text = line.replace(f'"hash":"{entry["hash"]}",', "", 1)
        assert hashlib.sha256(text.encode()).hexdigest() == entry["hash"]
        assert previous in (None, entry["prev"])
        previous = entry["hash"]
        api.validate(entry, "AuditEntry")


def test_metrics_please_promtool_and_what_contrib_asks_for_is_there(pools):
    text = pools.drover("api", "GET", "/metrics")
    checked = subprocess.run([promtool.path(), "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    names = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    # Base units, and labels that do not grow with the cluster.
    assert all(not re.search(r"_(ms|milliseconds|kib|mib|minutes)(_|$)", name) for name in names)
    assert set(re.findall(r'[{,](\w+)="', text)) <= {"datastore", "version", "state", "power", "result", "priority", "permit", "le"}
    for file in (CONTRIB / "grafana/drover.json", CONTRIB / "prometheus/drover.rules.yml"):
        used = set(re.findall(r"\b((?:drover|process)_\w+?)(?:_bucket|_count|_sum)?\b(?=[\[{ )\"]|$)", file.read_text(encoding="utf-8"), re.M))
        assert used and used <= names, used - names


def test_example_alerts_pass_their_tests():
    rules = CONTRIB / "prometheus"
    subprocess.run([promtool.path(), "check", "rules", rules / "drover.rules.yml"], check=True, capture_output=True)
    tested = subprocess.run([promtool.path(), "test", "rules", "drover.rules.test.yml"], cwd=rules, text=True, capture_output=True, check=False)
    assert tested.returncode == 0, tested.stdout
