# SPDX-License-Identifier: Apache-2.0
"""Two hosts on which guests can have different processors: QEMU 10.0 emulates features that 7.2 does not. The baseline is computed,
a guest on it moves both ways, and one that needs more is refused with the features named."""

import pytest

LAB = {"hosts": 2, "qemu_versions": {"host1": "7.2", "host2": "10.0"}}
NEWER = {"rdpid", "sha-ni", "fsrm"}  # of what 10.0 has more


@pytest.fixture(autouse=True)
def policy(lab):
    yield
    lab.drover("cluster", "cpu", "--set", "none")


def cluster_cpu(lab, *words):
    return lab.drover_json("cluster", "cpu", *words)["status"]


def test_baseline_is_computed_and_what_lowers_it_is_named(lab):
    status = cluster_cpu(lab)
    assert (status["policy"], status["model"]) == ("none", None)
    computed = status["computed"]
    assert computed["accelerator"] == "tcg" and computed["model"].endswith("-v1")
    assert {"sse4.2", "ssse3"} <= set(computed["features"]) and "avx2" in computed["spare"]
    kinds = {kind["hosts"][0]: kind for kind in computed["kinds"]}
    assert NEWER <= set(kinds["host1"]["lacks"]) and not NEWER & set(kinds["host2"]["lacks"])
    assert f"  best for all  {computed['model']}\n" in lab.drover("cluster", "cpu")


def test_guest_on_the_baseline_moves_both_ways(vm, lab):
    model = cluster_cpu(lab, "--set", "auto")["model"]
    guest = vm("--machine", "pc-q35-7.2")
    document = guest.document()
    assert (document["spec"]["cpu_model"], document["status"]["cpu_model"]) == ("auto", model)
    session = guest.session()
    for host in ("host2", "host1"):
        guest.migrate(host, "--verify")
        guest.verify()
        assert guest.document()["status"]["cpu_model"] == model
    session.close()


def test_guest_that_needs_more_is_refused_with_the_features_named(vm, lab):
    guest = vm("--machine", "pc-q35-7.2", "--cpu-model", "Westmere-v1,+sha-ni,+rdpid", host="host2")
    done = lab.run_drover("vm", "migrate", guest.name, "--to", "host1")
    assert done.returncode == 1
    assert ("cpu-model: guests on host host1 cannot have these features of the CPU model Westmere-v1,+sha-ni,+rdpid: rdpid, "
            "sha-ni") in done.stderr
    guest.verify()
    lab.drover("vm", "stop", guest.name, "--force")
    done = lab.run_drover("vm", "start", guest.name, "--host", "host1")
    assert done.returncode == 1 and "cpu-model: guests on host host1 cannot have these features" in done.stderr


def test_model_that_a_host_does_not_offer_is_no_baseline(lab):
    done = lab.run_drover("cluster", "cpu", "--set", "Westmere-v1,+sha-ni")
    assert done.returncode == 1
    assert "guests on host host1 cannot have these features of the CPU model Westmere-v1,+sha-ni: sha-ni" in done.stderr
    assert lab.run_drover("cluster", "cpu", "--set", "host").returncode == 1
    assert cluster_cpu(lab)["policy"] == "none"
    plan = cluster_cpu(lab, "--plan", "Westmere-v1,+sha-ni")["plan"]
    assert plan["hosts"] == [{"host": "host1", "missing": ["sha-ni"]}]


def test_change_takes_effect_at_the_next_start_and_names_who_runs_with_more(vm, lab):
    higher = cluster_cpu(lab, "--set", "Westmere-v1,+avx2")["model"]
    guest = vm("--machine", "pc-q35-7.2")
    assert guest.document()["status"]["cpu_model"] == higher
    running = cluster_cpu(lab, "--set", "Nehalem-v1")["plan"]["vms"]
    mine = next(item for item in running if item["vm"] == guest.name)
    assert mine["follows"] and {"aes", "avx2"} <= set(mine["more"])
    assert guest.document()["status"]["cpu_model"] == higher
    lab.drover("vm", "stop", guest.name, "--force")
    guest.start("host2")
    assert guest.document()["status"]["cpu_model"] == "Nehalem-v1"
    assert guest.name not in [item["vm"] for item in cluster_cpu(lab)["plan"]["vms"]]


def test_baseline_is_known_of_hosts_that_are_away(lab):
    before = cluster_cpu(lab)["computed"]
    lab.kill("host1", "agent")
    lab.restart("manager", "manager")
    lab.wait_connected(["host2"])
    assert cluster_cpu(lab)["computed"]["model"] == before["model"]
    assert len(cluster_cpu(lab)["computed"]["kinds"]) == 2
    lab.start("host1", "agent")
    lab.wait_connected()
