# SPDX-License-Identifier: Apache-2.0
"""Post-copy between two QEMUs 7.2, and from 7.2 to 10.0."""

import json

LAB = {"hosts": 3, "link": "100mbit", "qemu_versions": {"host1": "7.2", "host2": "7.2", "host3": "10.0"}}


def test_guest_moves_by_post_copy_from_version_to_version(vm, lab):
    guest = vm(memory="192M", append="workload.memory=80,random workload.disk=50")
    session = guest.session(120)
    for host in ("host2", "host3"):
        guest.do("dirty 25000 64 random page")
        result = guest.migrate(host, "--converge", "post-copy", "--no-verify")
        print(json.dumps(result, indent=1))
        assert result["converged_by"] == "post-copy" and result["post_copy"]["pages_requested"] > 0
        guest.do("dirty 10 24 random page")
        guest.verify()
    session.close()
