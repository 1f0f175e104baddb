# SPDX-License-Identifier: Apache-2.0
"""The lab's cables and switches, all inside the lab's own network namespaces.

Two learning switches (Linux bridges) stand in the fabric: "mgmt", for management and migration, and "vmnet", the
network of the guests; where it is asked for, migrations have one or more of their own, "mig1", "mig2", ... They learn like any switch does: a MAC stays on the port it was last seen on for 300 s, so a
guest that moved without an announcement is not reachable until it speaks. Every machine is plugged into them by a
port called MACHINE-m, MACHINE-v or MACHINE-1 and so on; its own end is eth0 (mgmt), vm0 (vmnet) or eth1 and so on.

Rate by tbf on both ends of a host's cable; where delay or loss is asked for, which the kernel here may not be
able to do, the cable is tests/lab/lablink.c instead."""

import os
import re
import subprocess

from .machines import FABRIC, LabError

MGMT, VMNET = "mgmt", "vmnet"
AGEING_S = 300
MANAGER_ADDRESS, CLIENT_ADDRESS, DATABASE_ADDRESS = "10.77.0.1", "10.77.0.2", "10.77.0.3"
CLIENT_VM_ADDRESS = "192.168.77.1"
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def manager_address(number):
    """Of the first, second, ... manager."""
    return MANAGER_ADDRESS if number == 1 else f"10.77.0.{8 + number}"


def host_address(number):
    return f"10.77.1.{number}"


def migration_address(number, network):
    """Of a host in mig1, mig2, ..."""
    return f"10.{77 + network}.1.{number}"


def port_of(machine, switch):
    return f"{machine}-{switch.removeprefix('mig') if switch.startswith('mig') else switch[0]}"


def parse_rate(text):
    """Bits a second of "1gbit", "100mbit", "2.5G"; 0 for none."""
    if text in (None, "", "0", "none"):
        return 0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)(?:bit)?", text.lower())
    if not found:
        raise LabError(f"{text!r} is not a rate; write it as 100mbit or 1gbit")
    return int(float(found[1]) * UNITS[found[2]])


class Network:
    def __init__(self, machines, lablink):
        self.machines = machines
        self.lablink = lablink

    def _ip(self, machine, *lines):
        # Only the network namespace is entered, so that process numbers in the commands are those seen here.
        self._batch(machine, "ip", lines)

    def _batch(self, machine, program, lines):
        command = ["nsenter", "--target", str(self.machines.pid(machine)), "--net", "--", program, "-batch", "-"]
        done = subprocess.run(command, input="\n".join(lines) + "\n", text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise LabError(f"{machine}: {program}: {done.stdout.strip()}")

    def create_switches(self, n_migration=0):
        self.machines.run(FABRIC, "sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1",
                          "net.ipv6.conf.default.disable_ipv6=1")
        lines = ["link set lo up"]
        for switch in (MGMT, VMNET, *(f"mig{number + 1}" for number in range(n_migration))):
            lines += [f"link add {switch} type bridge stp_state 0 forward_delay 0 mcast_snooping 0 "
                      f"ageing_time {AGEING_S * 100}", f"link set {switch} up"]
        self._ip(FABRIC, *lines)

    def plug(self, machine, interface, switch, address=None):
        """A cable from a machine's new interface to a port of a switch."""
        port = port_of(machine, switch)
        self._ip(FABRIC, f"link add {port} type veth peer name {interface} netns {self.machines.pid(machine)}",
                 f"link set {port} master {switch} up")
        self._finish(machine, interface, address)

    def plug_link(self, machine, interface, switch, address, log, rate_bps=0, rtt_ms=0.0, loss_percent=0.0):
        """As plug(), by a cable of a set rate, delay and loss. Two machines talk over two cables, so each has a quarter of the
        round trip in each direction, and half of the loss."""
        port = port_of(machine, switch)
        if not rtt_ms and not loss_percent:
            self.plug(machine, interface, switch, address)
            self.shape(machine, interface, switch, rate_bps)
            return
        namespaces = [os.open(f"/proc/{self.machines.pid(name)}/ns/net", os.O_RDONLY) for name in (machine, FABRIC)]
        try:
            self._start_link(log, namespaces, (interface, port), rate_bps, rtt_ms * 1000 / 4, loss_percent * 10000 / 2)
        finally:
            for namespace in namespaces:
                os.close(namespace)
        self._ip(FABRIC, f"link set {port} master {switch} up")
        self._finish(machine, interface, address)

    def _start_link(self, log, namespaces, names, rate_bps, delay_us, loss_ppm):
        # In the fabric's process namespace, so that it ends with the lab.
        command = ["nsenter", "--target", str(self.machines.pid(FABRIC)), "--pid", "--", "setsid", "--fork",
                   str(self.lablink), str(namespaces[0]), names[0], str(namespaces[1]), names[1],
                   str(rate_bps), str(int(delay_us)), str(int(loss_ppm))]
        reader, writer = os.pipe()
        with open(log, "ab") as errors, os.fdopen(reader, encoding="ascii") as output:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=errors, pass_fds=namespaces,
                           check=True)
            os.close(writer)
            if output.readline() != "ready\n":
                raise LabError(f"the link of {names[1]} did not come up, see {log}")

    def _finish(self, machine, interface, address):
        lines = ["link set lo up", f"link set {interface} up"]
        if address:
            lines.append(f"address add {address} dev {interface}")
        self._ip(machine, *lines)

    def shape(self, machine, interface, switch, rate_bps):
        """Both directions of a machine's cable at rate_bps. The bucket holds 4 ms, or two of the largest packets."""
        if not rate_bps:
            return
        burst = max(rate_bps // 8 // 250, 131072)
        for place, device in ((machine, interface), (FABRIC, port_of(machine, switch))):
            self._batch(place, "tc", [f"qdisc replace dev {device} root tbf rate {rate_bps}bit burst {burst} "
                                      f"latency 50ms"])

    def ports_of(self, machine):
        text = self.machines.run(FABRIC, "ip", "-brief", "link")
        return [found for found in re.findall(r"^(\S+?)(?:@\S+)? ", text, re.M)
                if re.fullmatch(rf"{machine}-([mv]|\d+)", found)]

    def cut(self, machine, up=False, network=None):
        """Pulls (or plugs in) all cables of a machine, or only the one to `network`."""
        ports = [port for port in self.ports_of(machine) if network is None or port == port_of(machine, network)]
        if not ports:
            raise LabError(f"{machine} has no cable to {network or 'any switch'}")
        self._ip(FABRIC, *(f"link set {port} {'up' if up else 'down'}" for port in ports))

    def learned(self, switch=VMNET):
        """{mac: port} that a switch has learned, without the addresses of its own ports."""
        text = self.machines.run(FABRIC, "bridge", "fdb", "show", "br", switch)
        return {mac: port for mac, port, rest in re.findall(r"^(\S+) dev (\S+)(.*)$", text, re.M)
                if "permanent" not in rest and "self" not in rest}

    def watch(self, log):
        """Writes what the switches learn, with the time, to log: `bridge -timestamp monitor fdb`."""
        self.machines.start(FABRIC, log, "bridge", "-timestamp", "monitor", "fdb")
