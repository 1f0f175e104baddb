/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/ovf.h"

#include <errno.h>
#include <expat.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"
#include "base/text.h"

#define DEPTH_MAX 64
#define VALUE_MAX 512
#define FILES_MAX 64
#define ITEMS_MAX 256
#define DISKS_MAX 64 /* of a virtual machine */
#define SHA_HEX_MIN 40
#define SHA_HEX_MAX 128

/* CIM_ResourceAllocationSettingData.ResourceType */
enum resource { RESOURCE_CPU = 3, RESOURCE_MEMORY = 4, RESOURCE_NIC = 10, RESOURCE_DISK = 17 };

struct item {
        char type[16], quantity[24], units[40], host_resource[VALUE_MAX], connection[VALUE_MAX], subtype[64];
};

struct parsing {
        XML_Parser parser;
        const char *name;
        struct error **ret_error;
        int r; /* the first failure */

        unsigned int depth;
        struct buf text; /* of the element under way */
        bool in_item, skips_item;
        struct item item;
        size_t n_items, n_systems;

        json_t *files; /* id -> name */
        json_t *disks; /* id -> {"file", "capacity_bytes"} */
        json_t *description;
};

static void stop(struct parsing *p, int r)
{
        if (p->r == 0)
                p->r = r;
        (void)XML_StopParser(p->parser, XML_FALSE);
}

#define refuse(p, code, ...) stop((p), error_set((p)->ret_error, (code), NULL, __VA_ARGS__))

static void no_memory(struct parsing *p)
{
        refuse(p, ERROR_NO_MEMORY, "%s: out of memory", p->name);
}

/* Names are compared without their name spaces: those of OVF 1 and 2 differ, their words do not. */
static const char *local(const char *name)
{
        const char *bar = strrchr(name, '|');

        return bar ? bar + 1 : name;
}

static const char *attribute(const XML_Char **attributes, const char *name)
{
        for (; *attributes; attributes += 2)
                if (!strcmp(local(attributes[0]), name))
                        return attributes[1];
        return "";
}

/* "byte * 2^20", "MegaBytes", ...: DSP0243 annex C, and what older products write. 0: not known. */
static uint64_t unit_bytes(const char *units)
{
        static const struct {
                const char *word;
                unsigned int shift;
        } words[] = {{"", 0}, {"byte", 0}, {"bytes", 0}, {"KiloBytes", 10}, {"KB", 10}, {"MegaBytes", 20},
                {"MB", 20}, {"GigaBytes", 30}, {"GB", 30}, {"TeraBytes", 40}, {"TB", 40}};
        unsigned int shift = 0;
        char rest = '\0';

        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                if (!strcasecmp(words[i].word, units))
                        return UINT64_C(1) << words[i].shift;
        if (sscanf(units, "byte * 2^%2u%c", &shift, &rest) == 1 && shift <= 50)
                return UINT64_C(1) << shift;
        return 0;
}

static bool times(const char *number, uint64_t unit, uint64_t *ret)
{
        uint64_t value = 0;

        return unit && text_parse_u64(number, 0, INT64_MAX, &value) == 0 &&
               !__builtin_mul_overflow(value, unit, ret) && *ret <= INT64_MAX;
}

/* --- Elements --------------------------------------------------------------------------------------------------------- */

static void on_file(struct parsing *p, const XML_Char **attributes)
{
        const char *id = attribute(attributes, "id"), *href = attribute(attributes, "href"),
                   *compression = attribute(attributes, "compression");

        if (json_object_size(p->files) >= FILES_MAX)
                refuse(p, ERROR_TOO_LARGE, "%s names more than %d files", p->name, FILES_MAX);
        else if (!text_is_relative_path(href) || strchr(href, '/'))
                refuse(p, ERROR_CHECK_FAILED,
                        "%s names the file \"%.64s\", which is not in the appliance's own folder", p->name,
                        href);
        else if (*attribute(attributes, "chunkSize") ||
                 (*compression && strcasecmp(compression, "identity") != 0))
                refuse(p, ERROR_NOT_SUPPORTED,
                        "%s has the file %.64s in pieces or compressed (%.16s): unpack it, or export it "
                        "without that",
                        p->name, href, *compression ? compression : "chunks");
        else if (json_object_set_new(p->files, id, json_string(href)) < 0)
                no_memory(p);
}

static void on_disk(struct parsing *p, const XML_Char **attributes)
{
        const char *id = attribute(attributes, "diskId"), *capacity = attribute(attributes, "capacity");
        uint64_t bytes = 0;

        if (json_object_size(p->disks) >= FILES_MAX)
                refuse(p, ERROR_TOO_LARGE, "%s names more than %d disks", p->name, FILES_MAX);
        else if (*attribute(attributes, "parentRef"))
                refuse(p, ERROR_NOT_SUPPORTED, "%s: disk %.64s has a parent; export it as a whole one",
                        p->name, id);
        else if (*capacity &&
                 !times(capacity, unit_bytes(attribute(attributes, "capacityAllocationUnits")), &bytes))
                refuse(p, ERROR_BAD_DOCUMENT, "%s: the capacity of disk %.64s makes no sense", p->name, id);
        else if (json_object_set_new(p->disks, id,
                         json_pack("{s:s, s:I}", "file", attribute(attributes, "fileRef"), "capacity_bytes",
                                 (json_int_t)bytes)) < 0)
                no_memory(p);
}

static void set_text(struct parsing *p, const char *key, const char *value)
{
        if (json_object_set_new(p->description, key, json_string(value)) < 0)
                no_memory(p);
}

static void on_start(void *userdata, const XML_Char *name, const XML_Char **attributes)
{
        struct parsing *p = userdata;
        const char *element = local(name), *part = strstr(element, "Item");

        buf_clear(&p->text);
        if (++p->depth > DEPTH_MAX) {
                refuse(p, ERROR_TOO_LARGE, "%s is nested too deeply", p->name);
                return;
        }
        if (!strcmp(element, "File"))
                on_file(p, attributes);
        else if (!strcmp(element, "Disk"))
                on_disk(p, attributes);
        else if (!strcmp(element, "VirtualSystem") && ++p->n_systems > 1)
                refuse(p, ERROR_NOT_SUPPORTED, "%s holds several virtual machines: export them one by one",
                        p->name);
        else if (!strcmp(element, "Item") || !strcmp(element, "StorageItem") ||
                 !strcmp(element, "EthernetPortItem")) {
                p->in_item = part != NULL;
                /* Of other sizes that the machine can be deployed with. */
                p->skips_item = *attribute(attributes, "configuration") != '\0';
                p->item = (struct item){};
                if (++p->n_items > ITEMS_MAX)
                        refuse(p, ERROR_TOO_LARGE, "%s has more than %d devices", p->name, ITEMS_MAX);
        } else if (!strcmp(element, "Config") && !strcmp(attribute(attributes, "key"), "firmware"))
                set_text(p, "firmware", !strcasecmp(attribute(attributes, "value"), "efi") ? "uefi" : "bios");
        else if (!strcmp(element, "Firmware")) /* VirtualBox */
                set_text(p, "firmware",
                        !strncasecmp(attribute(attributes, "type"), "EFI", 3) ? "uefi" : "bios");
}

/* The part of "ovf:/disk/ID" or "/disk/ID" behind `word`; NULL: it is of another form. */
static const char *resource_id(const char *resource, const char *word)
{
        if (!strncmp(resource, "ovf:", 4))
                resource += 4;
        return strncmp(resource, word, strlen(word)) == 0 ? resource + strlen(word) : NULL;
}

static void add_disk(struct parsing *p)
{
        const char *disk_id = resource_id(p->item.host_resource, "/disk/"),
                   *file_id = resource_id(p->item.host_resource, "/file/"), *file;
        const json_t *disk = disk_id ? json_object_get(p->disks, disk_id) : NULL;
        json_t *disks = json_object_get(p->description, "disks"), *other;
        size_t i;

        if (disk)
                file_id = json_string_value(json_object_get(disk, "file"));
        file = file_id ? json_string_value(json_object_get(p->files, file_id)) : NULL;
        if (disk && file_id && !*file_id) {
                refuse(p, ERROR_NOT_SUPPORTED, "%s: disk %.64s is empty and has no file; leave it out",
                        p->name, disk_id);
                return;
        }
        if (!file) {
                refuse(p, ERROR_BAD_DOCUMENT, "%s has a disk whose file it does not name (%.64s)", p->name,
                        p->item.host_resource);
                return;
        }
        if (json_array_size(disks) >= DISKS_MAX) {
                refuse(p, ERROR_TOO_LARGE, "%s has more than %d disks", p->name, DISKS_MAX);
                return;
        }
        json_array_foreach (disks, i, other)
                if (!strcmp(json_string_value(json_object_get(other, "file")), file)) {
                        refuse(p, ERROR_BAD_DOCUMENT, "%s has two disks of one file, %.64s", p->name, file);
                        return;
                }
        if (json_array_append_new(disks,
                    json_pack("{s:s, s:s, s:O*}", "id", disk_id ?: file_id, "file", file, "capacity_bytes",
                            disk ? json_object_get(disk, "capacity_bytes") : NULL)) < 0)
                no_memory(p);
}

static void add_nic(struct parsing *p)
{
        const char *model = strcasestr(p->item.subtype, "virtio") ? "virtio" : "e1000";

        if (json_array_append_new(json_object_get(p->description, "nics"),
                    json_pack("{s:s, s:s}", "network", p->item.connection, "model", model)) < 0)
                no_memory(p);
}

static void end_item(struct parsing *p)
{
        uint64_t type = 0, number = 0;

        if (p->skips_item || text_parse_u64(p->item.type, 0, 1000, &type) < 0)
                return;
        if (type == RESOURCE_CPU && times(p->item.quantity, 1, &number))
                (void)json_object_set_new(p->description, "cpus", json_integer((json_int_t)number));
        else if (type == RESOURCE_MEMORY &&
                 times(p->item.quantity, *p->item.units ? unit_bytes(p->item.units) : UINT64_C(1) << 20,
                         &number))
                (void)json_object_set_new(p->description, "memory_bytes", json_integer((json_int_t)number));
        else if (type == RESOURCE_DISK)
                add_disk(p);
        else if (type == RESOURCE_NIC)
                add_nic(p);
}

static void keep_text(const struct parsing *p, char *to, size_t size)
{
        snprintf(to, size, "%s", buf_string(&p->text));
}

static void on_end(void *userdata, const XML_Char *name)
{
        struct parsing *p = userdata;
        const char *element = local(name);
        struct item *item = &p->item;

        p->depth--;
        if (!strcmp(element, "Item") || !strcmp(element, "StorageItem") ||
                !strcmp(element, "EthernetPortItem")) {
                end_item(p);
                p->in_item = false;
        } else if (!p->in_item) {
                if (!strcmp(element, "Name") && p->n_systems == 1 && !json_object_get(p->description, "name"))
                        set_text(p, "name", buf_string(&p->text));
        } else if (!strcmp(element, "ResourceType"))
                keep_text(p, item->type, sizeof(item->type));
        else if (!strcmp(element, "VirtualQuantity"))
                keep_text(p, item->quantity, sizeof(item->quantity));
        else if (!strcmp(element, "AllocationUnits"))
                keep_text(p, item->units, sizeof(item->units));
        else if (!strcmp(element, "HostResource"))
                keep_text(p, item->host_resource, sizeof(item->host_resource));
        else if (!strcmp(element, "Connection"))
                keep_text(p, item->connection, sizeof(item->connection));
        else if (!strcmp(element, "ResourceSubType"))
                keep_text(p, item->subtype, sizeof(item->subtype));
        buf_clear(&p->text);
}

static void on_text(void *userdata, const XML_Char *text, int len)
{
        struct parsing *p = userdata;

        /* What is longer is no value of ours: its beginning does. */
        (void)buf_append(&p->text, text, MIN((size_t)len, p->text.max - p->text.len));
}

static void on_doctype(void *userdata, const XML_Char *name, const XML_Char *system_id,
        const XML_Char *public_id, int has_internal_subset)
{
        struct parsing *p = userdata;

        refuse(p, ERROR_CHECK_FAILED, "%s declares a document type, which no appliance needs", p->name);
}

/* --- Whole documents --------------------------------------------------------------------------------------------------- */

static int run_parser(struct parsing *p, const char *text, size_t len)
{
        XML_SetUserData(p->parser, p);
        XML_SetElementHandler(p->parser, on_start, on_end);
        XML_SetCharacterDataHandler(p->parser, on_text);
        XML_SetStartDoctypeDeclHandler(p->parser, on_doctype);
        if (XML_Parse(p->parser, text, (int)len, 1) == XML_STATUS_OK || p->r < 0)
                return p->r;
        return error_set(p->ret_error, ERROR_BAD_DOCUMENT, "Copy it there again, or export it again.",
                "%s is no OVF: %s in line %lu", p->name, XML_ErrorString(XML_GetErrorCode(p->parser)),
                (unsigned long)XML_GetCurrentLineNumber(p->parser));
}

static int check_whole(const struct parsing *p)
{
        if (!p->n_systems)
                return error_set(
                        p->ret_error, ERROR_BAD_DOCUMENT, NULL, "%s describes no virtual machine", p->name);
        if (!json_object_get(p->description, "cpus") || !json_object_get(p->description, "memory_bytes"))
                return error_set(p->ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "%s does not say how many processors and how much memory the virtual machine has",
                        p->name);
        return 0;
}

int ovf_parse(
        const char *text, size_t len, const char *name, json_t **ret_description, struct error **ret_error)
{
        struct parsing p = {.name = name, .ret_error = ret_error};
        int r;

        if (len > OVF_MAX_BYTES)
                return error_set(
                        ret_error, ERROR_TOO_LARGE, NULL, "%s has more than %zu bytes", name, OVF_MAX_BYTES);
        buf_init(&p.text, VALUE_MAX - 1);
        p.parser = XML_ParserCreateNS("UTF-8", '|');
        p.files = json_object();
        p.disks = json_object();
        p.description = json_pack("{s:s, s:[], s:[]}", "firmware", "bios", "disks", "nics");
        r = p.parser && p.files && p.disks && p.description ? run_parser(&p, text, len)
                                                            : error_from_errno(ret_error, ENOMEM, "%s", name);
        if (r == 0)
                r = check_whole(&p);
        if (r == 0)
                *ret_description = json_incref(p.description);
        if (p.parser)
                XML_ParserFree(p.parser);
        json_decref(p.files);
        json_decref(p.disks);
        json_decref(p.description);
        buf_deinit(&p.text);
        return r;
}

/* --- Manifests --------------------------------------------------------------------------------------------------------- */

static bool is_hex(const char *text)
{
        size_t len = strspn(text, "0123456789abcdefABCDEF");

        return len >= SHA_HEX_MIN && len <= SHA_HEX_MAX && !text[len];
}

static int read_line(char *line, json_t *digests)
{
        char *open = strchr(line, '('), *close = open ? strchr(open, ')') : NULL, *hex;

        if (!close || close[1] != '=')
                return -EINVAL;
        *open = *close = '\0';
        hex = close + 2;
        hex += strspn(hex, " ");
        hex[strcspn(hex, " \r\t")] = '\0';
        if (!is_hex(hex) || !open[1])
                return -EINVAL;
        return json_object_set_new(digests, open + 1, json_pack("{s:s, s:s}", "hash", line, "hex", hex));
}

int ovf_parse_manifest(
        const char *text, size_t len, const char *name, json_t **ret_digests, struct error **ret_error)
{
        _cleanup_json_ json_t *digests = json_object();
        _cleanup_free_ char *copy =
                len <= OVF_MANIFEST_MAX_BYTES ? alloc_printf("%.*s", (int)len, text) : NULL;
        char *at = copy, *line;

        if (!copy || !digests)
                return error_set(ret_error, ERROR_TOO_LARGE, NULL, "%s is too large", name);
        while ((line = strsep(&at, "\n")))
                if (*line && *line != '\r' && read_line(line, digests) < 0)
                        return error_set(ret_error, ERROR_BAD_DOCUMENT,
                                "Export it again, or remove it to import without checksums.",
                                "%s is no manifest of checksums", name);
        *ret_digests = TAKE_PTR(digests);
        return 0;
}
