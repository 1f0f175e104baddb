# SPDX-License-Identifier: Apache-2.0
"""drover as one of the systems of a bench: a VM made by the CLI, migrated by the public API, which unlike the CLI can also
say that nothing is to be verified, and is asked how it goes without a new process each time."""

import datetime
import http.client
import json
import ssl
import time
import urllib.parse

from labkit.lab import LabError
from labkit.workload import Workload

POLL_S = 0.1
# Of a migration's result: what belongs in a bench's row.
FIELDS = ("passes", "codec", "channels", "reconnects", "cipher", "bytes_ram", "bytes_zero", "bytes_duplicate", "bytes_delta",
          "bytes_recalled", "bytes_shared", "converged_by", "throttle_percent", "verified", "verify_ms", "ram_hash", "pages_resent_by_verify")

FORECAST = ("total_ms", "pause_ms", "bytes_wire")


class Api:
    """The manager's API over one connection that stays open."""

    def __init__(self, lab):
        environment = lab.environment(inside=False)
        with open(environment["DROVER_TOKEN"], encoding="ascii") as file:
            self._headers = {"Authorization": f"Bearer {file.read().strip()}", "Content-Type": "application/json"}
        address = urllib.parse.urlsplit(environment["DROVER_SERVER"])
        self._connection = http.client.HTTPSConnection(
            address.hostname, address.port, timeout=60, context=ssl.create_default_context(cafile=environment["DROVER_CA"]))

    def call(self, method, path, body=None):
        self._connection.request(method, f"/api/v1{path}", body and json.dumps(body), self._headers)
        answer = self._connection.getresponse()
        document = json.loads(answer.read())
        if answer.status >= 300:
            raise LabError(f"{method} {path}: {document.get('detail') or document}")
        return document

    def close(self):
        self._connection.close()


def _unix_s(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


class DroverGuest:
    """One VM, moved to and fro between two hosts."""

    def __init__(self, lab, hosts, name, max_pause_ms):
        self.lab, self.hosts, self.max_pause_ms = lab, hosts, max_pause_ms
        self._vm = Workload(lab, name)
        self._api = Api(lab)
        self._host = hosts[0]

    def start(self, *options, **how):
        """options, how: Workload.create()'s."""
        self._vm.create(*options, host=self.hosts[0], **how)

    @property
    def address(self):
        return self._vm.address

    @property
    def pid(self):
        pids = self.lab.find(self._host, f"qemu:{self._vm.name}")
        if not pids:
            raise LabError(f"{self._vm.name} has no QEMU on {self._host}")
        return pids[0]

    def ask(self, command, timeout_s=120):
        return self._vm.ask(command, timeout_s)

    @property
    def host(self):
        return self._host

    def forecast(self):
        """Has the next move forecast, which takes some seconds; its row tells what became of that."""
        self._api.close()
        self._api.call("POST", f"/vms/{self._vm.name}/forecast", {"to": self._target(), "max_pause_ms": self.max_pause_ms})

    def prepare(self, _mode):
        """drover prepares by itself. The manager has ended a connection that was idle for long: the next call makes another one."""
        self._api.close()

    def move(self, _mode, limit_s, verify=False):
        """One move; "began" and "ended" in seconds since 1970. Afterwards settle() must be called."""
        target = self._target()
        name = self._api.call("POST", f"/vms/{self._vm.name}/migrate",
                              {"to": target, "max_pause_ms": self.max_pause_ms, "verify": verify})["name"]
        status = self._wait(name, limit_s)["status"]
        if status["state"] != "succeeded":
            return {"finished": False, "status": status["state"], "error": status["error"]}
        self._host = target
        return {"finished": True, "status": status["state"], **self._times(status), **self._foreseen(status["result"]), **{
            name: status["result"][name] for name in FIELDS if name in status["result"]}}

    def _target(self):
        return next(host for host in self.hosts if host != self._host)

    @staticmethod
    def _foreseen(result):
        """What was forecast beside what drover itself says of it: the total is that of the whole task."""
        expected = result.get("forecast")
        return {"forecast": {kind: {**expected[kind], "outcome": result[kind]} for kind in FORECAST}} if expected else {}

    def settle(self, _finished):
        """drover tidies up by itself."""
        return {}

    def _wait(self, name, limit_s):
        deadline, cancelled = time.monotonic() + limit_s, False
        while True:
            task = self._api.call("GET", f"/tasks/{name}")
            if task["status"]["state"] in ("succeeded", "failed", "cancelled"):
                return task
            if time.monotonic() > deadline and not cancelled:
                self._api.call("POST", f"/tasks/{name}/cancel", {})
                cancelled = True
            time.sleep(POLL_S)

    @staticmethod
    def _times(status):
        result = status["result"]
        phases = {phase["name"]: phase for phase in result["phases"]}
        copying, stopped = phases["copying"]["start_ms"], phases["switching"]["start_ms"]
        began = _unix_s(status["started"]) + copying / 1000
        # As for QEMU: from the command `migrate` to RESUME, which is one pause after STOP.
        ended = began + (stopped - copying + result["pause_ms"]) / 1000
        return {"began": began, "ended": ended, "pause_ms": round(result["pause_ms"], 2), "prepare_ms": copying,
                "settle_ms": round((_unix_s(status["finished"]) - ended) * 1000)}

    def quit(self):
        self._api.close()
        self._vm.discard()
