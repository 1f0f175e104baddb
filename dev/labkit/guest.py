# SPDX-License-Identifier: Apache-2.0
"""Builds the test guests from Debian packages. Nothing is installed on, or mounted by, the building machine."""

import functools
import pathlib
import random
import re
import shutil
import subprocess

from . import apt, cache, initrd

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SOURCES = REPOSITORY / "tests/lab/workload"
RECIPES = REPOSITORY / "dev/guests"
KERNEL_PACKAGE = "linux-image-cloud-amd64"

# In load order: each needs those before it.
MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "failover",
           "net_failover", "virtio_net", "virtio_blk", "button", "evdev", "virtio-rng", "virtio_balloon")
APPLETS = ("sh", "mount", "insmod", "cat", "cut", "ip", "cp", "switch_root")
APPEND = "console=ttyS0 quiet panic=1"
POSTGRES_IMAGE_SIZE = "1536M"
SERVICES_IMAGE_SIZE = "1536M"
SERVICES = ("web", "redis", "build")  # guest.service= on the kernel command line starts one of them
SERVICES_PACKAGES = "nginx-light,redis-server,gcc,libc6-dev"
# What the web service offers: pages of text and pictures, that is, bytes that no codec shrinks.
WEB_FILES = {"html": 256, "jpg": 256}
WEB_SEED = 1


def _run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, text=True, stdout=subprocess.PIPE,
                          **options).stdout


def _kernel_package():
    """The package with the kernel itself; the cloud one is only a name that depends on the newest."""
    apt.refresh()
    found = re.search(r"Depends: (linux-image-\S+)", _run("apt-cache", "depends", KERNEL_PACKAGE))
    if not found:
        raise SystemExit(f"apt-cache knows no {KERNEL_PACKAGE}: run apt-get update")
    return found[1]


def _version(name):
    return _run("apt-cache", "show", "--no-all-versions", name).split("Version: ")[1].split()[0]


def _unpacked(*packages):
    """Folder with these packages unpacked, at the versions the machine's sources have now."""
    versions = [f"{name}={apt.answer(f'version of {name}', lambda n=name: _version(n))}" for name in packages]
    return cache.get(packages[0], cache.recipe_hash(*versions), lambda folder: apt.unpack(versions, folder))


def _only(folder, pattern):
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{len(found)} files match {folder}/{pattern}, expected one")
    return found[0]


def _workload_sources():
    return sorted(SOURCES.glob("*.[ch]"))


def _compile_workload(folder):
    program = folder / "workload"
    _run("cc", "-static", "-O2", "-std=gnu17", "-D_GNU_SOURCE", "-pthread", "-o", program, *SOURCES.glob("*.c"))
    return program


def _make_initrd(kernel, program):
    archive = initrd.Archive()
    for name in ("bin", "dev", "modules", "proc", "root", "sys"):
        archive.folder(name)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", pathlib.Path("/bin/busybox").read_bytes(), 0o755)
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    archive.file("modules/order", " ".join(MODULES).encode())
    for module in MODULES:
        archive.file(f"modules/{module}.ko", _only(kernel, f"lib/modules/*/kernel/**/{module}.ko").read_bytes())
    archive.file("workload", program.read_bytes(), 0o755)
    archive.file("init", (RECIPES / "init").read_bytes(), 0o755)
    return archive.finish()


def build_workload():
    """vmlinuz, initrd, append: boots by direct kernel boot in seconds. See tests/lab/workload/workload.h."""
    kernel = _unpacked(apt.answer(KERNEL_PACKAGE, _kernel_package))

    def build(folder):
        shutil.copy(_only(kernel, "boot/vmlinuz-*"), folder / "vmlinuz")
        program = _compile_workload(folder)
        (folder / "initrd").write_bytes(_make_initrd(kernel, program))
        program.unlink()
        (folder / "append").write_text(APPEND, encoding="ascii")

    return cache.get("guest-workload", cache.recipe_hash(
        kernel.name, *_workload_sources(), RECIPES / "init", pathlib.Path(__file__)), build)


def _build_debian(folder, packages, name, image_size, fill=None):
    """Files of a guest with a Debian root file system: fill(root) adds to it, dev/guests/NAME-setup runs in it, and NAME-start
    is the first program."""
    base = build_workload()
    for part in ("vmlinuz", "initrd"):
        shutil.copy(base / part, folder / part)
    (folder / "append").write_text(f"{APPEND} root=/dev/vda workload.device=none", encoding="ascii")
    root = folder / "root"
    _run("debootstrap", "--variant=minbase", f"--include={packages}", apt.codename(), root, apt.mirror())
    if fill:
        fill(root)
    shutil.copy(RECIPES / f"{name}-start", root / "sbin/guest-start")
    shutil.copy(RECIPES / f"{name}-setup", root / "setup")
    _run("chroot", root, "sh", "/setup")
    (root / "setup").unlink()
    raw = folder / "disk.raw"
    _run("mke2fs", "-q", "-t", "ext4", "-d", root, raw, image_size)
    _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, folder / "disk.qcow2")
    raw.unlink()
    shutil.rmtree(root)


def build_postgres():
    """As workload, and disk.qcow2: a Debian root file system with PostgreSQL on its usual port, open to the guests' network."""
    return cache.get("guest-postgres", cache.recipe_hash(
        build_workload().name, apt.codename(), POSTGRES_IMAGE_SIZE, RECIPES / "postgres-start", RECIPES / "postgres-setup"),
                     lambda folder: _build_debian(folder, "postgresql-15", "postgres", POSTGRES_IMAGE_SIZE))


def _fill_services(root):
    """The files that nginx serves, the same in every build, and what the build service compiles."""
    numbers = random.Random(WEB_SEED)
    words = [f"{numbers.getrandbits(40):x}"[:numbers.randint(2, 9)] for _ in range(2000)]
    web = root / "srv/web"
    web.mkdir(parents=True)
    for kind, count in WEB_FILES.items():
        for number in range(count):
            size = numbers.randint(4, 256) << 10
            content = " ".join(numbers.choices(words, k=size // 7)).encode() if kind == "html" else numbers.randbytes(size)
            (web / f"{number}.{kind}").write_bytes(content)
    (root / "srv/build/src").mkdir(parents=True)
    shutil.copy(RECIPES / "build-server", root / "srv/build/server")
    for source in _workload_sources():
        shutil.copy(source, root / "srv/build/src")


def build_services():
    """As workload, and disk.qcow2: a Debian root file system with nginx, redis and a build service; guest.service= on the kernel
    command line says which of them runs."""
    recipes = sorted(RECIPES.glob("services-*")) + [RECIPES / "build-server"]
    return cache.get("guest-services", cache.recipe_hash(
        build_workload().name, apt.codename(), SERVICES_IMAGE_SIZE, SERVICES_PACKAGES, str(WEB_FILES), WEB_SEED, *recipes),
                     lambda folder: _build_debian(folder, SERVICES_PACKAGES, "services", SERVICES_IMAGE_SIZE, _fill_services))


def build_uefi():
    """disk.raw: a FAT file system with one EFI program that is kernel, initrd and command line in one. The workload
    program keeps its records on a second disk."""
    base = build_workload()
    stub = _unpacked("systemd-boot-efi")

    def build(folder):
        (folder / "cmdline").write_text(f"{APPEND} workload.device=/dev/vdb\0", encoding="ascii")
        program = folder / "BOOTX64.EFI"
        # Where the stub of systemd-boot looks for its parts; the addresses leave room for each, see systemd-stub(7).
        sections = ((".cmdline", folder / "cmdline", "0x30000"), (".linux", base / "vmlinuz", "0x2000000"),
                    (".initrd", base / "initrd", "0x4000000"))
        arguments = [part for name, path, address in sections for part in (
            "--add-section", f"{name}={path}", "--change-section-vma", f"{name}={address}")]
        _run("objcopy", *arguments, _only(stub, "usr/lib/systemd/boot/efi/linuxx64.efi.stub"), program)
        disk = folder / "disk.raw"
        _run("truncate", "--size=64M", disk)
        _run("mformat", "-i", disk, "-F", "::")
        _run("mmd", "-i", disk, "::/EFI", "::/EFI/BOOT")
        _run("mcopy", "-i", disk, program, "::/EFI/BOOT/")
        program.unlink()
        (folder / "cmdline").unlink()

    return cache.get("guest-uefi", cache.recipe_hash(base.name, stub.name), build)


GUESTS = {"workload": build_workload, "postgres": build_postgres, "services": build_services, "uefi": build_uefi}


@functools.cache
def build(name):
    """Folder with the files of the guest NAME, built on first use."""
    if name not in GUESTS:
        raise SystemExit(f"no guest {name!r}; there are: {', '.join(GUESTS)}")
    return GUESTS[name]()
