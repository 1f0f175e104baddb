# SPDX-License-Identifier: Apache-2.0
"""Between continents: a slow line with a long round trip behind devices that promise much more."""

LAB = {"hosts": 2, "link": "20mbit", "rtt_ms": 150, "qemu_versions": {"host1": "10.0", "host2": "10.0"}}
RTT_MS = 150
HOW = "workload.memory=8,mixed workload.disk=10"


def test_a_guest_moves_between_continents_with_its_session(vm, lab):
    guest = vm(memory="128M", append=HOW)
    session = guest.session()
    result = guest.migrate("host2")
    guest.verify()
    session.close()
    path, = result["paths"]
    assert result["channels"] <= 8 and path["rtt_us"] >= RTT_MS * 1000
    with open("/proc/sys/net/ipv4/tcp_available_congestion_control", encoding="ascii") as file:
        assert path["congestion_control"] == "bbr" or "bbr" not in file.read().split()
