/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/appliance_write.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/text.h"

#define BLOCK ((size_t)512)
#define CHUNK_BYTES ((size_t)1 << 20)
#define OVF_MAX ((size_t)256 << 10)
/* The most that 11 octal digits hold. */
#define MEMBER_MAX_BYTES ((UINT64_C(1) << 33) - 1)

#define HEAD \
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" \
        "<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" " \
        "xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\"\n" \
        " xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/" \
        "CIM_ResourceAllocationSettingData\"\n" \
        " xmlns:vssd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData\"\n" \
        " xmlns:vmw=\"http://www.vmware.com/schema/ovf\">\n"
#define VMDK_FORMAT "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"

static const char *text_of(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

static json_int_t number_of(const json_t *object, const char *key)
{
        return json_integer_value(json_object_get(object, key));
}

/* --- Description ------------------------------------------------------------------------------------------------------ */

static int put_files(struct buf *out, const char *vm_name, const struct appliance_disk *disks, size_t n_disks)
{
        int r = buf_append_string(out, "<References>\n");

        for (size_t i = 0; r == 0 && i < n_disks; i++)
                r = buf_printf(out,
                        "<File ovf:href=\"%s-disk%zu.vmdk\" ovf:id=\"file%zu\" ovf:size=\"%" PRIu64 "\"/>\n",
                        vm_name, i + 1, i + 1, disks[i].bytes);
        if (r == 0)
                r = buf_append_string(out, "</References>\n<DiskSection><Info>Virtual disks</Info>\n");
        for (size_t i = 0; r == 0 && i < n_disks; i++)
                r = buf_printf(out,
                        "<Disk ovf:capacity=\"%" PRIu64 "\" ovf:capacityAllocationUnits=\"byte\" "
                        "ovf:diskId=\"vmdisk%zu\" ovf:fileRef=\"file%zu\" ovf:format=\"" VMDK_FORMAT "\"/>\n",
                        disks[i].virtual_bytes, i + 1, i + 1);
        return r ?: buf_append_string(out, "</DiskSection>\n");
}

static int put_networks(struct buf *out, const json_t *vm)
{
        const json_t *nic;
        size_t i;
        int r = buf_append_string(out, "<NetworkSection><Info>Networks</Info>\n");

        json_array_foreach (json_object_get(vm, "nics"), i, nic) {
                const json_t *before;
                bool seen = false;

                for (size_t k = 0; k < i; k++) {
                        before = json_array_get(json_object_get(vm, "nics"), k);
                        seen = seen || !strcmp(text_of(before, "port_group"), text_of(nic, "port_group"));
                }
                if (r == 0 && !seen)
                        r = buf_printf(out,
                                "<Network ovf:name=\"%s\"><Description>%s</Description></Network>\n",
                                text_of(nic, "port_group"), text_of(nic, "port_group"));
        }
        return r ?: buf_append_string(out, "</NetworkSection>\n");
}

/* Elements of an Item in the order of the schema, which is that of the alphabet. */
static int put_devices(struct buf *out, const json_t *vm, size_t n_disks)
{
        const json_t *nic;
        size_t i;
        int r = buf_printf(out,
                "<Item><rasd:AllocationUnits>hertz * "
                "10^6</rasd:AllocationUnits><rasd:ElementName>%" JSON_INTEGER_FORMAT
                " virtual CPUs</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID>"
                "<rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>%" JSON_INTEGER_FORMAT
                "</rasd:VirtualQuantity></Item>\n"
                "<Item><rasd:AllocationUnits>byte * "
                "2^20</rasd:AllocationUnits><rasd:ElementName>Memory</rasd:ElementName>"
                "<rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</"
                "rasd:ResourceType><rasd:VirtualQuantity>%" JSON_INTEGER_FORMAT
                "</rasd:VirtualQuantity></Item>\n"
                "<Item><rasd:Address>0</rasd:Address><rasd:ElementName>SATA controller</rasd:ElementName>"
                "<rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>vmware.sata.ahci</"
                "rasd:ResourceSubType>"
                "<rasd:ResourceType>20</rasd:ResourceType></Item>\n",
                number_of(vm, "cpus"), number_of(vm, "cpus"),
                (number_of(vm, "memory_bytes") + (1 << 20) - 1) >> 20);

        for (i = 0; r == 0 && i < n_disks; i++)
                r = buf_printf(out,
                        "<Item><rasd:AddressOnParent>%zu</rasd:AddressOnParent><rasd:ElementName>disk%zu</"
                        "rasd:ElementName>"
                        "<rasd:HostResource>ovf:/disk/vmdisk%zu</rasd:HostResource><rasd:InstanceID>%zu</"
                        "rasd:InstanceID>"
                        "<rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>\n",
                        i, i, i + 1, 100 + i);
        json_array_foreach (json_object_get(vm, "nics"), i, nic)
                if (r == 0)
                        r = buf_printf(out,
                                "<Item><rasd:AutomaticAllocation>true</rasd:AutomaticAllocation>"
                                "<rasd:Connection>%s</rasd:Connection><rasd:ElementName>nic%zu</"
                                "rasd:ElementName>"
                                "<rasd:InstanceID>%zu</rasd:InstanceID><rasd:ResourceSubType>%s</"
                                "rasd:ResourceSubType>"
                                "<rasd:ResourceType>10</rasd:ResourceType></Item>\n",
                                text_of(nic, "port_group"), i, 200 + i,
                                !strcmp(text_of(nic, "model"), "virtio") ? "VmxNet3" : "E1000");
        return r;
}

static int describe(struct buf *out, const json_t *vm, const struct appliance_disk *disks, size_t n_disks)
{
        const char *name = text_of(vm, "name");
        int r = buf_append_string(out, HEAD);

        if (r == 0)
                r = put_files(out, name, disks, n_disks);
        if (r == 0)
                r = put_networks(out, vm);
        if (r == 0)
                r = buf_printf(out,
                        "<VirtualSystem ovf:id=\"%s\"><Info>A virtual machine</Info><Name>%s</Name>\n"
                        "<OperatingSystemSection ovf:id=\"102\"><Info>Other, 64 "
                        "bit</Info></OperatingSystemSection>\n"
                        "<VirtualHardwareSection><Info>Hardware</Info><System><vssd:ElementName>Virtual "
                        "hardware"
                        "</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID>"
                        "<vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType></System>\n",
                        name, name);
        if (r == 0)
                r = put_devices(out, vm, n_disks);
        if (r == 0 && !strcmp(text_of(vm, "firmware"), "uefi"))
                r = buf_append_string(
                        out, "<vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"efi\"/>\n");
        return r ?: buf_append_string(out, "</VirtualHardwareSection></VirtualSystem></Envelope>\n");
}

/* --- Archive ----------------------------------------------------------------------------------------------------------- */

#define NO_ROOM 1 /* the error says it */

struct archive {
        int fd;
        const char *name;
        struct error **ret_error;
        uint64_t at, total;
        image_progress_fn progress;
        void *userdata;
};

static int put(struct archive *archive, const void *data, size_t len)
{
        const uint8_t *at = data;

        while (len) {
                ssize_t n = pwrite(archive->fd, at, len, (off_t)archive->at);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                at += n;
                len -= (size_t)n;
                archive->at += (uint64_t)n;
        }
        return 0;
}

/* IEEE Std 1003.1, pax, "ustar Interchange Format". */
static int put_header(struct archive *archive, const char *name, uint64_t size)
{
        char block[BLOCK] = {};
        unsigned int sum = 0;

        if (strlen(name) > 99 || size > MEMBER_MAX_BYTES)
                return -EFBIG;
        memcpy(block, name, strlen(name));
        memcpy(block + 100, "0000644", 8);
        memcpy(block + 108, "0000000", 8);
        memcpy(block + 116, "0000000", 8);
        snprintf(block + 124, 12, "%011" PRIo64, size & MEMBER_MAX_BYTES);
        memcpy(block + 136, "00000000000", 12);
        memset(block + 148, ' ', 8);
        block[156] = '0';
        memcpy(block + 257, "ustar\00000", 8);
        for (size_t i = 0; i < BLOCK; i++)
                sum += (uint8_t)block[i];
        snprintf(block + 148, 8, "%06o", sum & 0777777);
        return put(archive, block, BLOCK);
}

static int pad(struct archive *archive)
{
        static const char zeros[BLOCK];
        size_t rest = (size_t)(archive->at % BLOCK);

        return rest ? put(archive, zeros, BLOCK - rest) : 0;
}

static int put_text(struct archive *archive, const char *name, const struct buf *text)
{
        int r = put_header(archive, name, text->len);

        if (r == 0)
                r = put(archive, text->data, text->len);
        return r ?: pad(archive);
}

static int put_disk(struct archive *archive, const char *name, const struct appliance_disk *disk)
{
        _cleanup_free_ uint8_t *chunk = alloc_zero(CHUNK_BYTES);
        uint64_t done = 0;
        int r = chunk ? put_header(archive, name, disk->bytes) : -ENOMEM;

        while (r == 0 && done < disk->bytes) {
                ssize_t n = pread(
                        disk->fd, chunk, (size_t)MIN(disk->bytes - done, (uint64_t)CHUNK_BYTES), (off_t)done);

                if (n < 0 && errno == EINTR)
                        continue;
                r = n < 0 ? -errno : n == 0 ? -EIO : put(archive, chunk, (size_t)n);
                done += n > 0 ? (uint64_t)n : 0;
                if (r == 0 && image_keep_room(archive->fd, archive->name, archive->ret_error) < 0)
                        return NO_ROOM;
                if (archive->progress)
                        archive->progress(archive->userdata, "archive", archive->at, archive->total);
        }
        return r ?: pad(archive);
}

static int put_digest(struct buf *manifest, const char *vm_name, const struct buf *text)
{
        uint8_t digest[EVP_MAX_MD_SIZE];
        char hex[2 * EVP_MAX_MD_SIZE + 1];
        unsigned int size = 0;

        if (!EVP_Digest(text->data, text->len, digest, &size, EVP_sha256(), NULL))
                return -ENOMEM;
        text_hex_encode(digest, size, hex);
        return buf_printf(manifest, "SHA256(%s.ovf)= %s\n", vm_name, hex);
}

static int put_all(struct archive *archive, const char *vm_name, const struct buf *ovf,
        const struct appliance_disk *disks, size_t n_disks)
{
        static const char zeros[2 * BLOCK];
        _cleanup_buf_ struct buf manifest;
        char name[NAME_MAX_CHARS + 24];
        int r;

        buf_init(&manifest, OVF_MAX);
        r = put_digest(&manifest, vm_name, ovf);
        for (size_t i = 0; r == 0 && i < n_disks; i++)
                r = buf_printf(&manifest, "SHA256(%s-disk%zu.vmdk)= %s\n", vm_name, i + 1, disks[i].sha256);
        snprintf(name, sizeof(name), "%s.ovf", vm_name);
        if (r == 0)
                r = put_text(archive, name, ovf);
        snprintf(name, sizeof(name), "%s.mf", vm_name);
        if (r == 0)
                r = put_text(archive, name, &manifest);
        for (size_t i = 0; r == 0 && i < n_disks; i++) {
                snprintf(name, sizeof(name), "%s-disk%zu.vmdk", vm_name, i + 1);
                r = put_disk(archive, name, &disks[i]);
        }
        return r ?: put(archive, zeros, sizeof(zeros));
}

int appliance_write(int out_fd, const json_t *vm, const struct appliance_disk *disks, size_t n_disks,
        const char *name, image_progress_fn progress, void *userdata, struct error **ret_error)
{
        struct archive archive = {.fd = out_fd,
                .name = name,
                .ret_error = ret_error,
                .progress = progress,
                .userdata = userdata};
        _cleanup_buf_ struct buf ovf;
        int r;

        for (size_t i = 0; i < n_disks; i++)
                archive.total += disks[i].bytes;
        buf_init(&ovf, OVF_MAX);
        r = describe(&ovf, vm, disks, n_disks);
        if (r == 0)
                r = put_all(&archive, text_of(vm, "name"), &ovf, disks, n_disks);
        if (r == 0 && fsync(out_fd) < 0)
                r = -errno;
        if (r == NO_ROOM)
                return -ENOSPC;
        if (r == -ENOSPC || r == -EDQUOT)
                return error_set(ret_error, ERROR_NO_SPACE, "Free space there, or name another datastore.",
                        "%s: the datastore is full", name);
        if (r == -EFBIG)
                return error_set(ret_error, ERROR_TOO_LARGE, "Export its disks one by one: vm export-disk.",
                        "%s: an archive holds disks of at most 8 GiB, compressed", name);
        return r < 0 ? error_from_errno(ret_error, r, "%s", name) : 0;
}
