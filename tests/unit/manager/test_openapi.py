#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""docs/openapi.json against the running drover-manager: each route is described, each description has a route, and what
the program answers is valid against the schemas. Usage: test_openapi.py DROVER-MANAGER OPENAPI.JSON API_ROUTES.H ACCESS.H"""

import contextlib
import hashlib
import json
import pathlib
import re
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

import jsonschema

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "dev"))
from labkit.openapi import Api  # noqa: E402 (the path comes first)

manager, openapi_file, routes_file, access_file = sys.argv[1:5]
openapi = json.loads(pathlib.Path(openapi_file).read_text(encoding="utf-8"))


def described():
    return {(method.upper(), path) for path, item in openapi["paths"].items() for method in item if method != "parameters"}


def routed():
    """{(method, path): (permission or None, scope)} of the table."""
    text = pathlib.Path(routes_file).read_text(encoding="utf-8").replace('V1 "', '"/api/v1')
    permissions = dict(re.findall(r'X\((\w+), "([a-z.]+)",', pathlib.Path(access_file).read_text(encoding="utf-8")))
    rows = re.findall(r'X\("([A-Z]+)", "([^"]+)", \w+, (\w+), (\w+)\)', text)
    return {(method, path): (permissions.get(permission), scope.lower().replace("_", "-")) for method, path, permission, scope in rows}


def operations():
    return {(method.upper(), path): operation for path, item in openapi["paths"].items()
            for method, operation in item.items() if method != "parameters"}


class Routes(unittest.TestCase):
    def test_each_route_is_described_and_each_description_has_a_route(self):
        self.assertEqual(described(), set(routed()))

    def test_each_operation_says_what_it_needs(self):
        for route, operation in operations().items():
            with self.subTest(route=route):
                self.assertEqual((operation["x-permission"], operation["x-scope"]), routed()[route])
                self.assertEqual(operation.get("security") == [], operation["x-scope"] == "public")

    def test_each_reference_leads_somewhere(self):
        for reference in set(re.findall(r'"#/([^"]+)"', json.dumps(openapi))):
            node = openapi
            for part in reference.split("/"):
                self.assertIn(part, node, reference)
                node = node[part]

    def test_what_is_sent_and_answered_has_examples_that_are_valid(self):
        for route, operation in operations().items():
            bodies = [operation.get("requestBody", {}), *(r for status, r in operation["responses"].items() if status != "default")]
            for content in (c for body in bodies for c in body.get("content", {}).values()):
                name = content["schema"].get("$ref", "").rsplit("/", 1)[-1]
                # A list's items have their own.
                if not name or name.endswith("List"):
                    continue
                with self.subTest(route=route, schema=name):
                    self.assertTrue(openapi["components"]["schemas"][name].get("examples"))
        for name, schema in openapi["components"]["schemas"].items():
            for example in schema.get("examples", []):
                with self.subTest(schema=name):
                    jsonschema.Draft202012Validator(
                        {"components": openapi["components"], "$ref": f"#/components/schemas/{name}"}).validate(example)

    def test_schemas_are_valid_schemas(self):
        for schema in openapi["components"]["schemas"].values():
            jsonschema.Draft202012Validator.check_schema(schema)


class WithManager(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="drover-test-")
        state = cls.folder.name + "/state"
        token = cls.folder.name + "/token"
        base = [manager, "--config", "/dev/null", "--state-dir", state, "--listen", "127.0.0.1:0"]
        subprocess.run(base + ["--address", "127.0.0.1", "--token-file", token, "init"], check=True)
        cls.process = subprocess.Popen(base, stderr=subprocess.PIPE, text=True)
        port = re.search(r":(\d+)$", cls.process.stderr.readline().strip()).group(1)
        secret = pathlib.Path(token).read_text(encoding="ascii").strip()
        cls.port, cls.database = int(port), state + "/manager.db"
        cls.api = Api(openapi, f"https://127.0.0.1:{port}", secret, state + "/pki/ca.pem")

    @classmethod
    def tearDownClass(cls):
        cls.process.terminate()
        assert cls.process.wait(10) == 0
        cls.process.stderr.close()
        cls.folder.cleanup()

    def open(self, *words, **options):
        return self.api.open(*words, **options)

    def call(self, *words, **options):
        return self.api.call(*words, **options)

    def finish(self, task):
        return self.api.finish(task)


class SlowReaders(WithManager):
    ENTRIES = 400

    def begin_export(self, secret):
        """Asks for an export and reads no more of it than its head."""
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", self.port))
        stream = ssl.create_default_context(cafile=self.folder.name + "/state/pki/ca.pem").wrap_socket(plain, server_hostname="127.0.0.1")
        self.addCleanup(stream.close)
        stream.sendall(f"GET /api/v1/audit/export HTTP/1.0\r\nAuthorization: Bearer {secret}\r\n\r\n".encode())
        self.assertEqual(stream.recv(12), b"HTTP/1.1 200")
        return stream

    def test_slow_readers_of_the_audit_log_do_not_keep_others_out(self):
        secrets = [self.call("POST", "/api/v1/tokens", {"name": f"reader{n}", "role": "admin"})[1]["secret"] for n in range(2)]
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as database, database:
            # Far more than is on its way to a reader.
            database.executemany("INSERT INTO object VALUES ('audit', ?1, ?1, 1, ?2)",
                                 [(f"z{n}", json.dumps({"name": f"z{n}", "text": "x" * 20000})) for n in range(self.ENTRIES)])
        readers = [self.begin_export(secret) for secret in secrets for _ in range(4)]
        for _ in range(600):
            try:
                self.open("GET", "/api/v1/audit/export").close()
                break
            except urllib.error.HTTPError as refusal:
                self.assertEqual(refusal.code, 429)
                refusal.close()
                time.sleep(0.05)
        else:
            self.fail("slow readers have kept all places for 30 s")
        # They have lost nothing by it.
        readers[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        received = b"".join(iter(lambda: readers[0].recv(65536), b""))
        self.assertEqual(received.count(b'"name":"z'), self.ENTRIES)


class Answers(WithManager):
    def test_every_get_without_a_name(self):
        for method, path in sorted(described()):
            if method == "GET" and "{" not in path and path != "/api/v1/events":
                with self.subTest(path=path):
                    # A token is no session.
                    self.assertEqual(self.call(method, path)[0], 404 if path == "/api/v1/session" else 200)

    def test_every_path_with_an_unknown_name_is_a_problem(self):
        for method, path in sorted(described()):
            if "{name}" in path:
                with self.subTest(method=method, path=path):
                    status, problem = self.call(method, path, name="nobody", disk="disk9", snapshot="none")
                    self.assertEqual((status, problem["code"]), (404, "not-found"))

    def test_host(self):
        status, answer = self.call("POST", "/api/v1/hosts", {"name": "h1", "address": "127.0.0.1:9"})
        self.assertEqual(status, 201)
        self.assertRegex(answer["enrol_token"], r"^drv1\.[0-9a-f]{64}\.[0-9a-f]{64}$")
        self.call("GET", "/api/v1/hosts/{name}", name="h1")
        self.assertEqual(self.call("POST", "/api/v1/hosts/{name}/enrol-token", name="h1")[0], 201)
        status, problem = self.call("POST", "/api/v1/hosts/{name}/confirm-down", name="h1")
        self.assertEqual((status, problem["code"], problem["object"]), (409, "conflict", "host/h1"))
        status, host = self.call("PUT", "/api/v1/hosts/{name}", {"spec": {"address": "127.0.0.2"}}, name="h1")
        self.assertEqual((status, host["spec"]["address"]), (200, "127.0.0.2:8444"))
        self.assertEqual(self.call("GET", "/api/v1/hosts")[1]["items"][0]["name"], "h1")
        status, task = self.call("DELETE", "/api/v1/hosts/{name}", name="h1")
        self.assertEqual((status, self.finish(task)["status"]["state"]), (202, "succeeded"))

    def test_host_by_name_only_is_refused_with_a_way_out(self):
        status, problem = self.call("POST", "/api/v1/hosts", {"name": "h2", "address": "no.such.example"})
        self.assertEqual(status // 100, 4)
        self.assertTrue(problem["detail"])

    def test_network(self):
        _, task = self.call("POST", "/api/v1/switches", {"name": "sw", "spec": {"uplink": "eth1", "uplinks": {"h1": None}}})
        self.assertEqual(self.finish(task)["status"]["state"], "succeeded")
        _, task = self.call("POST", "/api/v1/port-groups", {"name": "pg", "spec": {"switch": "sw", "vlan": 7}})
        self.finish(task)
        self.assertEqual(self.call("DELETE", "/api/v1/switches/{name}", name="sw")[0], 409)
        self.assertEqual(self.call("PUT", "/api/v1/switches/{name}", {"spec": {"mtu": 9000}}, name="sw")[0], 202)
        self.call("GET", "/api/v1/switches/{name}", name="sw")
        self.call("GET", "/api/v1/port-groups/{name}", name="pg")
        _, task = self.call("PUT", "/api/v1/port-groups/{name}", {"spec": {"switch": "sw", "vlan": 8}}, name="pg")
        self.finish(task)
        for route, name in (("/api/v1/port-groups/{name}", "pg"), ("/api/v1/switches/{name}", "sw")):
            _, task = self.call("DELETE", route, name=name)
            self.assertEqual(self.finish(task)["status"]["state"], "succeeded")

    def test_queue_and_cluster(self):
        self.assertTrue(self.call("POST", "/api/v1/queue/drain")[1]["drained"])
        self.assertFalse(self.call("POST", "/api/v1/queue/resume")[1]["drained"])
        self.assertEqual(self.call("PUT", "/api/v1/cluster/cpu", {"spec": {"policy": "none"}})[0], 200)

    def test_enrolment(self):
        token = self.call("POST", "/api/v1/hosts", {"name": "h3", "address": "127.0.0.3"})[1]["enrol_token"]
        csr = subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null",
                              "-subj", "/CN=h3"], check=True, text=True, capture_output=True).stdout
        self.assertEqual(self.call("POST", "/api/v1/enrol", {"token": token, "csr": csr})[0], 200)
        self.assertEqual(self.call("POST", "/api/v1/enrol", {"token": token, "csr": csr})[0], 403)

    def test_distributed_switch(self):
        spec = {"type": "distributed", "uplink": "eth1,eth2", "uplink_policy": "lacp", "mtu": 1500}
        _, task = self.call("POST", "/api/v1/switches", {"name": "ds1", "spec": spec})
        self.assertEqual(self.finish(task)["status"]["state"], "succeeded")
        _, task = self.call("PUT", "/api/v1/switches/{name}", {"spec": spec | {"mtu": 9000}}, name="ds1")
        self.finish(task)
        switch = self.call("GET", "/api/v1/switches/{name}", name="ds1")[1]
        self.assertEqual(switch["status"]["version"], 2)
        self.assertEqual([version["mtu"] for _, version in sorted(switch["status"]["versions"].items())], [1500, 9000])
        _, task = self.call("PUT", "/api/v1/switches/{name}", {"spec": spec | {"mtu": 9000}}, name="ds1")
        self.finish(task)
        self.assertEqual(self.call("GET", "/api/v1/switches/{name}", name="ds1")[1]["status"]["version"], 2)
        status, task = self.call("POST", "/api/v1/switches/{name}/upgrade", {"version": 1}, name="ds1")
        self.assertEqual((status, self.finish(task)["status"]["state"]), (202, "succeeded"))
        status, problem = self.call("POST", "/api/v1/switches/{name}/upgrade", {"version": 9}, name="ds1")
        self.assertEqual((status, problem["detail"]), (404, "the switch ds1 has no version 9"))
        status, problem = self.call("POST", "/api/v1/switches/{name}/upgrade", {"host": "nobody"}, name="ds1")
        self.assertEqual((status, problem["detail"]), (404, "there is no host nobody"))
        self.assertEqual(self.call("PUT", "/api/v1/switches/{name}", {"spec": {"mtu": 9000}}, name="ds1")[0], 409)
        for wrong in ({"uplink_policy": "all"}, {"uplink": "a," * 9}, {"bridge": "own"}, {"colour": "red"}, {"hosts": ["/"]}):
            self.assertEqual(self.call("POST", "/api/v1/switches", {"name": "ds2", "spec": spec | wrong})[0], 422, wrong)
        self.assertEqual(self.call("POST", "/api/v1/switches", {"name": "s2", "spec": {"type": "magic"}})[0], 422)
        _, task = self.call("DELETE", "/api/v1/switches/{name}", name="ds1")
        self.assertEqual(self.finish(task)["status"]["state"], "succeeded")

    def test_datastore(self):
        _, task = self.call("POST", "/api/v1/datastores", {"name": "ds", "spec": {"path": "/srv/ds"}})
        self.finish(task)
        self.assertTrue(self.call("GET", "/api/v1/datastores/{name}", name="ds")[1]["spec"]["shared"])
        _, task = self.call("PUT", "/api/v1/datastores/{name}", {"spec": {"path": "/srv/other", "overcommit": 1.5}}, name="ds")
        self.finish(task)
        with self.open("GET", "/metrics") as answer:
            metrics = answer.read()
        self.assertIn(b'drover_datastore_provisioned_bytes{datastore="ds"} 0\n', metrics)
        self.assertIn(b'drover_datastore_overcommit_limit_ratio{datastore="ds"} 1.5\n', metrics)
        route = "/api/v1/datastores/{name}/maintenance"
        self.assertEqual(self.call("POST", route, {"on": False}, name="ds")[1]["code"], "conflict")
        self.assertEqual(self.call("POST", route, {"on": True, "dry_run": True}, name="ds")[1], {"dry_run": True, "vms": []})
        for odd in ({}, {"on": 1}, {"on": True, "tries": 0}, {"on": True, "policy": [{"step": "stop"}]}, {"on": True, "wait_ms": -1}):
            self.assertEqual(self.call("POST", route, odd, name="ds")[0], 422)
        _, task = self.call("POST", route, {"on": True}, name="ds")
        self.assertEqual(self.finish(task)["status"]["result"]["vms"], [])
        self.assertEqual(self.call("GET", "/api/v1/datastores/{name}", name="ds")[1]["status"]["maintenance"]["state"], "on")
        self.assertEqual(self.finish(self.call("POST", route, {"on": False}, name="ds")[1])["status"]["state"], "succeeded")
        _, task = self.call("DELETE", "/api/v1/datastores/{name}", name="ds")
        self.assertEqual(self.finish(task)["status"]["state"], "succeeded")
        self.assertEqual(self.call("POST", "/api/v1/datastores", {"name": "x", "spec": {"path": "../etc"}})[0], 422)

    def test_vm_without_a_host_fails_with_the_reason(self):
        body = {"name": "v1", "spec": {"memory_bytes": 1 << 28, "datastore": "none", "nics": [{"port_group": "pg"}]}}
        status, task = self.call("POST", "/api/v1/vms", body)
        self.assertEqual(status, 202)
        self.assertEqual(self.finish(task)["status"]["error"]["code"], "no-resources")

    def test_import_without_a_host_fails_with_the_reason(self):
        body = {"name": "v2", "datastore": "none", "path": "incoming/web.ova", "net_map": {"VM Network": ""}}
        status, task = self.call("POST", "/api/v1/vm-imports", body)
        self.assertEqual(status, 202)
        self.assertIn(self.finish(task)["status"]["error"]["code"], ("no-resources", "unreachable"))
        for field, value in (("path", "../web.ova"), ("path", "/web.ova"), ("bus", "usb"), ("net_map", {"VM Network": "nowhere"})):
            with self.subTest(field=field, value=value):
                self.assertIn(self.call("POST", "/api/v1/vm-imports", {**body, field: value})[0], (404, 422))

    def test_affinity_rule_about_nobody_is_refused(self):
        rule = {"name": "odd", "spec": {"type": "run-on", "vms": ["nobody"], "hosts": ["h9"]}}
        status, problem = self.call("POST", "/api/v1/affinity-rules", rule)
        self.assertEqual((status, problem["detail"]), (422, "there is no virtual machine nobody"))

    def test_pool(self):
        route, name = "/api/v1/pools/{name}", {"name": "sales"}
        spec = {"limits": {"cpus": 8, "memory_bytes": 1 << 34}}
        status, pool = self.call("POST", "/api/v1/pools", {"name": "sales", "spec": spec})
        self.assertEqual((status, pool["spec"], pool["status"]["used"]), (201, spec, {"cpus": 0, "memory_bytes": 0, "vms": 0}))
        self.assertEqual(self.call("POST", "/api/v1/pools", {"name": "sales", "spec": {}})[0], 409)
        self.assertEqual(self.call("GET", route, **name), (200, pool))
        self.assertEqual(self.call("GET", "/api/v1/pools")[1]["items"], [pool])
        status, pool = self.call("PUT", route, {"spec": {"limits": {"vms": 3, "cpus": None}}}, **name)
        self.assertEqual((status, pool["spec"]["limits"]["vms"]), (200, 3))
        status, problem = self.call("PUT", route, {"spec": {"reservation": {"memory_bytes": 1 << 50}}}, **name)
        self.assertEqual((status, problem["code"]), (422, "no-resources"))
        self.assertRegex(problem["detail"], "^the hosts have 0 B of free memory, and resource pools would reserve 1.0 PiB of it$")
        status, problem = self.call("PUT", route, {"spec": {"limits": {"memory_bytes": 1}, "reservation": {"memory_bytes": 2}}}, **name)
        self.assertEqual(problem["detail"], "the pool would reserve 2 B of memory, of which its limit allows 1 B")
        for odd in ({"limits": {"disks": 1}}, {"limits": {"cpus": -1}}, {"limits": {"vms": "2"}}, {"shares": 1}):
            self.assertEqual(self.call("PUT", route, {"spec": odd}, **name)[0], 422)
        with self.open("GET", "/metrics") as answer:
            self.assertIn(b'drover_pool_vms_limit{pool="sales"} 3\n', answer.read())
        self.assertEqual(self.call("DELETE", route, **name)[0], 204)

    def test_maintenance(self):
        self.call("POST", "/api/v1/hosts", {"name": "h3", "address": "127.0.0.1:9"})
        route = "/api/v1/hosts/{name}/maintenance"
        policy = {"tries": 2, "policy": [{"step": "wait", "limit_ms": 5000}, {"step": "power-off"}]}
        self.assertEqual(self.call("POST", route, {"on": True, "dry_run": True, **policy}, name="h3"), (200, {"dry_run": True, "vms": []}))
        _, task = self.call("POST", route, {"on": True, **policy}, name="h3")
        self.assertEqual(self.finish(task)["status"]["state"], "succeeded")
        _, host = self.call("GET", "/api/v1/hosts/{name}", name="h3")
        self.assertEqual(host["status"]["maintenance"]["state"], "on")
        _, task = self.call("POST", route, {"on": False, "return": True}, name="h3")
        self.assertEqual(self.finish(task)["status"]["state"], "succeeded")
        self.assertEqual(self.call("POST", route, {"on": False}, name="h3")[0], 409)

    def test_schedule(self):
        action = {"type": "migrate", "label": "tier=web", "policy": [{"step": "other-host"}]}
        spec = {"calendar": "Sat 22:00", "time_zone": "Europe/Berlin", "window_ms": 3600000, "missed": "run-once", "action": action}
        status, schedule = self.call("POST", "/api/v1/schedules", {"name": "weekly", "spec": spec})
        self.assertEqual((status, schedule["status"]["state"]), (201, "active"))
        self.assertRegex(schedule["status"]["next"]["local"], "T22:00:00")
        self.assertEqual(len(self.call("GET", "/api/v1/schedules/{name}/next", name="weekly")[1]["items"]), 10)
        _, task = self.call("POST", "/api/v1/schedules/{name}/run", name="weekly")
        self.assertEqual(self.finish(task)["status"]["result"]["vms"], [])
        self.assertEqual(self.call("POST", "/api/v1/schedules/{name}/run", {"dry_run": True}, name="weekly")[0], 200)
        self.assertEqual(self.call("POST", "/api/v1/schedules/{name}/pause", name="weekly")[1]["status"]["state"], "paused")
        self.assertEqual(self.call("POST", "/api/v1/schedules/{name}/resume", name="weekly")[1]["status"]["state"], "active")
        spec["calendar"] = "*:*:0/1"
        _, schedule = self.call("PUT", "/api/v1/schedules/{name}", {"spec": spec}, name="weekly")
        while not schedule["status"]["runs"]:
            _, schedule = self.call("GET", "/api/v1/schedules/{name}", name="weekly")
        self.assertEqual(self.call("GET", "/api/v1/schedules")[1]["items"][0]["name"], "weekly")
        self.assertEqual(self.call("DELETE", "/api/v1/schedules/{name}", name="weekly")[0], 204)

    def test_token(self):
        status, answer = self.call("POST", "/api/v1/tokens", {"name": "reader", "role": "read-only", "expires_days": 1})
        self.assertEqual(status, 201)
        self.assertNotIn(answer["secret"], json.dumps(self.call("GET", "/api/v1/tokens")[1]))
        self.assertEqual(self.call("GET", "/api/v1/tokens/{name}", name="reader")[1], answer["token"])
        self.assertEqual(self.call("DELETE", "/api/v1/tokens/{name}", name="reader")[0], 204)

    def test_exported_audit_log_can_be_checked_without_the_manager(self):
        self.call("POST", "/api/v1/tokens", {"name": "audited", "role": "read-only"})
        with self.open("GET", "/api/v1/audit/export") as answer:
            lines = answer.read().decode().splitlines()
        previous = None
        for line in lines:
            entry = json.loads(line)
            text = line.replace(f'"hash":"{entry["hash"]}",', "", 1)
            self.assertEqual(hashlib.sha256(text.encode()).hexdigest(), entry["hash"])
            self.assertIn(previous, (None, entry["prev"]))
            previous = entry["hash"]
        self.assertEqual(previous, self.call("GET", "/api/v1/audit/verify")[1]["head"])

    def test_user_role_and_session(self):
        scope = {"vms": {"pool": "east"}, "hosts": {"pool": "east"}}
        self.assertEqual(self.call("POST", "/api/v1/roles", {"name": "mover", "spec": {"permissions": ["vm.migrate"]}})[0], 201)
        self.assertEqual(self.call("PUT", "/api/v1/roles/{name}", {"spec": {"permissions": ["vm.migrate", "vm.read"]}}, name="mover")[0], 200)
        user = {"full_name": "Bob", "bindings": [{"role": "mover", "scope": scope}]}
        self.assertEqual(self.call("POST", "/api/v1/users", {"name": "bob", "spec": user})[0], 201)
        self.assertEqual(self.call("PUT", "/api/v1/users/{name}", {"spec": user}, name="bob")[0], 200)
        self.assertEqual(self.call("PUT", "/api/v1/users/{name}/password", {"password": "correct horse battery"}, name="bob")[0], 204)
        status, login = self.call("POST", "/api/v1/login", {"user": "bob", "password": "correct horse battery", "cookie": True})
        self.assertEqual((status, login["secret"]), (200, None))
        self.assertEqual(self.call("POST", "/api/v1/login", {"user": "bob", "password": "another one entirely"})[0], 401)
        status, login = self.call("POST", "/api/v1/login", {"user": "bob", "password": "correct horse battery"})
        admin, self.api.token = self.api.token, login["secret"]
        try:
            self.assertEqual(self.call("GET", "/api/v1/session")[0], 200)
            self.assertEqual(self.call("GET", "/api/v1/whoami")[1]["grants"][0]["scope"], scope)
            self.assertEqual(self.call("GET", "/api/v1/users")[0], 403)
            both = {"current": "correct horse battery", "password": "correct horse battery staple"}
            self.assertEqual(self.call("PUT", "/api/v1/password", both)[0], 204)
            self.assertEqual(self.call("GET", "/api/v1/whoami")[0], 401)
            both = {"user": "bob", "password": "correct horse battery staple"}
            self.api.token = self.call("POST", "/api/v1/login", both)[1]["secret"]
            self.assertEqual(self.call("DELETE", "/api/v1/session")[0], 204)
            self.assertEqual(self.call("GET", "/api/v1/whoami")[0], 401)
        finally:
            self.api.token = admin
        self.assertEqual(self.call("GET", "/api/v1/users/{name}", name="bob")[1]["spec"], user)
        self.assertEqual(self.call("GET", "/api/v1/roles/{name}", name="mover")[0], 200)
        self.assertEqual(self.call("DELETE", "/api/v1/users/{name}", name="bob")[0], 204)
        self.assertEqual(self.call("DELETE", "/api/v1/roles/{name}", name="mover")[0], 204)

    def test_cookie_is_kept_from_scripts_and_other_sites(self):
        self.call("POST", "/api/v1/users", {"name": "eve", "spec": {}})
        self.call("PUT", "/api/v1/users/{name}/password", {"password": "correct horse battery"}, name="eve")
        with self.open("POST", "/api/v1/login", {"user": "eve", "password": "correct horse battery", "cookie": True}) as answer:
            name, *attributes = answer.headers["Set-Cookie"].split("; ")
        self.assertRegex(name, "^__Host-drover-session=drvs_[0-9a-f]{64}$")
        self.assertEqual(sorted(attributes), ["HttpOnly", "Max-Age=43200", "Path=/", "SameSite=Strict", "Secure"])

    def test_changed_object_is_refused_and_fields_are_selected(self):
        with self.assertRaises(urllib.error.HTTPError) as e:
            self.open("DELETE", "/api/v1/roles/admin", headers={"If-Match": '"1"'})
        self.assertEqual((e.exception.code, json.load(e.exception)["code"]), (412, "revision-mismatch"))
        with self.open("GET", "/api/v1/roles?fields=name&limit=1") as answer:
            self.assertEqual(list(json.load(answer)["items"][0]), ["name"])

    def test_events_resume_from_the_last_id(self):
        revision = self.call("GET", "/api/v1/switches")[1]["revision"]
        _, task = self.call("POST", "/api/v1/switches", {"name": "watched"})
        self.finish(task)
        with self.open("GET", "/api/v1/events?kinds=switch", headers={"Last-Event-ID": str(revision)}) as stream:
            event = {}
            for line in stream:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name in ("id", "event", "data"):
                    event[name] = value
                if len(event) == 3:
                    break
        document = json.loads(event["data"])
        self.api.validate(document, "Event")
        self.assertEqual((event["event"], document["name"]), ("switch", "watched"))
        self.assertEqual(int(event["id"]), document["revision"])
        self.assertGreater(int(event["id"]), revision)

    def test_events_from_the_future_are_reset(self):
        with self.open("GET", "/api/v1/events?since=999999999") as stream:
            while True:
                line = stream.readline()
                if line.startswith(b"event:"):
                    break
        self.assertEqual(line, b"event: reset\n")

    def test_pages_join_without_a_gap(self):
        for i in range(5):
            self.call("POST", "/api/v1/tokens", {"name": f"page{i}", "role": "read-only"})
        names, token = [], ""
        while token is not None:
            query = f"&continue={token}" if token else ""
            _, page = self.call("GET", "/api/v1/tokens?limit=2" + query)
            names += [item["name"] for item in page["items"]]
            token = page["continue"]
        self.assertEqual(names, sorted(set(names)))
        self.assertTrue({f"page{i}" for i in range(5)} <= set(names))


class Coverage(unittest.TestCase):
    """After the answers: unittest goes by name."""

    def test_each_route_was_seen_to_succeed_or_needs_a_guest(self):
        # tests/system/test_access.py has those, and says so.
        guests = {route for route in described() if "/vms/{name}" in route[1] or "/affinity-rules" in route[1]}
        others = {("POST", "/api/v1/hosts/{name}/confirm-down"), ("POST", "/api/v1/tasks/{name}/cancel"), ("GET", "/api/v1/events")}
        self.assertEqual(described() - Answers.api.validated - guests - others, set())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
