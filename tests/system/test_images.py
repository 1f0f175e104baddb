# SPDX-License-Identifier: Apache-2.0
"""Disks come from and go into images of other products: content and checksums hold, what is hostile is refused, and nothing half made is left."""

import hashlib
import itertools
import json
import os
import pathlib
import subprocess
import tarfile
import uuid

import pytest
from labkit.lab import wait_for
from manager_faults import Request, restart_to_die_at, wait_dead_at

LAB = {"hosts": 1, "qemu_versions": {"host1": "10.0"}}
MIB = 1 << 20

_numbers = itertools.count()


def qemu_img(*words):
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def incoming(lab):
    """A folder on the datastore with an image of another product in each format, all of one content."""
    folder = lab.folder / "shared/incoming"
    folder.mkdir()
    with open(folder / "web.raw", "wb") as image:
        image.write(os.urandom(3 * MIB))
        image.truncate(16 * MIB)
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", folder / "web.raw", folder / "web.vmdk")
    qemu_img("convert", "-f", "raw", "-O", "vhdx", folder / "web.raw", folder / "web.vhdx")
    return folder


@pytest.fixture
def empty_vm(lab):
    """A virtual machine that is off and has no disk yet."""
    name = f"img{next(_numbers)}"
    lab.drover("vm", "create", name, "--memory", "64M", "--datastore", "shared", "--host", "host1")
    yield name
    lab.drover("vm", "delete", name)
    assert not (lab.folder / "shared" / name).exists(), "its folder goes with everything in it"


def disks_of(lab, name):
    return lab.drover_json("vm", "show", name)["spec"].get("disks", [])


def content(path, image_format):
    flat = path.with_name(path.name + ".flat")
    qemu_img("convert", "-f", image_format, "-O", "raw", path, flat)
    data = flat.read_bytes()
    flat.unlink()
    return data


def leftovers(lab):
    return [str(path) for path in (lab.folder / "shared").rglob("*.part")] + \
        [str(path) for path in lab.folder.rglob("image-jobs/*")]


def test_disk_that_was_imported_and_exported_again_has_the_same_content(lab, empty_vm, incoming):
    done = lab.drover("vm", "import-disk", empty_vm, "shared:incoming/web.vmdk")
    assert sha256(incoming / "web.vmdk") in done, "the checksum of the image is kept"
    disk, = disks_of(lab, empty_vm)
    assert (disk["path"], disk["format"], disk["size_bytes"]) == (f"{empty_vm}/disk0.qcow2", "qcow2", 16 * MIB)
    made = lab.folder / "shared" / disk["path"]
    assert content(made, "qcow2") == (incoming / "web.raw").read_bytes()
    for ending, image_format in (("vmdk", "vmdk"), ("vhdx", "vhdx"), ("vdi", "vdi"), ("raw", "raw")):
        out = lab.folder / f"shared/exports/{empty_vm}.{ending}"
        told = lab.drover("vm", "export-disk", empty_vm, "disk0", f"shared:exports/{empty_vm}.{ending}")
        assert sha256(out) in told
        assert out.with_name(out.name + ".sha256").read_text() == f"{sha256(out)}  {out.name}\n"
        assert content(out, image_format) == (incoming / "web.raw").read_bytes(), ending
    # The checksum that was written beside the image is compared when it comes back.
    lab.drover("vm", "import-disk", empty_vm, f"shared:exports/{empty_vm}.vhdx", "--to-format", "raw", "--name", "back")
    assert (lab.folder / f"shared/{empty_vm}/back.raw").read_bytes() == (incoming / "web.raw").read_bytes()
    out = lab.folder / f"shared/exports/{empty_vm}.vdi"
    with open(out, "r+b") as image:
        image.seek(2 * MIB)
        image.write(b"changed")
    refused = lab.run_drover("vm", "import-disk", empty_vm, f"shared:exports/{empty_vm}.vdi")
    assert refused.returncode == 1 and "has the checksum" in refused.stderr, refused.stderr
    assert leftovers(lab) == []


def test_imported_disk_is_a_disk_of_the_guest(lab, vm, incoming):
    guest = vm(append="workload.disk=0", start=False)
    lab.drover("vm", "import-disk", guest.name, "shared:incoming/web.raw", "--to-format", "raw")
    guest.start("host1")
    disk = disks_of(lab, guest.name)[1]
    assert disk["size_bytes"] == 16 * MIB
    refused = lab.run_drover("vm", "export-disk", guest.name, "disk1", "shared:exports/running.raw")
    assert refused.returncode == 5 and "Stop it first" in refused.stderr, refused.stderr


def hostile(folder, name):
    """An image that shows its reader a file of the host, and what the refusal says."""
    secret, path = folder / "secret", folder / f"{name}.{name.partition('-')[0]}"
    secret.write_bytes(b"s" * MIB)
    if name == "qcow2-backing":
        qemu_img("create", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", "-u", path, "1M")
    elif name == "qcow2-data":
        qemu_img("create", "-f", "qcow2", "-o", f"data_file={secret},data_file_raw=on", path, "1M")
    elif name == "vmdk-descriptor":
        path.write_text('# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
                        f'RW 2048 FLAT "{secret}" 0\nddb.adapterType = "ide"\n')
    return path


@pytest.mark.parametrize("name", ["qcow2-backing", "qcow2-data", "vmdk-descriptor"])
def test_image_that_names_a_file_of_the_host_is_refused(lab, empty_vm, incoming, name):
    path = hostile(incoming, name)
    refused = lab.run_drover("vm", "import-disk", empty_vm, f"shared:incoming/{path.name}")
    assert refused.returncode == 1 and "refers to another file" in refused.stderr, refused.stderr
    assert "qemu-img convert" in refused.stderr, "the way out"
    assert disks_of(lab, empty_vm) == [] and leftovers(lab) == []


@pytest.mark.parametrize("name, says", [("shared:../secret.raw", ".."), ("shared:/etc/passwd", "no file on a datastore"),
                                        ("nowhere:web.raw", "nowhere"), ("shared:incoming/none.raw", "none.raw"),
                                        ("shared:incoming/web", "does not tell the format")])
def test_name_that_is_no_image_on_a_datastore_is_refused(lab, empty_vm, incoming, name, says):
    refused = lab.run_drover("vm", "import-disk", empty_vm, name)
    assert refused.returncode in (1, 2, 3) and says in refused.stderr, refused.stderr
    assert disks_of(lab, empty_vm) == [] and leftovers(lab) == []


@pytest.mark.parametrize("name", ["nvram.fd", "vm.json", "suspend.k3.state"])
def test_record_of_a_virtual_machine_is_no_image(lab, empty_vm, name):
    refused = lab.run_drover("vm", "import-disk", empty_vm, f"shared:other/{name}", "--format", "raw")
    assert refused.returncode != 0 and "records of virtual machines" in refused.stderr, refused.stderr


def test_disk_that_the_machine_has_no_port_for_is_refused_before_the_work(lab, empty_vm, incoming):
    # With work it would fail for another reason: there is no such file.
    refused = lab.run_drover("vm", "import-disk", empty_vm, "shared:incoming/none.vmdk", "--bus", "ide")
    assert refused.returncode == 1 and "no IDE controller" in refused.stderr and "virtio" in refused.stderr, refused.stderr
    assert disks_of(lab, empty_vm) == [] and leftovers(lab) == []


@pytest.mark.parametrize("words", [("export-disk", "disk0", "web.qcow2"), ("export", "web.ova")])
def test_export_neither_replaces_nor_removes_the_checksum_of_another_file(lab, empty_vm, incoming, words):
    """Of a copy that has gone elsewhere: PATH.sha256 is there, PATH is not; and what an export that is undone removes is its own."""
    kind, *disk, name = words
    if not disks_of(lab, empty_vm):
        lab.drover("vm", "import-disk", empty_vm, "shared:incoming/web.raw")
    folder = lab.folder / f"shared/kept-{kind}"
    folder.mkdir()
    kept = folder / f"{name}.sha256"
    kept.write_text("of a copy on a tape\n")
    refused = lab.run_drover("vm", kind, empty_vm, *disk, f"shared:{folder.name}/{name}")
    assert refused.returncode == 5 and f"{name}.sha256 is there already" in refused.stderr, refused.stderr
    assert [path.name for path in folder.iterdir()] == [kept.name] and kept.read_text() == "of a copy on a tape\n"
    kept.unlink()
    # It comes into being while the export is under way, which dies when its file has its name.
    gate = lab.folder / f"gate-{next(_numbers)}"
    lab.restart("host1", "agent", {"DROVER_CRASH_AT": f"image-job-named:{gate},image-job-lost:{gate}-lost"})
    lab.wait_connected()
    task = lab.drover_json("--no-wait", "vm", kind, empty_vm, *disk, f"shared:{folder.name}/{name}")["name"]
    wait_for("the agent to die", lambda: gate.exists() and not lab.find("host1", "agent"), 60, 0.05)
    kept.write_text("of a copy on a tape\n")
    lab.start("host1", "agent")
    lab.wait_connected()
    wait_for("the task to end", lambda: lab.drover_json("task", "show", task)["status"]["finished"], 60)
    status = lab.drover_json("task", "show", task)["status"]
    assert status["state"] == "failed" and f"{name}.sha256 is there already" in str(status), status
    assert [path.name for path in folder.iterdir()] == [kept.name] and kept.read_text() == "of a copy on a tape\n"


def test_export_neither_replaces_a_file_nor_goes_into_the_folder_of_a_vm(lab, empty_vm, incoming):
    lab.drover("vm", "import-disk", empty_vm, "shared:incoming/web.raw")
    before = sha256(incoming / "web.raw")
    there = lab.run_drover("vm", "export-disk", empty_vm, "disk0", "shared:incoming/web.raw")
    assert there.returncode == 5 and "is there already" in there.stderr, there.stderr
    assert sha256(incoming / "web.raw") == before
    inside = lab.run_drover("vm", "export-disk", empty_vm, "disk0", f"shared:{empty_vm}/suspend.raw")
    assert inside.returncode == 5 and "folder of the virtual machine" in inside.stderr, inside.stderr
    long = lab.run_drover("vm", "export-disk", empty_vm, "disk0", f"shared:{'l' * 240}.raw")
    assert long.returncode != 0 and "more than 237" in long.stderr, long.stderr
    assert not list((lab.folder / "shared").glob("*lll*"))
    record = lab.run_drover("vm", "export-disk", empty_vm, "disk0", "shared:exports/owner.json")
    assert record.returncode != 0 and "records of virtual machines" in record.stderr, record.stderr
    assert leftovers(lab) == []


# Where the agent ends, or its helper, and the agent with it.
POINTS = ("image-job-journalled", "image-job-begun", "image-job-made", "image-job-named", "image-job-done")
SOME_POINTS = ("image-job-begun", "image-job-named")


STEPS = ("find", "read", "follow", "describe", "create", "disks", "attach", "forget-disks", "forget")
MANAGER_POINTS = [f"vm.import-{when}-{step}" for step in STEPS for when in ("before", "after")]
SOME_MANAGER_POINTS = ("vm.import-after-describe", "vm.import-before-attach")


def pytest_generate_tests(metafunc):
    if "manager_point" in metafunc.fixturenames:
        metafunc.parametrize("manager_point", MANAGER_POINTS if metafunc.config.getoption("--all-points") else SOME_MANAGER_POINTS)
    if "point" in metafunc.fixturenames:
        metafunc.parametrize("point", POINTS if metafunc.config.getoption("--all-points") else SOME_POINTS)


def test_agent_that_dies_at_a_point_makes_the_disk_after_all(lab, empty_vm, incoming, point):
    gate = lab.folder / f"gate-{next(_numbers)}"
    lost = f",image-job-lost:{gate}-lost" if point in ("image-job-begun", "image-job-made", "image-job-named") else ""
    lab.restart("host1", "agent", {"DROVER_CRASH_AT": f"{point}:{gate}{lost}"})
    lab.wait_connected()
    task = lab.drover_json("--no-wait", "vm", "import-disk", empty_vm, "shared:incoming/web.vhdx")["name"]
    wait_for(f"the agent to die at {point}", lambda: gate.exists() and not lab.find("host1", "agent"), 60, 0.05)
    lab.start("host1", "agent")
    lab.wait_connected()
    wait_for("the task to end", lambda: lab.drover_json("task", "show", task)["status"]["finished"], 60)
    status = lab.drover_json("task", "show", task)["status"]
    assert status["state"] == "succeeded", status
    disk, = disks_of(lab, empty_vm)
    assert content(lab.folder / "shared" / disk["path"], "qcow2") == (incoming / "web.raw").read_bytes()
    assert leftovers(lab) == []


def test_work_that_nobody_has_forgotten_does_not_keep_a_host_from_more(lab, empty_vm, incoming):
    folder = next(path for path in lab.folder_of("host1").rglob("image-jobs") if path.is_dir())
    ids = [str(uuid.uuid4()) for _ in range(256)]
    place = {"datastore": "shared", "path": "none.qcow2", "format": "qcow2"}
    for job in ids:
        request = {"id": job, "kind": "convert", "timeout_ms": 1000, "source": place, "target": place}
        (folder / f"{job}.json").write_text(json.dumps({"format": 1, "request": request, "result": {}}))
    lab.restart("host1", "agent")
    lab.wait_connected()
    lab.drover("vm", "import-disk", empty_vm, "shared:incoming/web.vmdk")
    kept = [path for path in folder.iterdir() if path.stem in ids]
    assert len(kept) == 255, "the oldest has made room"
    for path in kept:
        path.unlink()
    lab.restart("host1", "agent")
    lab.wait_connected()
    assert leftovers(lab) == []


def test_helper_that_dies_fails_the_task_and_leaves_nothing(lab, empty_vm, incoming):
    gate = lab.folder / f"gate-{next(_numbers)}"
    lab.restart("host1", "agent", {"DROVER_CRASH_AT": f"image-job-named:{gate}"})
    lab.wait_connected()
    failed = lab.run_drover("vm", "import-disk", empty_vm, "shared:incoming/web.vmdk")
    assert failed.returncode == 1 and "died" in failed.stderr, failed.stderr
    assert disks_of(lab, empty_vm) == [] and leftovers(lab) == []
    assert not (lab.folder / f"shared/{empty_vm}/disk0.qcow2").exists()
    lab.drover("vm", "import-disk", empty_vm, "shared:incoming/web.vmdk")


def test_cancelled_import_leaves_nothing(lab, empty_vm, incoming):
    big = incoming / "big.raw"
    subprocess.run(["fallocate", "-l", "1500M", big], check=True)
    with open(big, "r+b") as image:
        image.write(os.urandom(MIB))
    task = lab.drover_json("--no-wait", "vm", "import-disk", empty_vm, "shared:incoming/big.raw", "--to-format", "raw")["name"]
    wait_for("the helper to have begun", lambda: leftovers(lab), 30, 0.02)
    lab.drover("task", "cancel", task)
    wait_for("the task to end", lambda: lab.drover_json("task", "show", task)["status"]["finished"], 60)
    assert lab.drover_json("task", "show", task)["status"]["state"] == "cancelled"
    big.unlink()
    assert disks_of(lab, empty_vm) == [] and leftovers(lab) == []


def boot_sector(text):
    """A program that a PC's firmware loads from the disk: for each character waits until the port takes it, and sends it."""
    # xor ax,ax; mov ds,ax; cld; mov si,text; next: lodsb; test al,al; jz halt; mov ah,al; mov dx,3fdh; wait: in al,dx; test al,20h; jz wait
    program = bytearray(b"\x31\xc0\x8e\xd8\xfc\xbe\x00\x00")
    loop = len(program)
    program += b"\xac\x84\xc0\x74\x00"
    jump = len(program) - 1
    program += b"\x88\xc4\xba\xfd\x03"
    wait = len(program)
    program += b"\xec\xa8\x20\x74" + (wait - (len(program) + 5) & 0xff).to_bytes(1, "little")
    program += b"\x88\xe0\xba\xf8\x03\xee\xeb"  # mov al,ah; mov dx,3f8h; out dx,al; jmp next
    program += (loop - (len(program) + 1) & 0xff).to_bytes(1, "little")
    program[jump] = len(program) - (jump + 1)
    program += b"\xf4\xeb\xfd"  # halt: hlt; jmp halt
    program[6:8] = (0x7c00 + len(program)).to_bytes(2, "little")
    return (bytes(program) + text.encode() + b"\0").ljust(510, b"\0") + b"\x55\xaa"


def ovf_of(disk_file, capacity_mib):
    """As VMware's ovftool writes it, shortened."""
    def item(kind, *rest):
        return "<Item>" + "".join(f"<rasd:{tag}>{text}</rasd:{tag}>" for tag, text in sorted([*rest, ("InstanceID", kind), ("ResourceType", kind)])) + "</Item>"

    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!--Generated by VMware ovftool-->
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
<References><File ovf:href="{disk_file}" ovf:id="file1"/></References>
<DiskSection><Info>Virtual disk information</Info><Disk ovf:capacity="{capacity_mib}" ovf:capacityAllocationUnits="byte * 2^20" ovf:diskId="vmdisk1"
 ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
<NetworkSection><Info>The list of logical networks</Info><Network ovf:name="VM Network"><Description>x</Description></Network></NetworkSection>
<VirtualSystem ovf:id="web"><Info>A virtual machine</Info><Name>web</Name><VirtualHardwareSection><Info>Virtual hardware requirements</Info>
<System><vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType></System>
{item(3, ("VirtualQuantity", 2), ("AllocationUnits", "hertz * 10^6"))}
{item(4, ("VirtualQuantity", 96), ("AllocationUnits", "byte * 2^20"))}
{item(6, ("ResourceSubType", "lsilogic"))}
{item(17, ("HostResource", "ovf:/disk/vmdisk1"), ("Parent", 6), ("AddressOnParent", 0))}
{item(10, ("Connection", "VM Network"), ("ResourceSubType", "VmxNet3"))}
</VirtualHardwareSection></VirtualSystem></Envelope>
"""


def make_appliance(folder, name, ovf=None, manifest=True, spoil=None):
    """NAME.ova; also the files that it is made of."""
    flat = folder / f"{name}.flat"
    with open(flat, "wb") as image:
        image.write(boot_sector(f"{name} has booted\r\n"))
        image.seek(MIB)
        image.write(os.urandom(MIB))
        image.truncate(8 * MIB)
    disk = folder / f"{name}-disk1.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", flat, disk)
    (folder / f"{name}.ovf").write_text(ovf or ovf_of(disk.name, 8))
    members = [folder / f"{name}.ovf"]
    if manifest:
        mf = folder / f"{name}.mf"
        mf.write_text("".join(f"SHA256({path.name})= {sha256(path)}\n" for path in (members[0], disk)))
        members.append(mf)
    members.append(disk)
    if spoil:
        data = bytearray(disk.read_bytes())
        data[spoil] ^= 0xff
        disk.write_bytes(data)
    with tarfile.open(folder / f"{name}.ova", "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in members:
            archive.add(path, path.name)
    return flat


@pytest.mark.parametrize("form", ["ova", "ovf"])
def test_appliance_of_another_product_becomes_a_virtual_machine_that_boots(lab, incoming, form):
    flat = make_appliance(incoming, f"web{form}")
    lab.drover("vm", "import", f"shared:incoming/web{form}.{form}", "--net-map", "VM Network=default")
    document = lab.drover_json("vm", "show", f"web{form}")
    spec, disk = document["spec"], document["spec"]["disks"][0]
    assert (spec["cpus"], spec["memory_bytes"], spec["firmware"]) == (2, 96 * MIB, "bios")
    assert [(nic["port_group"], nic["model"]) for nic in spec["nics"]] == [("default", "e1000")]
    assert content(lab.folder / "shared" / disk["path"], "qcow2") == flat.read_bytes()
    assert leftovers(lab) == []
    lab.drover("vm", "start", f"web{form}")
    wait_for("the disk's program to speak", lambda: f"web{form} has booted" in lab.drover("vm", "console", f"web{form}"), 60)
    lab.drover("vm", "stop", "--force", f"web{form}")
    lab.drover("vm", "delete", f"web{form}")


def hostile_appliance(folder, case):
    name = f"bad-{case}"
    disk = f"{name}-disk1.vmdk"
    if case == "damaged":
        make_appliance(folder, name, spoil=70000)
    elif case == "outside":
        make_appliance(folder, name, ovf=ovf_of("../../secret", 8))
    elif case == "missing":
        make_appliance(folder, name, ovf=ovf_of("other.vmdk", 8))
    elif case == "entity":
        make_appliance(folder, name, ovf='<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>' + ovf_of(disk, 8))
    elif case == "cut":
        make_appliance(folder, name)
        os.truncate(folder / f"{name}.ova", (folder / f"{name}.ova").stat().st_size // 2)
    elif case == "unmapped":
        make_appliance(folder, name)
    return name


@pytest.mark.parametrize("case, says", [("damaged", "has the checksum"), ("outside", "own folder"), ("missing", "has no file other.vmdk"),
                                        ("entity", "document type"), ("cut", "cut off"), ("unmapped", "--net-map")])
def test_appliance_that_is_no_good_is_refused_and_leaves_nothing(lab, incoming, case, says):
    name = hostile_appliance(incoming, case)
    words = () if case == "unmapped" else ("--net-map", "VM Network=default")
    refused = lab.run_drover("vm", "import", f"shared:incoming/{name}.ova", *words)
    assert refused.returncode == 1 and says in refused.stderr, refused.stderr
    assert lab.run_drover("vm", "show", name).returncode == 3
    assert not (lab.folder / "shared" / name).exists()
    assert leftovers(lab) == []


def test_appliance_with_more_disks_than_the_bus_takes_is_refused_before_the_work(lab, incoming):
    """SATA, which is used unless another bus is named, takes six."""
    one = ovf_of("x-disk1.vmdk", 8)
    numbers = range(2, 8)
    files = "".join(f'<File ovf:href="x-disk{n}.vmdk" ovf:id="file{n}"/>' for n in numbers)
    disks = "".join(f'<Disk ovf:capacity="8" ovf:diskId="vmdisk{n}" ovf:fileRef="file{n}"/>' for n in numbers)
    items = "".join(f"<Item><rasd:HostResource>ovf:/disk/vmdisk{n}</rasd:HostResource><rasd:InstanceID>4{n}</rasd:InstanceID>"
                    "<rasd:ResourceType>17</rasd:ResourceType></Item>" for n in numbers)
    ovf = one.replace("</References>", files + "</References>").replace("</DiskSection>", disks + "</DiskSection>")
    (incoming / "many.ovf").write_text(ovf.replace("</VirtualHardwareSection>", items + "</VirtualHardwareSection>"))
    # With work it would fail for another reason: its disks are not there yet.
    refused = lab.run_drover("vm", "import", "shared:incoming/many.ovf", "--net-map", "VM Network=")
    assert refused.returncode == 1 and "SATA controller takes 6" in refused.stderr, refused.stderr
    assert not (lab.folder / "shared/many").exists() and leftovers(lab) == []
    for n in range(1, 8):
        qemu_img("create", "-f", "vmdk", incoming / f"x-disk{n}.vmdk", "8M")
    lab.drover("vm", "import", "shared:incoming/many.ovf", "--net-map", "VM Network=", "--bus", "virtio")
    assert len(disks_of(lab, "many")) == 7
    lab.drover("vm", "delete", "many")


def test_agent_that_dies_in_an_import_does_it_after_all(lab, incoming):
    gate = lab.folder / f"gate-{next(_numbers)}"
    make_appliance(incoming, "again")
    lab.restart("host1", "agent", {"DROVER_CRASH_AT": f"image-job-named:{gate},image-job-lost:{gate}-lost"})
    lab.wait_connected()
    task = lab.drover_json("--no-wait", "vm", "import", "shared:incoming/again.ova", "--net-map", "VM Network=")["name"]
    wait_for("the agent to die", lambda: gate.exists() and not lab.find("host1", "agent"), 60, 0.05)
    lab.start("host1", "agent")
    lab.wait_connected()
    wait_for("the task to end", lambda: lab.drover_json("task", "show", task)["status"]["finished"], 60)
    assert lab.drover_json("task", "show", task)["status"]["state"] == "succeeded"
    spec = lab.drover_json("vm", "show", "again")["spec"]
    assert spec.get("nics", []) == [] and len(spec["disks"]) == 1
    assert leftovers(lab) == []
    lab.drover("vm", "delete", "again")


def test_archive_that_is_changed_after_its_description_was_read_is_refused(lab, incoming):
    make_appliance(incoming, "swapped", manifest=False)
    restart_to_die_at(lab, "manager", "vm.import-before-disks")
    request = Request(lab, "vm", "import", "shared:incoming/swapped.ova", "--net-map", "VM Network=")
    wait_dead_at(lab, "manager", "vm.import-before-disks")
    with open(incoming / "swapped.ova", "r+b") as archive:
        archive.seek(-1, os.SEEK_END)
        archive.write(b"x")
    lab.start("manager", "manager")
    lab.wait_connected()
    task = request.task()
    wait_for("the task to end", lambda: lab.drover_json("task", "show", task)["status"]["finished"], 60)
    status = lab.drover_json("task", "show", task)["status"]
    assert status["state"] == "failed" and "was changed while it was read" in str(status), status
    assert not (lab.folder / "shared/swapped").exists() and leftovers(lab) == []


def test_virtual_machine_that_is_exported_comes_back_as_it_was(lab, vm, incoming):
    lab.drover("vm", "create", "out", "--memory", "96M", "--cpus", "2", "--firmware", "uefi", "--datastore", "shared", "--host", "host1", "--net", "default")
    lab.drover("vm", "import-disk", "out", "shared:incoming/web.raw")
    told = lab.drover("vm", "export", "out", "shared:exports/out.ova")
    archive = lab.folder / "shared/exports/out.ova"
    assert sha256(archive) in told
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["out.ovf", "out.mf", "out-disk1.vmdk"]
        manifest = tar.extractfile("out.mf").read().decode()
        for name in ("out.ovf", "out-disk1.vmdk"):
            assert f"SHA256({name})= {hashlib.sha256(tar.extractfile(name).read()).hexdigest()}" in manifest
    assert leftovers(lab) == []
    refused = lab.run_drover("vm", "export", "out", "shared:exports/out.ova")
    assert refused.returncode == 5 and "is there already" in refused.stderr, refused.stderr
    lab.drover("vm", "import", "shared:exports/out.ova", "--name", "in", "--net-map", "default=default")
    spec = lab.drover_json("vm", "show", "in")["spec"]
    assert (spec["cpus"], spec["memory_bytes"], spec["firmware"], len(spec["nics"])) == (2, 96 * MIB, "uefi", 1)
    assert content(lab.folder / "shared" / spec["disks"][0]["path"], "qcow2") == (incoming / "web.raw").read_bytes()
    for name in ("out", "in"):
        lab.drover("vm", "delete", name)
    assert leftovers(lab) == []


def test_manager_that_dies_at_a_step_of_an_import_goes_on_with_it(lab, incoming, manager_point):
    if not (incoming / "step.ova").exists():
        make_appliance(incoming, "step")
    restart_to_die_at(lab, "manager", manager_point)
    request = Request(lab, "vm", "import", "shared:incoming/step.ova", "--net-map", "VM Network=")
    wait_dead_at(lab, "manager", manager_point)
    lab.start("manager", "manager")
    lab.wait_connected()
    task = request.task()
    wait_for("the task to end", lambda: lab.drover_json("task", "show", task)["status"]["finished"], 60)
    status = lab.drover_json("task", "show", task)["status"]
    assert status["state"] == "succeeded", status
    disk, = disks_of(lab, "step")
    assert content(lab.folder / "shared" / disk["path"], "qcow2") == (incoming / "step.flat").read_bytes()
    assert leftovers(lab) == []
    lab.drover("vm", "delete", "step")


@pytest.fixture
def tight(lab):
    """A datastore of 80 MiB, of which a conversion leaves 64 to the guests' disks."""
    path = lab.folder_of("host1") / "datastores/tight"
    path.mkdir()
    lab.machines.run("host1", "mount", "-t", "tmpfs", "-o", "size=80m,mode=0755", "tmpfs", path)
    lab.drover("datastore", "add", "tight", path, "--local")
    yield path
    lab.drover("datastore", "remove", "tight")
    lab.machines.run("host1", "umount", "--lazy", path)


def test_datastore_without_room_is_refused_or_left_as_it_was(lab, empty_vm, incoming, tight):
    for name, mib in (("large", 20), ("middle", 10)):
        with open(incoming / f"{name}.raw", "wb") as image:
            for _ in range(mib):
                image.write(os.urandom(MIB))
    before = lab.run_drover("vm", "import-disk", empty_vm, "shared:incoming/large.raw", "--to-datastore", "tight")
    assert before.returncode == 1 and "has room for" in before.stderr, before.stderr
    lab.drover("vm", "import-disk", empty_vm, "shared:incoming/middle.raw")
    # The disk once, and the archive: what is kept for guests would be gone with the second. How much a compressed copy takes nobody knows before.
    archive = lab.run_drover("vm", "export", empty_vm, "tight:middle.ova")
    lab.drover("vm", "import-disk", empty_vm, "shared:incoming/large.raw")
    during = lab.run_drover("vm", "export-disk", empty_vm, "disk1", "tight:large.vmdk", "--stream")
    held = lab.machines.run("host1", "ls", "-A", tight).split()
    for export in (archive, during):
        assert export.returncode == 1 and "kept free for guests" in export.stderr, export.stderr
    assert held == [".drover-datastore"], held
