/* SPDX-License-Identifier: Apache-2.0 */

/* Requests to import and export disks and virtual machines. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/api.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operation_image.h"
#include "manager/operations.h"
#include "manager/vm_spec.h"

#define PATH_MAX_CHARS 255
#define SHA256_HEX_CHARS 64
#define TIMEOUT_MAX_MS (UINT64_C(7) * 24 * 3600 * 1000)

/* datastore and path, a file on a datastore. */
static int check_file(const json_t *body, struct error **ret_error)
{
        const char *text = NULL;
        int r = doc_need_string(body, "", "datastore", NAME_MAX_CHARS, &text, ret_error);

        if (r >= 0 && !text_is_name(text))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "See `drover datastore list`.",
                        "field datastore must be the name of a datastore");
        if (r >= 0)
                r = doc_need_string(body, "", "path", PATH_MAX_CHARS, &text, ret_error);
        if (r >= 0 && !text_is_relative_path(text))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Name it from the datastore's folder on, without \"..\".",
                        "field path is \"%.64s\", which is no path inside a datastore", text);
        /* Whoever may use a datastore may use disks there, which is less than memory and firmware variables of others. */
        if (r >= 0 && vm_spec_path_is_record(text))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "Rename it if it is an image all the same.",
                        "field path is \"%.64s\", a name that records of virtual machines have", text);
        return r;
}

static int check_word(const json_t *body, const char *key, const char *const *words, const char *hint,
        struct error **ret_error)
{
        const char *word = NULL;
        int r = doc_opt_string(body, "", key, 32, &word, ret_error);

        if (r < 0 || !word)
                return r;
        for (; *words; words++)
                if (!strcmp(*words, word))
                        return 0;
        return error_set(ret_error, ERROR_NOT_SUPPORTED, hint, "field %s cannot be \"%.32s\"", key, word);
}

static int check_name(const json_t *body, const char *key, struct error **ret_error)
{
        const char *name = NULL;
        int r = doc_opt_string(body, "", key, NAME_MAX_CHARS, &name, ret_error);

        if (r >= 0 && name && !text_is_name(name))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field %s is no name", key);
        return r;
}

static int check_sha256(const json_t *body, struct error **ret_error)
{
        uint8_t raw[SHA256_HEX_CHARS / 2];
        const char *hex = NULL;
        int r = doc_opt_string(body, "", "sha256", SHA256_HEX_CHARS, &hex, ret_error);

        if (r >= 0 && hex && text_hex_decode(hex, raw, sizeof(raw)) < 0)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "sha256sum prints it.",
                        "field sha256 must be 64 hexadecimal digits");
        return r;
}

static int check_timeout(const json_t *body, struct error **ret_error)
{
        uint64_t number;

        return doc_opt_u64(body, "", "timeout_ms", 1000, TIMEOUT_MAX_MS, &number, ret_error);
}

static int check_source_format(const json_t *body, struct error **ret_error)
{
        static const char *const formats[] = {"raw", "qcow2", "vmdk", "vhdx", "vdi", "vhd", NULL};
        int r = check_word(
                body, "format", formats, "Possible are raw, qcow2, vmdk, vhdx, vdi and vhd.", ret_error);

        if (r >= 0 && !json_text_or_null(body, "format") && !operation_image_format(json_text(body, "path")))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "State it (--format): it is never guessed from what is in a file.",
                        "the name %s does not tell the format", json_text(body, "path"));
        return r;
}

static void submit(struct http_request *request, struct manager *manager, const char *action,
        const json_t *vm, const json_t *body)
{
        _cleanup_json_ json_t *data = json_pack("{s:s}", "vm_uid", json_text(vm, "uid"));
        _cleanup_free_ char *held = alloc_printf("vm/%s", json_text(vm, "uid")),
                            *object = alloc_printf("vm/%s", json_text(vm, "name"));

        if (!held || !object || !data) {
                http_request_reply_error(request, NULL);
                return;
        }
        api_submit(request, manager,
                &(struct task_request){.action = action,
                        .object = object,
                        .objects = (const char *const[]){held, NULL},
                        .input = body,
                        .data = data},
                NULL);
}

void api_vm_import_disk(struct http_request *request, void *userdata)
{
        static const char *const keys[] = {"datastore", "path", "format", "sha256", "to_datastore",
                "to_format", "name", "bus", "timeout_ms", NULL};
        static const char *const formats[] = {"raw", "qcow2", NULL};
        static const char *const buses[] = {"virtio", "scsi", "sata", "ide", NULL};
        _cleanup_json_ json_t *vm = NULL;
        struct manager *manager = userdata;
        struct error *error = NULL;
        json_t *body = NULL;
        int r = api_get_object(request, manager, "vm", &vm, &error);

        if (r >= 0)
                r = api_body(request, keys, &body, &error);
        if (r >= 0)
                r = check_file(body, &error);
        if (r >= 0)
                r = check_source_format(body, &error);
        if (r >= 0)
                r = check_sha256(body, &error);
        if (r >= 0)
                r = check_name(body, "to_datastore", &error);
        if (r >= 0)
                r = check_word(body, "to_format", formats, "Disks are raw or qcow2.", &error);
        if (r >= 0)
                r = check_name(body, "name", &error);
        if (r >= 0)
                r = check_word(body, "bus", buses, "Possible are virtio, scsi, sata and ide.", &error);
        if (r >= 0)
                r = check_timeout(body, &error);
        if (r >= 0)
                r = operation_image_check_off(vm, &error);
        if (r < 0)
                http_request_reply_error(request, error);
        else
                submit(request, manager, "vm.import-disk", vm, body);
}

void api_vm_export_disk(struct http_request *request, void *userdata)
{
        static const char *const keys[] = {"disk", "datastore", "path", "stream", "timeout_ms", NULL};
        _cleanup_json_ json_t *vm = NULL;
        struct manager *manager = userdata;
        struct error *error = NULL;
        const char *format = NULL;
        json_t *body = NULL;
        bool stream = false;
        int r = api_get_object(request, manager, "vm", &vm, &error);

        if (r >= 0)
                r = api_body(request, keys, &body, &error);
        if (r >= 0)
                r = check_file(body, &error);
        if (r >= 0)
                r = check_name(body, "disk", &error);
        if (r >= 0 && !json_text_or_null(body, "disk"))
                r = error_set(
                        &error, ERROR_BAD_DOCUMENT, "`drover vm show` lists them.", "field disk is missing");
        if (r >= 0)
                r = doc_opt_bool(body, "", "stream", &stream, &error);
        if (r >= 0)
                r = check_timeout(body, &error);
        if (r >= 0)
                r = operation_image_check_off(vm, &error);
        if (r >= 0)
                r = operation_image_check_export_path(manager, json_text(body, "path"), &format, &error);
        if (r >= 0 && stream && strcmp(format, "vmdk") != 0)
                r = error_set(&error, ERROR_BAD_DOCUMENT, "Leave it out.", "field stream is for vmdk alone");
        if (r < 0)
                http_request_reply_error(request, error);
        else
                submit(request, manager, "vm.export-disk", vm, body);
}

static int check_net_map(struct manager *manager, const json_t *body, struct error **ret_error)
{
        _cleanup_json_ json_t *port_groups = NULL;
        json_t *map = NULL, *value, *doc;
        const char *network;
        size_t i;
        int r = doc_opt_object(body, "", "net_map", &map, ret_error);

        if (r >= 0 && map)
                r = inventory_objects(manager->inventory, "port-group", &port_groups, ret_error);
        if (r < 0 || !map)
                return r;
        json_object_foreach (map, network, value) {
                const char *wanted = json_string_value(value);
                bool found = wanted && !*wanted;

                json_array_foreach (port_groups, i, doc)
                        found = found || (wanted && !strcmp(json_text(doc, "name"), wanted));
                if (!found)
                        return error_set(ret_error, ERROR_NOT_FOUND, "See `drover network port-group list`.",
                                "net_map: there is no port group %.64s for the network \"%.100s\"",
                                wanted ?: "", network);
        }
        return 0;
}

static int read_import(
        struct http_request *request, struct manager *manager, json_t **ret_body, struct error **ret_error)
{
        static const char *const keys[] = {"name", "datastore", "path", "to_datastore", "to_format",
                "net_map", "bus", "host", "timeout_ms", NULL};
        static const char *const formats[] = {"raw", "qcow2", NULL};
        static const char *const buses[] = {"virtio", "scsi", "sata", "ide", NULL};
        const char *name = NULL;
        json_t *body = NULL;
        int r = api_body(request, keys, &body, ret_error);

        if (r >= 0)
                r = api_body_name(body, &name, ret_error);
        if (r >= 0)
                r = check_file(body, ret_error);
        if (r >= 0)
                r = check_name(body, "to_datastore", ret_error);
        if (r >= 0)
                r = check_word(body, "to_format", formats, "Disks are raw or qcow2.", ret_error);
        if (r >= 0)
                r = check_word(body, "bus", buses, "Possible are virtio, scsi, sata and ide.", ret_error);
        if (r >= 0)
                r = check_name(body, "host", ret_error);
        if (r >= 0)
                r = check_timeout(body, ret_error);
        if (r >= 0)
                r = check_net_map(manager, body, ret_error);
        if (r >= 0)
                *ret_body = body;
        return r;
}

/* The name is taken from now on; what the virtual machine is, the appliance says. */
void api_vm_import(struct http_request *request, void *userdata)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *vm = NULL, *data = NULL;
        _cleanup_free_ char *held = NULL, *object = NULL;
        struct manager *manager = userdata;
        char uid[UUID_STRING_SIZE];
        struct error *error = NULL;
        json_t *body = NULL;

        if (read_import(request, manager, &body, &error) < 0) {
                http_request_reply_error(request, error);
                return;
        }
        vm = text_uuid_new(uid) < 0
                     ? NULL
                     : json_pack("{s:s, s:s, s:s, s:{s:i, s:i, s:s}, s:{s:s, s:n, s:s}}", "kind", "vm",
                               "name", json_text(body, "name"), "uid", uid, "spec", "cpus", 1, "memory_bytes",
                               16 << 20, "datastore",
                               json_text_or_null(body, "to_datastore") ?: json_text(body, "datastore"),
                               "status", "power", "stopped", "host", "message", "is being imported");
        data = json_pack("{s:s}", "vm_uid", uid);
        held = alloc_printf("vm/%s", uid);
        object = alloc_printf("vm/%s", json_text(body, "name"));
        if (!vm || !data || !held || !object) {
                http_request_reply_error(request, NULL);
                return;
        }
        store_batch_put(&batch, STORE_ABSENT, json_incref(vm));
        api_submit(request, manager,
                &(struct task_request){.action = "vm.import",
                        .object = object,
                        .objects = (const char *const[]){held, NULL},
                        .input = body,
                        .data = data},
                &batch);
}

void api_vm_export(struct http_request *request, void *userdata)
{
        static const char *const keys[] = {"datastore", "path", "timeout_ms", NULL};
        _cleanup_json_ json_t *vm = NULL;
        struct manager *manager = userdata;
        struct error *error = NULL;
        json_t *body = NULL;
        int r = api_get_object(request, manager, "vm", &vm, &error);

        if (r >= 0)
                r = api_body(request, keys, &body, &error);
        if (r >= 0)
                r = check_file(body, &error);
        if (r >= 0)
                r = check_timeout(body, &error);
        if (r >= 0)
                r = operation_image_check_off(vm, &error);
        if (r >= 0)
                r = operation_image_check_archive_path(manager, json_text(body, "path"), &error);
        if (r < 0)
                http_request_reply_error(request, error);
        else
                submit(request, manager, "vm.export", vm, body);
}
