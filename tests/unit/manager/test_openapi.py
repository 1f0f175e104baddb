#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""docs/openapi.json against the running drover-manager: each route is described, each description has a route, and what
the program answers is valid against the schemas. Usage: test_openapi.py DROVER-MANAGER OPENAPI.JSON API.C"""

import json
import pathlib
import re
import ssl
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.request

import jsonschema

manager, openapi_file, routes_file = sys.argv[1:4]
openapi = json.loads(pathlib.Path(openapi_file).read_text(encoding="utf-8"))


def described():
    return {(method.upper(), path) for path, item in openapi["paths"].items() for method in item if method != "parameters"}


def routed():
    text = pathlib.Path(routes_file).read_text(encoding="utf-8")
    text = text.replace('V1 "', '"/api/v1')
    table = text[text.index("routes[] = {"):text.index("};", text.index("routes[] = {"))]
    return set(re.findall(r'\{"([A-Z]+)", "([^"]+)"', table))


class Routes(unittest.TestCase):
    def test_each_route_is_described_and_each_description_has_a_route(self):
        self.assertEqual(described(), routed())

    def test_each_reference_leads_somewhere(self):
        for reference in set(re.findall(r'"#/([^"]+)"', json.dumps(openapi))):
            node = openapi
            for part in reference.split("/"):
                self.assertIn(part, node, reference)
                node = node[part]

    def test_schemas_are_valid_schemas(self):
        for schema in openapi["components"]["schemas"].values():
            jsonschema.Draft202012Validator.check_schema(schema)


class Answers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="drover-test-")
        state = cls.folder.name + "/state"
        token = cls.folder.name + "/token"
        base = [manager, "--config", "/dev/null", "--state-dir", state, "--listen", "127.0.0.1:0"]
        subprocess.run(base + ["--address", "127.0.0.1", "--token-file", token, "init"], check=True)
        cls.token = pathlib.Path(token).read_text(encoding="ascii").strip()
        cls.process = subprocess.Popen(base, stderr=subprocess.PIPE, text=True)
        cls.port = re.search(r":(\d+)$", cls.process.stderr.readline().strip()).group(1)
        cls.tls = ssl.create_default_context(cafile=state + "/pki/ca.pem")

    @classmethod
    def tearDownClass(cls):
        cls.process.terminate()
        assert cls.process.wait(10) == 0
        cls.process.stderr.close()
        cls.folder.cleanup()

    def open(self, method, path, body=None, headers=None):
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", method=method)
        request.add_header("Authorization", "Bearer " + self.token)
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        data = json.dumps(body).encode() if body is not None else None
        return urllib.request.urlopen(request, data=data, timeout=20, context=self.tls)

    def call(self, method, route, body=None, **parts):
        """Calls a route of the description, checks status and body against it, and returns both."""
        path = route.format(**parts)
        try:
            answer = self.open(method, path, body)
        except urllib.error.HTTPError as e:
            answer = e
        with answer:
            status, raw, kind = answer.status, answer.read(), answer.headers.get_content_type()
        responses = openapi["paths"][route.split("?")[0]][method.lower()]["responses"]
        response = responses.get(str(status)) or responses["default"]
        if "$ref" in response:
            response = openapi["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
        if "content" not in response:
            self.assertEqual(raw, b"")
            return status, None
        self.assertIn(kind, response["content"], f"{method} {path}: {status}")
        if not kind.endswith("json"):
            return status, raw.decode()
        document = json.loads(raw)
        schema = {"components": openapi["components"], **response["content"][kind]["schema"]}
        jsonschema.Draft202012Validator(schema).validate(document)
        return status, document

    def finish(self, task):
        while not task["status"]["finished"]:
            _, task = self.call("GET", "/api/v1/tasks/{name}", name=task["name"])
        return task

    def test_every_get_without_a_name(self):
        for method, path in sorted(described()):
            if method == "GET" and "{" not in path and path != "/api/v1/events":
                with self.subTest(path=path):
                    self.assertEqual(self.call(method, path)[0], 200)

    def test_every_path_with_an_unknown_name_is_a_problem(self):
        for method, path in sorted(described()):
            if "{name}" in path:
                with self.subTest(method=method, path=path):
                    status, problem = self.call(method, path, name="nobody")
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
        self.call("GET", "/api/v1/port-groups")

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
        _, task = self.call("DELETE", "/api/v1/datastores/{name}", name="ds")
        self.assertEqual(self.finish(task)["status"]["state"], "succeeded")
        self.assertEqual(self.call("POST", "/api/v1/datastores", {"name": "x", "spec": {"path": "../etc"}})[0], 422)

    def test_vm_without_a_host_fails_with_the_reason(self):
        body = {"name": "v1", "spec": {"memory_bytes": 1 << 28, "datastore": "none", "nics": [{"port_group": "pg"}]}}
        status, task = self.call("POST", "/api/v1/vms", body)
        self.assertEqual(status, 202)
        self.assertEqual(self.finish(task)["status"]["error"]["code"], "no-resources")

    def test_affinity_rule_about_nobody_is_refused(self):
        rule = {"name": "odd", "spec": {"type": "run-on", "vms": ["nobody"], "hosts": ["h9"]}}
        status, problem = self.call("POST", "/api/v1/affinity-rules", rule)
        self.assertEqual((status, problem["detail"]), (422, "there is no virtual machine nobody"))

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
        self.assertEqual(self.call("DELETE", "/api/v1/tokens/{name}", name="reader")[0], 204)

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
        schema = {"components": openapi["components"], "$ref": "#/components/schemas/Event"}
        jsonschema.Draft202012Validator(schema).validate(document)
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


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
