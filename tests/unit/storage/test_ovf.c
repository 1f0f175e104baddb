/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/doc.h"
#include "storage/ovf.h"
#include "storage/tar_index.h"

/* As VMware's ovftool writes it, shortened. */
#define HEAD \
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" \
        "<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" " \
        "xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\" " \
        "xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/" \
        "CIM_ResourceAllocationSettingData\" " \
        "xmlns:vmw=\"http://www.vmware.com/schema/ovf\">\n"
#define REFERENCES(attributes) "<References><File ovf:id=\"file1\" " attributes "/></References>"
#define DISKS \
        "<DiskSection><Info>x</Info><Disk ovf:capacity=\"2\" ovf:capacityAllocationUnits=\"byte * 2^30\" " \
        "ovf:diskId=\"vmdisk1\" ovf:fileRef=\"file1\"/></DiskSection>"
#define ITEM(type, rest) "<Item><rasd:ResourceType>" type "</rasd:ResourceType>" rest "</Item>"
#define SYSTEM(items) \
        "<VirtualSystem ovf:id=\"vm\"><Name>web</Name><VirtualHardwareSection>" items \
        "</VirtualHardwareSection></VirtualSystem>"
#define CPU ITEM("3", "<rasd:VirtualQuantity>2</rasd:VirtualQuantity>")
#define MEMORY \
        ITEM("4", "<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>" \
                  "<rasd:VirtualQuantity>1024</rasd:VirtualQuantity>")
#define DISK ITEM("17", "<rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource>")
#define NIC \
        ITEM("10", "<rasd:Connection>VM " \
                   "Network</rasd:Connection><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>")
#define TAIL "</Envelope>"

static json_t *parse(const char *text)
{
        struct error *error = NULL;
        json_t *description = NULL;

        if (ovf_parse(text, strlen(text), "web.ovf", &description, &error) < 0)
                fail_msg("%s", error_message(error));
        return description;
}

static void assert_refused(const char *text, enum error_code code, const char *words)
{
        struct error *error = NULL;
        json_t *description = NULL;

        assert_true(ovf_parse(text, strlen(text), "web.ovf", &description, &error) < 0);
        if (error->code != code || !strstr(error_message(error), words))
                fail_msg("unexpected: %s", error_message(error));
        error_free(error);
}

static void assert_text(const json_t *object, const char *key, const char *value)
{
        assert_string_equal(json_string_value(json_object_get(object, key)) ?: "(none)", value);
}

static void machine_is_read_as_vmware_writes_it(void **state)
{
        json_t *d = parse(HEAD REFERENCES("ovf:href=\"web-disk1.vmdk\" ovf:size=\"4096\"") DISKS SYSTEM(
                CPU MEMORY DISK NIC
                "<vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"efi\"/>") TAIL);
        const json_t *disk = json_array_get(json_object_get(d, "disks"), 0),
                     *nic = json_array_get(json_object_get(d, "nics"), 0);

        assert_text(d, "name", "web");
        assert_text(d, "firmware", "uefi");
        assert_int_equal(json_integer_value(json_object_get(d, "cpus")), 2);
        assert_int_equal(json_integer_value(json_object_get(d, "memory_bytes")), INT64_C(1) << 30);
        assert_text(disk, "file", "web-disk1.vmdk");
        assert_int_equal(json_integer_value(json_object_get(disk, "capacity_bytes")), INT64_C(2) << 30);
        assert_text(nic, "network", "VM Network");
        assert_text(nic, "model", "e1000");
        json_decref(d);
}

/* OVF 2 has items of other names; VirtualBox says the firmware in a section of its own, and disks as "/disk/ID". */
static void machine_is_read_as_virtualbox_writes_it(void **state)
{
        json_t *d = parse(
                "<ovf:Envelope xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/2\" xmlns:s=\"sasd\" "
                "xmlns:e=\"epasd\" "
                "xmlns:r=\"rasd\" xmlns:vbox=\"v\">"
                "<ovf:References><ovf:File ovf:id=\"file1\" ovf:href=\"a.vmdk\"/></ovf:References>"
                "<ovf:DiskSection><ovf:Disk ovf:capacity=\"1048576\" ovf:diskId=\"d\" ovf:fileRef=\"file1\"/>"
                "</ovf:DiskSection><ovf:VirtualSystem><ovf:VirtualHardwareSection>"
                "<ovf:Item><r:ResourceType>3</r:ResourceType><r:VirtualQuantity>1</r:VirtualQuantity></"
                "ovf:Item>"
                "<ovf:Item><r:AllocationUnits>MegaBytes</r:AllocationUnits><r:ResourceType>4</r:ResourceType>"
                "<r:VirtualQuantity>512</r:VirtualQuantity></ovf:Item>"
                "<ovf:StorageItem><s:HostResource>/disk/d</s:HostResource><s:ResourceType>17</s:ResourceType>"
                "</ovf:StorageItem>"
                "<ovf:EthernetPortItem><e:Connection>NAT</e:Connection><e:ResourceType>10</e:ResourceType>"
                "</ovf:EthernetPortItem></ovf:VirtualHardwareSection>"
                "<vbox:Machine><Hardware><Firmware type=\"EFI\"/></Hardware></vbox:Machine>"
                "</ovf:VirtualSystem></ovf:Envelope>");

        assert_int_equal(json_integer_value(json_object_get(d, "memory_bytes")), INT64_C(512) << 20);
        assert_int_equal(json_array_size(json_object_get(d, "disks")), 1);
        assert_text(json_array_get(json_object_get(d, "nics"), 0), "network", "NAT");
        assert_text(d, "firmware", "uefi");
        json_decref(d);
}

#define WITH_FILE(attributes) \
        HEAD REFERENCES(attributes) \
        DISKS SYSTEM(CPU MEMORY DISK) TAIL

static void file_outside_of_the_appliance_is_refused(void **state)
{
        assert_refused(WITH_FILE("ovf:href=\"../../etc/shadow\""), ERROR_CHECK_FAILED, "own folder");
        assert_refused(WITH_FILE("ovf:href=\"/etc/shadow\""), ERROR_CHECK_FAILED, "own folder");
        assert_refused(
                WITH_FILE("ovf:href=\"http://192.0.2.1/disk.vmdk\""), ERROR_CHECK_FAILED, "own folder");
        assert_refused(WITH_FILE(""), ERROR_CHECK_FAILED, "own folder");
        assert_refused(WITH_FILE("ovf:href=\"a.vmdk.gz\" ovf:compression=\"gzip\""), ERROR_NOT_SUPPORTED,
                "unpack it");
}

static void entities_and_document_types_are_refused(void **state)
{
        assert_refused("<!DOCTYPE x [<!ENTITY a SYSTEM \"file:///etc/passwd\">]><Envelope>&a;</Envelope>",
                ERROR_CHECK_FAILED, "document type");
        assert_refused("<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><x>&b;</x>",
                ERROR_CHECK_FAILED, "document type");
        assert_refused("<Envelope>&undefined;</Envelope>", ERROR_BAD_DOCUMENT, "no OVF");
}

static void what_is_no_machine_is_refused(void **state)
{
        char deep[301] = "";

        for (size_t i = 0; i < 300; i++)
                deep[i] = "<a>"[i % 3];
        assert_refused("", ERROR_BAD_DOCUMENT, "no OVF");
        assert_refused(HEAD TAIL, ERROR_BAD_DOCUMENT, "no virtual machine");
        assert_refused(HEAD SYSTEM(CPU) TAIL, ERROR_BAD_DOCUMENT, "how much memory");
        assert_refused(HEAD SYSTEM(CPU MEMORY) SYSTEM(CPU MEMORY) TAIL, ERROR_NOT_SUPPORTED, "several");
        assert_refused(HEAD SYSTEM(CPU MEMORY DISK) TAIL, ERROR_BAD_DOCUMENT, "does not name");
        assert_refused(deep, ERROR_TOO_LARGE, "nested");
}

static void two_disks_of_one_file_are_refused(void **state)
{
        assert_refused(HEAD REFERENCES("ovf:href=\"web-disk1.vmdk\"") DISKS SYSTEM(CPU MEMORY DISK DISK) TAIL,
                ERROR_BAD_DOCUMENT, "two disks of one file, web-disk1.vmdk");
}

static void manifest_is_read(void **state)
{
        static const char text[] =
                "SHA256(web.ovf)= ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\r\n"
                "SHA1(web-disk1.vmdk)= A9993E364706816ABA3E25717850C26C9CD0D89D\n";
        json_t *digests = NULL;

        assert_int_equal(ovf_parse_manifest(text, sizeof(text) - 1, "web.mf", &digests, NULL), 0);
        assert_text(json_object_get(digests, "web-disk1.vmdk"), "hash", "SHA1");
        assert_text(json_object_get(digests, "web.ovf"), "hex",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        json_decref(digests);
        assert_true(ovf_parse_manifest("noise\n", 6, "web.mf", &digests, NULL) < 0);
}

/* --- Archives ---------------------------------------------------------------------------------------------------------- */

struct archive {
        uint8_t data[16384];
        size_t len;
};

static void put_checksum(uint8_t *block)
{
        unsigned int sum = 0;

        memset(block + 148, ' ', 8);
        for (size_t i = 0; i < 512; i++)
                sum += block[i];
        snprintf((char *)block + 148, 8, "%06o", sum);
}

static uint8_t *put(struct archive *a, const char *name, char type, const char *content)
{
        uint8_t *block = a->data + a->len;

        memcpy(block, name, strlen(name));
        snprintf((char *)block + 124, 12, "%011o", (unsigned int)strlen(content) & 0777);
        block[156] = (uint8_t)type;
        memcpy(block + 257, "ustar\00000", 8);
        put_checksum(block);
        memcpy(block + 512, content, strlen(content));
        a->len += 512 + (strlen(content) + 511) / 512 * 512;
        return block;
}

static ssize_t read_archive(void *userdata, uint64_t offset, void *data, size_t len)
{
        const struct archive *a = userdata;
        size_t n = offset >= a->len ? 0 : MIN(len, a->len - (size_t)offset);

        memcpy(data, a->data + (n ? offset : 0), n);
        return (ssize_t)n;
}

static void assert_no_archive(struct archive *a, const char *words)
{
        struct tar_member members[TAR_MEMBERS_MAX];
        struct error *error = NULL;
        size_t n = 0;

        assert_true(tar_index(read_archive, a, a->len, "web.ova", members, &n, &error) < 0);
        if (!strstr(error_message(error), words))
                fail_msg("unexpected: %s", error_message(error));
        error_free(error);
}

static void members_are_found_where_they_are(void **state)
{
        struct tar_member members[TAR_MEMBERS_MAX];
        struct archive a = {};
        size_t n = 0;

        put(&a, "web.ovf", '0', "<x/>");
        put(&a, "web-disk1.vmdk", '\0', "content");
        a.len += 1024;
        assert_int_equal(tar_index(read_archive, &a, a.len, "web.ova", members, &n, NULL), 0);
        assert_int_equal(n, 2);
        assert_string_equal(members[1].name, "web-disk1.vmdk");
        assert_int_equal(members[1].size, 7);
        assert_memory_equal(a.data + members[1].offset, "content", 7);
}

static void archive_that_leads_elsewhere_is_refused(void **state)
{
        static const char *const names[] = {"../web.ovf", "/etc/passwd", "a/b", "..", "."};

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                struct archive a = {};

                put(&a, names[i], '0', "x");
                assert_no_archive(&a, "lead elsewhere");
        }
        for (const char *type = "1256"; *type; type++) { /* links, a folder, ... */
                struct archive a = {};

                put(&a, "web.ovf", *type, "x");
                assert_no_archive(&a, "no plain file");
        }
}

static void damaged_archive_is_refused(void **state)
{
        struct archive cut = {}, twice = {}, noise = {.len = 512}, wrong = {}, huge = {};
        uint8_t *block;

        put(&cut, "web.ovf", '0', "x");
        cut.len -= 512;
        assert_no_archive(&cut, "cut off");
        put(&twice, "web.ovf", '0', "x");
        put(&twice, "web.ovf", '0', "x");
        assert_no_archive(&twice, "one name");
        noise.data[7] = 1;
        assert_no_archive(&noise, "no tar archive");
        put(&wrong, "web.ovf", '0', "x")[0] = 'v';
        assert_no_archive(&wrong, "no tar archive");
        block = put(&huge, "web.ovf", '0', "x");
        memset(block + 124, 0, 12);
        block[124] = 0x80;
        block[125] = 0x7f; /* more than 64 bits */
        put_checksum(block);
        assert_no_archive(&huge, "no size");
        memset(block + 124, 0xff, 12);
        block[124] = 0x80;
        memset(block + 125, 0, 5);
        put_checksum(block);
        assert_no_archive(&huge, "cut off");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(machine_is_read_as_vmware_writes_it),
                cmocka_unit_test(machine_is_read_as_virtualbox_writes_it),
                cmocka_unit_test(file_outside_of_the_appliance_is_refused),
                cmocka_unit_test(entities_and_document_types_are_refused),
                cmocka_unit_test(what_is_no_machine_is_refused),
                cmocka_unit_test(two_disks_of_one_file_are_refused),
                cmocka_unit_test(manifest_is_read),
                cmocka_unit_test(members_are_found_where_they_are),
                cmocka_unit_test(archive_that_leads_elsewhere_is_refused),
                cmocka_unit_test(damaged_archive_is_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
