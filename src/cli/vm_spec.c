/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/vm_spec.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"

#define DISK_FORM \
        "write it as DATASTORE:PATH or DATASTORE:SIZE[,format=F][,bus=B][,name=N][,size=S][,read-only]"
#define NIC_FORM "write it as PORTGROUP[,mac=M][,model=M]"
#define LABEL_FORM "write it as KEY=VALUE"

static int no_memory(struct error **ret_error)
{
        return error_from_errno(ret_error, ENOMEM, "cannot make the VM's document");
}

/* Sets a new reference; a NULL value is lack of memory. */
static int set(json_t *object, const char *key, json_t *value, struct error **ret_error)
{
        return json_object_set_new(object, key, value) < 0 ? no_memory(ret_error) : 0;
}

static int set_text(json_t *object, const char *key, const char *value, struct error **ret_error)
{
        json_t *text = json_string(value);

        if (!text)
                return error_set(
                        ret_error, ERROR_BAD_REQUEST, NULL, "%s: '%s' is not UTF-8 text", key, value);
        return set(object, key, text, ret_error);
}

/* Splits "NAME:REST" and makes {"datastore": NAME}; *ret_rest points into text. */
static int begin_on_datastore(const char *option, const char *form, char *text, json_t **ret, char **ret_rest,
        struct error **ret_error)
{
        _cleanup_json_ json_t *object = json_object();
        char *colon = strchr(text, ':');
        int r;

        if (!colon || !colon[1])
                return error_set(ret_error, ERROR_BAD_REQUEST, form,
                        "option --%s: '%s' names no datastore and path", option, text);
        *colon = '\0';
        if (!text_is_name(text))
                return error_set(ret_error, ERROR_BAD_REQUEST, form,
                        "option --%s: '%s' is not a datastore's name", option, text);
        r = set_text(object, "datastore", text, ret_error);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(object);
        *ret_rest = colon + 1;
        return 0;
}

int vm_spec_file(const char *option, const char *text, json_t **ret_file, struct error **ret_error)
{
        _cleanup_free_ char *copy = alloc_strdup(text);
        _cleanup_json_ json_t *file = NULL;
        char *path = NULL;
        int r;

        if (!copy)
                return no_memory(ret_error);
        r = begin_on_datastore(option, "write it as DATASTORE:PATH", copy, &file, &path, ret_error);
        if (r < 0)
                return r;
        if (!text_is_relative_path(path))
                return error_set(ret_error, ERROR_BAD_REQUEST,
                        "give the path below the datastore's own folder",
                        "option --%s: '%s' is not a path in a datastore", option, path);
        r = set_text(file, "path", path, ret_error);
        if (r < 0)
                return r;
        *ret_file = TAKE_PTR(file);
        return 0;
}

/* Whether `value` is one of the words in "a|b|c". */
static bool is_choice(const char *choices, const char *value)
{
        size_t len = strlen(value);

        for (const char *s = choices; *s; s += s[strcspn(s, "|")] ? strcspn(s, "|") + 1 : strlen(s))
                if (strcspn(s, "|") == len && !strncmp(s, value, len))
                        return true;
        return false;
}

struct property {
        const char *name;
        const char *key;     /* in the document */
        const char *choices; /* NULL: any name, or as `kind` says */
        enum value_kind kind;
};

static int set_property(json_t *object, const char *option, const char *form, const struct property *property,
        const char *value, struct error **ret_error)
{
        uint64_t bytes;

        if (property->kind == VALUE_FLAG && !value)
                return set(object, property->key, json_true(), ret_error);
        if (property->kind == VALUE_FLAG || !value || !*value)
                return error_set(ret_error, ERROR_BAD_REQUEST, form, "option --%s: '%s' %s", option,
                        property->name, property->kind == VALUE_FLAG ? "takes no value" : "needs a value");
        if (property->choices && !is_choice(property->choices, value))
                return error_set(ret_error, ERROR_BAD_REQUEST, form, "option --%s: %s is one of %s, not '%s'",
                        option, property->name, property->choices, value);
        if (property->kind == VALUE_SIZE) {
                if (text_parse_size(value, &bytes) < 0 || !bytes)
                        return error_set(ret_error, ERROR_BAD_REQUEST, "give a size such as 10G",
                                "option --%s: '%s' is not a size", option, value);
                return set(object, property->key, json_integer((json_int_t)bytes), ret_error);
        }
        if (property->kind == VALUE_NAME && !text_is_name(value))
                return error_set(
                        ret_error, ERROR_BAD_REQUEST, form, "option --%s: '%s' is not a name", option, value);
        return set_text(object, property->key, value, ret_error);
}

/* Reads "a=b,c" into the object; `text` is cut up. */
static int set_properties(json_t *object, const char *option, const char *form,
        const struct property *properties, char *text, struct error **ret_error)
{
        while (text) {
                char *next = strchr(text, ','), *value;
                const struct property *p = properties;
                int r;

                if (next)
                        *next++ = '\0';
                value = strchr(text, '=');
                if (value)
                        *value++ = '\0';
                while (p->name && strcmp(p->name, text))
                        p++;
                if (!p->name)
                        return error_set(ret_error, ERROR_BAD_REQUEST, form,
                                "option --%s: '%s' is not known here", option, text);
                if (json_object_get(object, p->key))
                        return error_set(ret_error, ERROR_BAD_REQUEST, form,
                                "option --%s: '%s' is given twice", option, text);
                r = set_property(object, option, form, p, value, ret_error);
                if (r < 0)
                        return r;
                text = next;
        }
        return 0;
}

int vm_spec_disk(const char *text, json_t **ret_disk, struct error **ret_error)
{
        static const struct property properties[] = {{"format", "format", "raw|qcow2", VALUE_CHOICE},
                {"bus", "bus", "virtio|scsi|sata|ide", VALUE_CHOICE}, {"name", "name", NULL, VALUE_NAME},
                {"size", "size_bytes", NULL, VALUE_SIZE}, {"read-only", "read_only", NULL, VALUE_FLAG}, {0}};
        _cleanup_free_ char *copy = alloc_strdup(text);
        _cleanup_json_ json_t *disk = NULL;
        uint64_t bytes;
        char *rest = NULL, *more;
        int r;

        if (!copy)
                return no_memory(ret_error);
        more = strchr(copy, ',');
        if (more)
                *more++ = '\0';
        r = begin_on_datastore("disk", DISK_FORM, copy, &disk, &rest, ret_error);
        if (r < 0)
                return r;
        if (text_parse_size(rest, &bytes) == 0 && bytes)
                r = set(disk, "size_bytes", json_integer((json_int_t)bytes), ret_error);
        else if (text_is_relative_path(rest))
                r = set_text(disk, "path", rest, ret_error);
        else
                r = error_set(ret_error, ERROR_BAD_REQUEST, DISK_FORM,
                        "option --disk: '%s' is neither a size nor a path in a datastore", rest);
        if (r == 0)
                r = set_properties(disk, "disk", DISK_FORM, properties, more, ret_error);
        if (r < 0)
                return r;
        *ret_disk = TAKE_PTR(disk);
        return 0;
}

static bool is_mac(const char *s)
{
        static const char digits[] = "0123456789abcdefABCDEF";

        for (int i = 0; i < 17; i++)
                if (!s[i] || (i % 3 == 2 ? s[i] != ':' : !strchr(digits, s[i])))
                        return false;
        return !s[17];
}

int vm_spec_nic(const char *text, json_t **ret_nic, struct error **ret_error)
{
        static const struct property properties[] = {{"mac", "mac", NULL, VALUE_TEXT},
                {"model", "model", "virtio|e1000|rtl8139", VALUE_CHOICE}, {0}};
        _cleanup_free_ char *copy = alloc_strdup(text);
        _cleanup_json_ json_t *nic = json_object();
        const char *mac;
        char *more;
        int r;

        if (!copy || !nic)
                return no_memory(ret_error);
        more = strchr(copy, ',');
        if (more)
                *more++ = '\0';
        if (!text_is_name(copy))
                return error_set(ret_error, ERROR_BAD_REQUEST, NIC_FORM,
                        "option --net: '%s' is not a port group's name", copy);
        r = set_text(nic, "port_group", copy, ret_error);
        if (r == 0)
                r = set_properties(nic, "net", NIC_FORM, properties, more, ret_error);
        if (r < 0)
                return r;
        mac = json_string_value(json_object_get(nic, "mac"));
        if (mac && !is_mac(mac))
                return error_set(ret_error, ERROR_BAD_REQUEST, "write it as 52:54:00:12:34:56",
                        "option --net: '%s' is not a MAC address", mac);
        *ret_nic = TAKE_PTR(nic);
        return 0;
}

static int add_list(const struct arguments *arguments, const char *option, const char *key, json_t *spec,
        int (*read)(const char *, json_t **, struct error **), struct error **ret_error)
{
        json_t *list = json_array();
        size_t position = 0;
        int r = set(spec, key, list, ret_error);

        for (const char *text; r == 0 && (text = arguments_next(arguments, option, &position));) {
                json_t *item = NULL;

                r = read(text, &item, ret_error);
                if (r == 0 && json_array_append_new(list, item) < 0)
                        r = no_memory(ret_error);
        }
        return r;
}

static int add_labels(const struct arguments *arguments, json_t *spec, struct error **ret_error)
{
        json_t *labels = json_object();
        size_t position = 0;
        int r = set(spec, "labels", labels, ret_error);

        for (const char *text; r == 0 && (text = arguments_next(arguments, "label", &position));) {
                const char *value = strchr(text, '=');
                char key[NAME_MAX_CHARS + 1];

                if (!value || (size_t)(value - text) >= sizeof(key))
                        return error_set(ret_error, ERROR_BAD_REQUEST, LABEL_FORM,
                                "option --label: '%s' is not a label", text);
                snprintf(key, sizeof(key), "%.*s", (int)(value - text), text);
                if (!text_is_name(key))
                        return error_set(ret_error, ERROR_BAD_REQUEST, LABEL_FORM,
                                "option --label: '%s' is not a name", key);
                r = set_text(labels, key, value + 1, ret_error);
        }
        return r;
}

static int add_file(
        const struct arguments *arguments, const char *option, json_t *object, struct error **ret_error)
{
        const char *text = arguments_text(arguments, option);
        json_t *file = NULL;
        int r;

        if (!text)
                return 0;
        r = vm_spec_file(option, text, &file, ret_error);
        return r < 0 ? r : set(object, option, file, ret_error);
}

static int add_boot(const struct arguments *arguments, json_t *spec, struct error **ret_error)
{
        const char *append = arguments_text(arguments, "append");
        json_t *boot;
        int r;

        if (!arguments_text(arguments, "kernel")) {
                const char *alone = append ? "append" : arguments_text(arguments, "initrd") ? "initrd" : NULL;

                return alone ? error_set(ret_error, ERROR_BAD_REQUEST, "add --kernel DATASTORE:PATH",
                                       "option --%s is for a kernel that is booted directly", alone)
                             : 0;
        }
        boot = json_object();
        r = set(spec, "boot", boot, ret_error);
        if (r == 0)
                r = add_file(arguments, "kernel", boot, ret_error);
        if (r == 0)
                r = add_file(arguments, "initrd", boot, ret_error);
        return r < 0 || !append ? r : set_text(boot, "append", append, ret_error);
}

static int add_texts(const struct arguments *arguments, json_t *spec, struct error **ret_error)
{
        static const char *const options[][2] = {{"machine", "machine"}, {"cpu-model", "cpu_model"},
                {"accelerator", "accelerator"}, {"firmware", "firmware"}, {"datastore", "datastore"}};
        int r = 0;

        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(options); i++) {
                const char *text = arguments_text(arguments, options[i][0]);

                if (text)
                        r = set_text(spec, options[i][1], text, ret_error);
        }
        return r;
}

static int make_spec(const struct arguments *arguments, json_t *spec, struct error **ret_error)
{
        uint64_t cpus = 1, memory_bytes = 0;
        int r;

        (void)arguments_number(arguments, "cpus", &cpus);
        (void)arguments_number(arguments, "memory", &memory_bytes);
        if (memory_bytes % 4096)
                return error_set(ret_error, ERROR_BAD_REQUEST, "give a multiple of 4096 bytes",
                        "option --memory: %s is no whole number of pages",
                        arguments_text(arguments, "memory"));
        if ((r = set(spec, "cpus", json_integer((json_int_t)cpus), ret_error)) < 0 ||
                (r = set(spec, "memory_bytes", json_integer((json_int_t)memory_bytes), ret_error)) < 0 ||
                (r = add_texts(arguments, spec, ret_error)) < 0 ||
                (r = add_boot(arguments, spec, ret_error)) < 0 ||
                (r = add_list(arguments, "disk", "disks", spec, vm_spec_disk, ret_error)) < 0 ||
                (r = add_file(arguments, "cdrom", spec, ret_error)) < 0 ||
                (r = add_list(arguments, "net", "nics", spec, vm_spec_nic, ret_error)) < 0 ||
                (arguments_flag(arguments, "keep-free-pages") &&
                        (r = set(spec, "free_page_reporting", json_false(), ret_error)) < 0))
                return r;
        return add_labels(arguments, spec, ret_error);
}

int vm_spec_request(const struct arguments *arguments, json_t **ret_body, struct error **ret_error)
{
        _cleanup_json_ json_t *body = json_object();
        json_t *spec = json_object();
        const char *host = arguments_text(arguments, "host");
        int r;

        if (!body || !spec) {
                json_decref(spec);
                return no_memory(ret_error);
        }
        if ((r = set_text(body, "name", arguments_operand(arguments, 0), ret_error)) < 0) {
                json_decref(spec);
                return r;
        }
        if ((r = set(body, "spec", spec, ret_error)) < 0 || (r = make_spec(arguments, spec, ret_error)) < 0 ||
                (host && (r = set_text(body, "host", host, ret_error)) < 0) ||
                (arguments_flag(arguments, "start") && (r = set(body, "start", json_true(), ret_error)) < 0))
                return r;
        *ret_body = TAKE_PTR(body);
        return 0;
}
