#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the first inputs for the fuzzers of the stream and the wire format; what is in corpus/ beside them was
found by fuzzing.

    tests/fuzz/make_seeds.py             into tests/fuzz/corpus/
"""

import io
import struct
import subprocess
import tarfile
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"
PAGE, STRIPE = 4096, 64
RAM = 512 * PAGE

HELLO, FRAME, AGENT, WAIT, QEMU, QEMU_HEAD, PAGES, DEVICE = range(1, 9)
F_PAGES, F_ZERO, F_SKELETON, F_DEVICE, F_BARRIER, F_VERIFY, F_VERIFY_REPLY = 3, 4, 5, 6, 7, 8, 9
F_REFERENCES, F_HELD, F_RECALL, F_SIBLINGS, F_MISSING = 16, 17, 18, 19, 21
F_ACK, F_COMMIT, F_DELIVERED, F_RESULT, F_ABORT, F_KEEPALIVE, F_HANDED_OFF = 10, 11, 12, 13, 14, 15, 20
F_RETURN_PATH, F_POST_COPY = 22, 23

# QEMU's return path
ADVISED, LOADED = struct.pack(">HHI", 2, 4, 0xd50ad715), struct.pack(">HHI", 2, 4, 3)
SHUT = struct.pack(">HHI", 1, 4, 0)
WANTS_PAGE = struct.pack(">HHQI", 4, 12, PAGE, PAGE)
WANTS_PAGE_OF = struct.pack(">HHQI", 3, 19, PAGE, PAGE) + b"\x06pc.ram"


def save(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def word(address, flags):
    return struct.pack(">Q", address | flags)


def stream_head(ram=RAM, blocks=((b"pc.ram", RAM),), uuid=False):
    out = b"QEVM" + struct.pack(">I", 3) + b"\x07" + struct.pack(">I", 13) + b"pc-i440fx-7.2"
    if uuid:
        out += b"\x05\x12configuration/uuid" + struct.pack(">I", 1) + bytes(range(16))
    out += b"\x08" + struct.pack(">HH", 1, 0) + b"\x08" + struct.pack(">HHI", 2, 4, 7)
    out += b"\x01" + struct.pack(">I", 2) + b"\x03ram" + struct.pack(">II", 0, 4)
    out += word(sum(size for _, size in blocks), 4)
    for name, size in blocks:
        out += bytes([len(name)]) + name + struct.pack(">Q", size)
    return out + word(0, 0x10) + b"\x7e" + struct.pack(">I", 2)


def section(kind, records):
    return bytes([kind]) + struct.pack(">I", 2) + records + word(0, 0x10) + b"\x7e" + struct.pack(">I", 2)


def page(number, data, name=b"pc.ram", flags=0):
    body = b"" if flags & 0x20 else bytes([len(name)]) + name
    return word(number * PAGE, (0x08 if len(data) == PAGE else 0x02) | flags) + body + data


def stream_seeds():
    text = b"0123456789abcdef" * 256
    two = stream_head(blocks=((b"pc.ram", RAM), (b"vga", 2 * PAGE)))
    end = section(3, page(1, text)) + b"\x04" + bytes(40) + b"\x00\x06" + struct.pack(">I", 2) + b"{}"
    save("stream_parser", "one-block", b"\x05" + stream_head() + section(2, page(0, text) + page(1, b"\0", flags=0x20)) + end)
    save("stream_parser", "two-blocks", b"\x01" + two + section(2, page(0, text, b"vga") + page(3, text) +
                                                        page(4, text, flags=0x20)) + end)
    save("stream_parser", "uuid", b"\x02" + stream_head(uuid=True) + end)
    save("stream_parser", "multifd-flush", b"\x07" + stream_head() + section(2, word(0, 0x200) + page(9, b"\0")) + end)
    save("stream_parser", "tunnel-in-section", b"\x03" + stream_head() +
         section(2, page(2, b"\0") + word(0, 0x80)) + b"anything")
    save("stream_parser", "tunnel-between", b"\x03" + stream_head() + section(2, page(2, b"\0")) +
         b"\x01" + struct.pack(">I", 9) + b"\x05block" + struct.pack(">II", 0, 1) + b"rest")
    save("stream_parser", "old-machine", b"\x01QEVM\0\0\0\3" + b"\x01rest")
    save("stream_parser", "switchover-start", b"\x01" + stream_head() + section(3, page(2, b"\0")) +
         b"\x08" + struct.pack(">HH", 11, 0) + b"\x04device")
    advise = b"\x08" + struct.pack(">HHQQ", 3, 16, PAGE, PAGE)
    discard = b"\x08" + struct.pack(">HH", 6, 3) + b"\0\1x"
    head = stream_head()
    at = head.index(b"\x01" + struct.pack(">I", 2) + b"\x03ram")
    save("stream_parser", "post-copy", b"\x83" + head[:at] + advise + head[at:] + section(2, page(0, text)) + discard + b"rest")
    save("stream_parser", "post-copy-not-needed", b"\x83" + head[:at] + advise + head[at:] + end)
    save("stream_parser", "post-copy-unexpected", b"\x03" + head[:at] + advise + head[at:] + end)
    save("stream_parser", "discard-too-early", b"\x83" + head[:at] + discard)
    save("stream_parser", "out-of-memory-range", b"\x09" + stream_head() + section(2, page(512, b"\0")))


def step(what, data=b"", channel=0):
    return bytes([what << 4 | channel]) + struct.pack("<H", len(data)) + data


def frame(kind, payload=b"", channel=0):
    return step(FRAME, bytes([kind]) + payload, channel)


def pages(entries, packing=0, blocks=b"ab"):
    """entries: (page, mask)"""
    raw = b"".join(struct.pack("<Q", number << 16 | mask) for number, mask in entries)
    for _, mask in entries:
        raw += (blocks * 128)[:256] * bin(mask).count("1")
    packed = raw
    if packing == 1:  # LZ4: one run of literals, no match
        n, token = len(raw) - 15, b"\xf0"
        packed = token + b"\xff" * (n // 255) + bytes([n % 255]) + raw
    if packing == 2:
        packed = subprocess.run(["zstd", "-c", "-1"], input=raw, stdout=subprocess.PIPE, check=True).stdout
    return struct.pack("<IIB3x", len(entries), len(raw), packing) + packed


def some_bytes(data):
    return struct.pack("<IB3x", len(data), 0) + data


def sink_seeds():
    one, hellos = b"\x00", step(HELLO, channel=0)
    two = b"\x01" + step(HELLO, channel=0) + step(HELLO, channel=1) + step(WAIT)
    verify = struct.pack("<IIQ", 0, 0, 0), struct.pack("<IIQ", 1, 2, 0)
    tail = frame(F_BARRIER, bytes(4)) + frame(F_DEVICE, some_bytes(b"device")) + frame(F_HANDED_OFF) + \
        frame(F_COMMIT) + step(WAIT)
    save("mover_sink", "whole", one + hellos + frame(F_SKELETON, some_bytes(b"skeleton")) +
         frame(F_PAGES, pages([(0, 0xffff), (1, 0x8001)])) + frame(F_ZERO, struct.pack("<QI", 1, 1)) +
         frame(F_VERIFY, verify[0]) + frame(F_VERIFY, verify[1]) + tail)
    save("mover_sink", "two-channels", two + frame(F_PAGES, pages([(64, 0xffff)]), 1) +
         frame(F_PAGES, pages([(0, 1)])) + frame(F_BARRIER, bytes(4), 1) + tail)
    save("mover_sink", "lz4", one + hellos + frame(F_PAGES, pages([(3, 0xffff)], 1)) + tail)
    save("mover_sink", "zstd", one + hellos + frame(F_PAGES, pages([(3, 0xffff), (4, 0xff)], 2)) + tail)
    save("mover_sink", "full-stripe", one + hellos + frame(F_PAGES, pages([(n, 1) for n in range(64, 100)])) + tail)
    save("mover_sink", "zero-runs", one + hellos +
         frame(F_ZERO, struct.pack("<QIQI", 0, 64, 190, 4)) + frame(F_ZERO, struct.pack("<QI", 194, 1)))
    save("mover_sink", "references", one + hellos + frame(F_PAGES, pages([(3, 0xffff)])) +
         frame(F_REFERENCES, struct.pack("<QQQQ", 4, 3, 5, 4)) + frame(F_REFERENCES, struct.pack("<QQ", 6, 6)))
    save("mover_sink", "recall-without-checkpoint", one + hellos + frame(F_RECALL, struct.pack("<QI", 3, 2)))
    save("mover_sink", "siblings-without-store", one + hellos + frame(F_SIBLINGS, struct.pack("<Q", 3) + bytes(16)))
    save("mover_sink", "commit-too-early", one + hellos + frame(F_COMMIT))
    save("mover_sink", "wrong-channel", two + frame(F_PAGES, pages([(0, 1)]), 1))
    save("mover_sink", "hello-other-version", one + step(HELLO, bytes(8) + b"\x07\0\x06"))
    save("mover_sink", "abort", one + hellos + frame(F_ABORT, struct.pack("<HH", 3, 2) + b"no"))
    save("mover_sink", "agent-aborts", one + hellos + step(AGENT, b'{"op": "abort", "reason": "r"}'))
    save("mover_sink", "keepalive-ack", one + hellos + frame(F_KEEPALIVE) + frame(F_ACK, bytes(8)))


    began = b"\x80" + hellos + frame(F_PAGES, pages([(0, 0xffff)])) + frame(F_BARRIER, bytes(4)) + frame(F_POST_COPY)
    save("mover_sink", "post-copy", began + step(QEMU, ADVISED + LOADED) + frame(F_HANDED_OFF) + frame(F_COMMIT) +
         frame(F_SKELETON, some_bytes(b"pages")) + step(QEMU, WANTS_PAGE) + step(WAIT) + step(QEMU, SHUT) + step(WAIT))
    save("mover_sink", "post-copy-commit-twice", began + frame(F_COMMIT) + frame(F_COMMIT) + step(WAIT))
    save("mover_sink", "post-copy-page-after-it", began + frame(F_PAGES, pages([(1, 1)])))
    save("mover_sink", "post-copy-not-allowed", b"\x00" + hellos + frame(F_BARRIER, bytes(4)) + frame(F_POST_COPY))
    save("mover_sink", "post-copy-qemu-says-nonsense", began + step(QEMU, b"\0\7\0\1x"))


def returned(data, offset=0):
    return frame(F_RETURN_PATH, struct.pack("<Q", offset) + data)


def source_seeds():
    # first byte: channels - 1, codec << 2, verify 0x10, tunnel 0x20
    hello = step(HELLO, channel=0)
    some = step(QEMU_HEAD) + step(PAGES, bytes([0, 1, 1, 0, 2, 200, 65, 7, 130, 9]))
    again = step(PAGES, bytes([0, 2, 1, 5, 2, 0, 193, 255]))
    answer = frame(F_DELIVERED) + frame(F_RESULT, struct.pack("<QBBH", 7, 1, 0, 4) + b"well") + step(WAIT)
    end = step(DEVICE, b"device") + step(WAIT) + answer
    for index, codec in enumerate(("auto", "none", "lz4", "zstd")):
        save("mover_source", f"whole-{codec}", bytes([index << 2]) + hello + some + again + end)
    save("mover_source", "three-channels", b"\x02" + b"".join(step(HELLO, channel=n) for n in range(3)) + some +
         again + end)
    reply = struct.pack("<IIQQ", 0, 0, 0, 0), struct.pack("<IIQ4Q", 1, 4, 0, *range(4))
    save("mover_source", "verify", b"\x10" + hello + some + step(DEVICE, b"d") + step(WAIT) +
         (frame(F_VERIFY_REPLY, reply[0]) + frame(F_VERIFY_REPLY, reply[1])) * 5 + step(WAIT))
    save("mover_source", "tunnel", b"\x20" + hello + step(QEMU, b"anything" * 100) +
         step(AGENT, b'{"op": "stopped"}') + end)
    save("mover_source", "tunnel-later", b"\x00" + hello + some + step(QEMU, b"\x01\0\0\0\x09\5block" + bytes(99)) +
         step(AGENT, b'{"op": "stopped"}') + step(WAIT) + answer)
    holds = step(HELLO, bytes(12) + b"\x40")  # the feature that mover_world.c leaves out
    save("mover_source", "held", b"\x00" + holds + frame(F_HELD, struct.pack("<QQ", 2, 0) + bytes(512)) +
         frame(F_HELD, struct.pack("<QQ", 4, 3) + b"\7" * 512) + some + again + end)
    save("mover_source", "held-out-of-bounds", b"\x00" + holds + frame(F_HELD, struct.pack("<QQ", 2, 4) + bytes(512)))
    save("mover_source", "abort", b"\x00" + hello + some + frame(F_ABORT, struct.pack("<HH", 3, 2) + b"no"))
    save("mover_source", "delivered-too-early", b"\x00" + hello + frame(F_DELIVERED))
    save("mover_source", "other-version", b"\x00" + step(HELLO, bytes(8) + b"\x07\0\x06"))
    save("mover_source", "broken-stream", b"\x00" + hello + step(QEMU, b"this is no stream"))
    save("mover_source", "status", b"\x00" + hello + some + step(AGENT, b'{"op": "qemu-status", "remaining_bytes": 9,'
         b' "dirty_pages_per_s": 5, "dirty_sync_count": 2, "mbps": 1.5}') + again + end)


    advised = b"\x80" + hello + step(QEMU_HEAD) + returned(ADVISED) + step(PAGES, bytes([0, 1, 1, 0, 2, 200]))
    began = advised + step(QEMU, b"\x08" + struct.pack(">HH", 6, 3) + b"\0\1x") + step(WAIT)
    save("mover_source", "post-copy", began + returned(LOADED, 8) + step(WAIT) + frame(F_DELIVERED) +
         frame(F_RESULT, struct.pack("<QBBH", 7, 1, 0, 4) + b"well") + returned(WANTS_PAGE, 16) + step(QEMU, b"pages") +
         returned(SHUT, 32) + step(WAIT))
    save("mover_source", "post-copy-not-needed", advised + step(DEVICE, b"device") + step(WAIT) + answer)
    save("mover_source", "post-copy-again-and-gap", began + returned(ADVISED + LOADED) + returned(SHUT, 99))
    save("mover_source", "page-request-too-early", advised + returned(WANTS_PAGE, 8))
    save("mover_source", "return-path-unexpected", b"\x00" + hello + returned(ADVISED))


def return_path_seeds():
    save("return_path", "all", b"\x03" + ADVISED + LOADED + WANTS_PAGE_OF + WANTS_PAGE + SHUT)
    save("return_path", "unknown", b"\x01\0\5\0\0")
    save("return_path", "name-too-short", b"\x01" + WANTS_PAGE_OF[:-1])


def frame_seeds():
    guest, gateway, everybody = bytes.fromhex("525400123456"), bytes.fromhex("020000000001"), b"\xff" * 6
    own, router, far = bytes([192, 0, 2, 7]), bytes([192, 0, 2, 1]), bytes([198, 51, 100, 9])

    def of(*frames):
        return b"".join(struct.pack(">H", len(one)) + one for one in frames)

    def arp(operation, to, target):
        return to + guest + struct.pack(">HHHBBH", 0x806, 1, 0x800, 6, 4, operation) + guest + own + to + target + bytes(18)

    def packet(to, target):
        return to + guest + b"\x08\0" + b"\x45" + bytes(11) + own + target + bytes(20)

    def neighbour(kind, to, source, target):
        body = bytes([kind]) + bytes(7) + target + bytes([1 if kind == 135 else 2, 1]) + guest
        return (to + guest + b"\x86\xdd" + b"\x60\0\0\0" + struct.pack(">HBB", len(body), 58, 255) + source + target + body)

    own6, router6 = bytes.fromhex("20010db8" + "00" * 11 + "07"), bytes.fromhex("20010db8" + "00" * 11 + "01")
    save("frame", "gateway", of(arp(1, everybody, router), packet(gateway, far), arp(2, gateway, router)))
    save("frame", "neighbour-first", of(arp(2, gateway, router), packet(gateway, router), packet(gateway, far)))
    save("frame", "ipv6", of(neighbour(135, gateway, own6, router6), neighbour(136, gateway, router6, own6)))
    save("frame", "test", of(gateway + guest + b"\x88\xb5DROVERNP" + bytes(range(16)) + b"\1\0" + bytes(20)))
    save("frame", "short", of(everybody + guest, everybody + guest + b"\x08\x06\0\1", b""))


def time_seeds():
    def header(times, types):
        return b"TZif2" + bytes(15) + struct.pack(">IIIIII", 0, 0, 0, times, types, 0)

    def zone(footer, *changes):
        """Changes: (time, offset)."""
        types = [0] + [offset for _, offset in changes]
        body = b"".join(struct.pack(">q", at) for at, _ in changes) + bytes(range(1, len(types)))
        body += b"".join(struct.pack(">iBB", offset, 0, 0) for offset in types)
        return header(0, 1) + bytes(6) + header(len(changes), len(types)) + body + b"\n" + footer + b"\n"

    save("time_zone", "table-and-rule", zone(b"CET-1CEST,M3.5.0,M10.5.0/3", (1143334800, 7200), (1162083600, 3600)))
    save("time_zone", "big-bang", zone(b"", (-(1 << 59), 3600), (0, -86400)))
    save("time_zone", "before-big-bang", zone(b"", (-(1 << 63) + 1, -3600), (0, 3600)))
    save("time_zone", "behind-all", zone(b"", ((1 << 63) - 1, 3600)))
    for name, rule in (("north", b"CET-1CEST,M3.5.0,M10.5.0/3"), ("south", b"<+1030>-10:30<+11>-11,M10.1.0,M4.1.0"),
                       ("negative", b"IST-1GMT0,M10.5.0,M3.5.0/1"), ("days", b"AAA3BBB,J60/167,365/-167"), ("same", b"AAA3BBB2,J1,J1"), ("before-its-year", b"AAA3BBB,J1/-167,J2/-167")):
        save("time_zone", name, rule)
    for name, text in (("daily", b"22:00"), ("weekdays", b"Mon..Fri,Sun 22:00:30 Europe/Berlin"), ("from-the-end", b"Mon *-05~07/1"),
                       ("steps", b"2026..2030/2-1/3-*~01 */4:0/15"), ("never", b"*-02-30"), ("word", b"quarterly UTC"),
                       ("at", b"hourly\n2026-12-24T22:00:00+01:00"), ("at-space", b"\n2026-12-24 22:00")):
        save("calendar", name, text)


def appliance_seeds():
    """Machines as other products describe them, a manifest, and archives of them."""
    def item(kind, rest):
        return f"<Item><rasd:ResourceType>{kind}</rasd:ResourceType>{rest}</Item>"

    ovf = ('<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" '
           'xmlns:rasd="rasd" xmlns:vmw="vmw"><References><File ovf:id="f" ovf:href="a.vmdk"/></References><DiskSection><Disk ovf:capacity="1" '
           'ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="d" ovf:fileRef="f"/></DiskSection><VirtualSystem><Name>a</Name>'
           '<VirtualHardwareSection>' + item(3, "<rasd:VirtualQuantity>1</rasd:VirtualQuantity>") +
           item(4, "<rasd:VirtualQuantity>64</rasd:VirtualQuantity>") + item(17, "<rasd:HostResource>ovf:/disk/d</rasd:HostResource>") +
           item(10, "<rasd:Connection>VM Network</rasd:Connection>") + '<vmw:Config vmw:key="firmware" vmw:value="efi"/>'
           '</VirtualHardwareSection></VirtualSystem></Envelope>').encode()
    save("ovf", "machine", ovf)
    save("ovf", "entity", b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>')
    save("ovf", "manifest", b"SHA1(a.vmdk)= a9993e364706816aba3e25717850c26c9cd0d89d\r\n")
    for name, form in (("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT)):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w", format=form) as tar:
            for member, size in (("a.ovf", 5), ("a.vmdk", 600)):
                entry = tarfile.TarInfo(member)
                entry.size = size
                tar.addfile(entry, io.BytesIO(bytes(size)))
        save("tar_index", name, archive.getvalue()[:3072])


time_seeds()
appliance_seeds()
stream_seeds()
return_path_seeds()
frame_seeds()
sink_seeds()
source_seeds()
