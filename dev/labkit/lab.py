# SPDX-License-Identifier: Apache-2.0
"""A whole cluster on one machine: manager, client and hosts as namespaces, with real programs in them.

A lab lives in one folder: LAB/MACHINE/ holds the configuration, state and logs of that machine's programs, LAB/shared the
folder that every host sees as the datastore "shared", under a path of its own."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import time

from . import netns, network, openvswitch, postgresql, qemu
from .machines import FABRIC, LabError, Machines, command_line

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DEFAULT_FOLDER = "/run/drover-lab/default"
MANAGER_PORT, AGENT_PORT = 8443, 8444
CONNECT_TIMEOUT_S = 60
# Time limits say how long a thing takes at most on a machine that does nothing else; one that is shared with others is given so
# many times that. It costs nothing where the thing happens.
PATIENCE = 3
# Where each program is in a build folder; an installed tree has them side by side.
PROGRAMS = {"drover": "src/cli", "drover-manager": "src/manager", "drover-agent": "src/agent",
            "drover-mover": "src/mover", "labinit": "tests/lab", "lablink": "tests/lab"}


def wait_for(what, check, timeout_s=CONNECT_TIMEOUT_S, interval_s=0.1):
    """Calls check until it gives something true, and returns that. LabError when it never does, in PATIENCE times timeout_s."""
    began = time.monotonic()
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() - began > PATIENCE * timeout_s:
            raise LabError(f"gave up after {time.monotonic() - began:.0f} s waiting for {what}")
        time.sleep(interval_s)


class Lab:
    def __init__(self, folder=DEFAULT_FOLDER, build=None):
        self.folder = pathlib.Path(folder).resolve()
        self.build = pathlib.Path(build or os.environ.get("DROVER_BUILD") or self._build_in_use()
                                  or REPOSITORY / "build").resolve()
        self.machines = Machines(self.folder)
        self.network = network.Network(self.machines, self.program("lablink"))

    def _build_in_use(self):
        try:
            return self._options()["build"]
        except LabError:
            return None

    def program(self, name):
        for path in (self.build / PROGRAMS[name] / name, self.build / name):
            if path.exists():
                return path
        return self.build / PROGRAMS[name] / name

    def _check_programs(self):
        missing = [name for name in PROGRAMS if not self.program(name).exists()]
        if missing:
            raise LabError(f"not built in {self.build}: {', '.join(missing)}. Run make, or set DROVER_BUILD")

    # What is where

    @property
    def hosts(self):
        return [f"host{number + 1}" for number in range(self._options()["hosts"])]

    @property
    def managers(self):
        """The machines that a manager runs on; with more than one, whoever leads."""
        return ["manager", *(f"manager{number + 1}" for number in range(1, self._options().get("managers", 1)))]

    @property
    def database(self):
        """The PostgreSQL server that the managers share, or None."""
        if self._options().get("store") != "postgres":
            return None
        return postgresql.Server(self.machines, "database", self.folder_of("database"), network.DATABASE_ADDRESS)

    def openvswitch(self, host):
        """Open vSwitch on a host, or on the client machine (which does not start it), or None."""
        if not self._options().get("open_vswitch"):
            return None
        return openvswitch.OpenVSwitch(self.machines, host, self.folder_of(host) / "openvswitch")

    def _options(self):
        try:
            return json.loads((self.folder / "lab.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise LabError(f"no lab in {self.folder}: dev/lab up") from None

    def folder_of(self, machine):
        return self.folder / machine

    def log_of(self, machine, program):
        return self.folder_of(machine) / f"{program}.log"

    def shared_path(self, host):
        """Where a host sees the shared datastore."""
        return self.folder_of(host) / "datastores/shared"

    def local_path(self, host):
        return self.folder_of(host) / "datastores/local"

    # Up and down

    def up(self, hosts=2, link=None, rtt_ms=0.0, loss_percent=0.0, store="sqlite", qemu_versions=None,
           checkpoint_space="0", migration_nics=0, sibling_space="0", managers=1, manager_settings=None,
           open_vswitch=False):
        self._check_programs()
        if self.machines.root() is not None or (self.folder / "lab.json").exists():
            raise LabError(f"there is a lab in {self.folder} already: dev/lab down")
        if store not in ("sqlite", "postgres"):
            raise LabError(f"this manager has no store {store!r}")
        if managers > 1 and store == "sqlite":
            raise LabError("several managers need a store that they share: --store postgres")
        versions = {f"host{number + 1}": None for number in range(hosts)} | (qemu_versions or {})
        if len(versions) != hosts:
            raise LabError(f"--qemu names a host that is not among host1 to host{hosts}")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "lab.json").write_text(json.dumps(
            {"hosts": hosts, "link": link, "rtt_ms": rtt_ms, "loss_percent": loss_percent,
             "store": store, "managers": managers, "open_vswitch": open_vswitch, "build": str(self.build)}), encoding="utf-8")
        try:
            self.machines.create(self.program("labinit"), self._services() + ["client", *versions])
            self._connect(network.parse_rate(link), rtt_ms, loss_percent, migration_nics)
            if self.database:
                self.database.create("10.77.0.0/16")
            for number, name in enumerate(self.managers, 1):
                self._start_manager(name, number, manager_settings or {})
            for name, version in versions.items():
                self._start_host(name, qemu.find(version) if version else qemu.BINARY, checkpoint_space,
                                 migration_nics, sibling_space)
            self._configure()
        except BaseException:
            self.machines.destroy()
            raise

    def down(self):
        """Ends everything and removes the folder, also what a crashed `up` left."""
        self.machines.destroy()
        if (self.folder / "lab.json").exists():
            shutil.rmtree(self.folder)

    def _services(self):
        return self.managers + (["database"] if self.database else [])

    def _connect(self, rate_bps, rtt_ms, loss_percent, migration_nics):
        self.network.create_switches(migration_nics)
        for name in (*self._services(), "client", *self.hosts):
            self.folder_of(name).mkdir()
        for number, name in enumerate(self.managers, 1):
            self.network.plug(name, "eth0", network.MGMT, f"{network.manager_address(number)}/16")
        if self.database:
            self.network.plug("database", "eth0", network.MGMT, f"{network.DATABASE_ADDRESS}/16")
        self.network.plug("client", "eth0", network.MGMT, f"{network.CLIENT_ADDRESS}/16")
        self.network.plug("client", "vm0", network.VMNET, f"{network.CLIENT_VM_ADDRESS}/24")
        for number, host in enumerate(self.hosts, 1):
            self.network.plug_link(host, "eth0", network.MGMT, f"{network.host_address(number)}/16",
                                   self.log_of(host, "link"), rate_bps, rtt_ms, loss_percent)
            for nic in range(1, migration_nics + 1):
                self.network.plug_link(host, f"eth{nic}", f"mig{nic}", f"{network.migration_address(number, nic)}/16",
                                       self.log_of(host, f"link{nic}"), rate_bps, rtt_ms, loss_percent)
            self.network.plug(host, "vm0", network.VMNET)
        self.network.watch(self.folder / "switches.log")

    def _start_manager(self, name, number, settings):
        folder = self.folder_of(name)
        store = f"store = {self.database.url(folder / 'pgpass')}\n" if self.database else ""
        (folder / "manager.conf").write_text(
            f"[manager]\nlisten = 0.0.0.0:{MANAGER_PORT}\nstate-dir = {folder}/state\n"
            f"name = {'lab' if number == 1 else name}\nlog-level = debug\n"
            + store + "".join(f"{key} = {value}\n" for key, value in settings.items()), encoding="utf-8")
        who = ["--token-file", folder / "token"] if number == 1 else ["--ca", self.folder_of("manager") / "state/pki"]
        output = self.machines.run(name, self.program("drover-manager"), "--config", folder / "manager.conf", "init",
                                   "--address", network.manager_address(number), "--address", "127.0.0.1", *who)
        (folder / "init.log").write_text(output, encoding="utf-8")
        self.start(name, "manager")
        self._open_door(name, network.manager_address(number))
        if number == 1:
            wait_for("the manager to answer", lambda: self.try_drover("host", "list"))

    def _open_door(self, name, address):
        """Lets a CLI outside the lab reach a manager: a port on the loopback interface, known to `env`."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.set_inheritable(True)
            port = listener.getsockname()[1]
            command = ["nsenter", "--target", str(self.machines.pid(name)), "--net", "--pid", "--",
                       "setsid", "--fork", "/usr/bin/python3", str(pathlib.Path(__file__).with_name("relay.py")),
                       str(listener.fileno()), address, str(MANAGER_PORT)]
            with open(self.log_of(name, "relay"), "ab") as log:
                subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                               pass_fds=[listener.fileno()], check=True)
        (self.folder_of(name) / "port").write_text(str(port), encoding="ascii")

    def _start_host(self, host, qemu_binary, checkpoint_space, migration_nics, sibling_space):
        folder = self.folder_of(host)
        number = self.hosts.index(host) + 1
        addresses = ", ".join(network.migration_address(number, nic + 1) for nic in range(migration_nics))
        (folder / "agent.conf").write_text(
            f"[agent]\nname = {host}\nlisten = 0.0.0.0:{AGENT_PORT}\nstate-dir = {folder}/state\n"
            f"runtime-dir = {folder}/run\nqemu = {qemu_binary}\nmover = {self.program('drover-mover')}\n"
            f"accelerator = tcg\nlog-level = debug\ncheckpoint-space = {checkpoint_space}\n"
            f"sibling-space = {sibling_space}\ndisks-along = yes\n"
            + (f"migration-address = {addresses}\n" if addresses else "")
            + (f"openvswitch = {self.openvswitch(host).socket}\n" if self.openvswitch(host) else ""), encoding="utf-8")
        if self.openvswitch(host):
            self.openvswitch(host).create()
        for path in (self.folder / "shared", self.shared_path(host), self.local_path(host)):
            path.mkdir(parents=True, exist_ok=True)
        self.machines.run(host, "mount", "--bind", self.folder / "shared", self.shared_path(host))
        enrol = self.drover_json("host", "add", f"{network.host_address(number)}:{AGENT_PORT}", "--name", host)
        self.machines.run(host, self.program("drover-agent"), "--config", folder / "agent.conf", "enrol", "--manager",
                          f"{network.MANAGER_ADDRESS}:{MANAGER_PORT}", "--token", enrol["enrol_token"])
        self.start(host, "agent")

    def _configure(self):
        self.wait_connected()
        different = [part for host in self.hosts for part in ("--path-on", f"{host}={self.shared_path(host)}")]
        self.drover("datastore", "add", "shared", self.shared_path("host1"), *different)
        different = [part for host in self.hosts for part in ("--path-on", f"{host}={self.local_path(host)}")]
        self.drover("datastore", "add", "local", self.local_path("host1"), "--local", *different)
        self.drover("network", "switch", "add", "default", "--uplink", "vm0")
        self.drover("network", "port-group", "add", "default", "--switch", "default")

    def wait_connected(self, hosts=None, timeout_s=CONNECT_TIMEOUT_S):
        """Until all agents (or those of these hosts) answer and the manager is connected to them: its idea of a host may be older than
        the agent's restart."""
        wanted = set(hosts or self.hosts)

        def connected():
            listed = self.try_drover("host", "list", "-o", "json")
            return listed and wanted <= {host["name"] for host in json.loads(listed)["items"]
                                         if host["status"]["state"] == "connected"}
        for host in sorted(wanted):
            wait_for(f"the agent of {host} to answer", lambda host=host: self.answers(host), timeout_s)
        wait_for(f"{', '.join(sorted(wanted))} to be connected", connected, timeout_s)

    def answers(self, host):
        """Whether the agent of a host takes connections, as the host itself sees it."""
        address = (network.host_address(self.hosts.index(host) + 1), AGENT_PORT)
        try:
            netns.connect(self.machines.pid(host), address, 1).close()
        except OSError:
            return False
        return True

    # Programs

    def start(self, machine, program, environment=None):
        """Starts `manager` or `agent` on a machine; environment: more variables, such as a crash point's."""
        config = self.folder_of(machine) / f"{program}.conf"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DROVER_")}
        self.machines.start(machine, self.log_of(machine, program), self.program(f"drover-{program}"), "--config", config,
                            "run", environment=clean | (environment or {}))

    def verify_audit(self):
        """Whether the audit log of everything that was done in this lab is whole, as the manager says; None when none leads now."""
        done = self.run_drover("-o", "json", "audit", "verify")
        if done.returncode not in (0, 1) or not done.stdout.strip():
            return None
        return json.loads(done.stdout)

    def find(self, machine, program):
        """PIDs of agent, mover, manager, qemu (all of them) or qemu:VM on a machine; power: of everything."""
        kind, _, vm = program.partition(":")
        found = []
        for pid in self.machines.processes(machine):
            words = command_line(pid)
            binary = os.path.basename(words[0]) if words else ""
            if kind == "power" or binary == f"drover-{kind}":
                found.append(pid)
            elif kind == "qemu" and binary.startswith("qemu-system") and (
                    not vm or any(word.startswith(f"guest={vm},") for word in words)):
                found.append(pid)
        return found

    def kill(self, machine, program):
        """SIGKILL; how many were killed. `power` ends everything on the machine, as when its power fails."""
        pids = self.find(machine, program)
        if not pids and program != "power":
            raise LabError(f"no {program} runs on {machine}")
        self.machines.kill(pids)
        return len(pids)

    def restart(self, machine, program, environment=None):
        """An agent is connected afterwards."""
        self.machines.kill(self.find(machine, program))
        self.start(machine, program, environment)
        if program == "agent":
            self.wait_connected()

    # The CLI

    def environment(self, inside=True):
        """What points the CLI at this lab, from a machine in it or from outside."""
        servers = [f"https://127.0.0.1:{(self.folder_of(name) / 'port').read_text(encoding='ascii')}" if not inside
                   else f"https://{network.manager_address(number)}:{MANAGER_PORT}"
                   for number, name in enumerate(self.managers, 1)]
        return {"DROVER_SERVER": ",".join(servers), "DROVER_TOKEN": str(self.folder_of("manager") / "token"),
                "DROVER_CA": str(self.folder_of("manager") / "state/pki/ca.pem"),
                "PATH": f"{self.program('drover').parent}:{os.environ['PATH']}"}

    def command(self, machine, *command):
        """(words, environment) that run a command on a machine, with the CLI pointed at this lab."""
        return [*self.machines.enter(machine), *map(str, command)], {**os.environ, **self.environment()}

    def run_drover(self, *words, **options):
        """The CLI on the client machine, as subprocess.run gives it."""
        command, environment = self.command("client", self.program("drover"), *words)
        return subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              check=False, **options)

    def drover(self, *words):
        """Output of a CLI command; LabError with its message when it fails."""
        done = self.run_drover(*words)
        if done.returncode != 0:
            raise LabError(f"drover {' '.join(map(str, words))}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def drover_json(self, *words):
        return json.loads(self.drover("-o", "json", *words))

    def version_of(self, manager):
        """What a manager says of itself, or None when it does not answer."""
        number = self.managers.index(manager) + 1
        done = self.run_drover("-s", f"https://{network.manager_address(number)}:{MANAGER_PORT}", "version", "-o", "json")
        return json.loads(done.stdout)["server"] if done.returncode == 0 else None

    def leader(self):
        """The machine whose manager leads, or None."""
        return next((name for name in self.managers if (self.version_of(name) or {}).get("leads")), None)

    def try_drover(self, *words):
        done = self.run_drover(*words)
        return done.stdout if done.returncode == 0 else None

    def status(self):
        """What runs where, for people."""
        lines = []
        for name, pid in sorted(self.machines.all().items()):
            running = [os.path.basename(words[0]) for words in map(command_line, self.machines.processes(name)) if words]
            lines.append(f"{name} (PID {pid}): {', '.join(sorted(running)) or 'nothing runs'}")
        if lines:
            lines += [f"port {port} of the guests' network: {mac}" for mac, port in self.network.learned().items()]
        return lines or [f"no lab in {self.folder}"]


__all__ = ["FABRIC", "Lab", "LabError", "wait_for"]
