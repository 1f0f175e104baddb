# SPDX-License-Identifier: Apache-2.0
"""Post-copy between two QEMUs 7.2, and from 7.2 to 10.0."""

import json

import post_copy

LAB = {"hosts": 3, "link": post_copy.LAB["link"], "qemu_versions": {"host1": "7.2", "host2": "7.2", "host3": "10.0"}}


def test_guest_moves_by_post_copy_from_version_to_version(vm, lab):
    guest = vm(memory=post_copy.MEMORY, append=post_copy.APPEND)
    session = guest.session(120)
    for host in ("host2", "host3"):
        guest.do(post_copy.TOO_FAST)
        result = guest.migrate(host, *post_copy.OPTIONS, "--no-verify")
        print(json.dumps(result, indent=1))
        assert result["converged_by"] == "post-copy" and result["post_copy"]["pages_requested"] > 0
        guest.do(post_copy.QUIET)
        guest.verify()
    session.close()
