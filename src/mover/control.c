/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/control.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "io/sock.h"

#define DEFAULT_TIMEOUT_MS 30000
#define DEFAULT_PAUSE_MS 100
#define MAX_TIMEOUT_MS (10 * 60 * 1000)

static_assert(AEAD_KEY_SIZE == 32 && CONTENT_KEY_SIZE == 32, "parse_key()");

static const char *const op_names[] = {
        [CONTROL_START] = "start",
        [CONTROL_HANDED_OFF] = "handed-off",
        [CONTROL_COMMIT] = "commit",
        [CONTROL_STOPPED] = "stopped",
        [CONTROL_SWITCHOVER] = "switchover",
        [CONTROL_LIMITS] = "limits",
        [CONTROL_ABORT] = "abort",
        [CONTROL_RESULT] = "result",
        [CONTROL_QEMU_STATUS] = "qemu-status",
        [CONTROL_CHANNEL] = "channel",
        [CONTROL_SAMPLE] = "sample",
        [CONTROL_PROBE] = "probe",
        [CONTROL_COMPARE] = "compare",
        [CONTROL_DISK] = "disk",
};
static_assert(ARRAY_SIZE(op_names) == N_CONTROL_OPS, "one name an op");

static int parse_op(const json_t *json, enum control_op *ret_op, struct error **ret_error)
{
        const char *name = NULL;
        int r = doc_need_string(json, "message", "op", 32, &name, ret_error);

        if (r < 0)
                return r;
        for (size_t i = 0; i < ARRAY_SIZE(op_names); i++)
                if (strcmp(op_names[i], name) == 0) {
                        *ret_op = (enum control_op)i;
                        return 0;
                }
        return error_set(ret_error, ERROR_PROTOCOL, "Install agent and mover of the same version",
                "The agent sent the unknown message \"%s\"", name);
}

int control_receive(int fd, struct control_message *ret_message, struct error **ret_error)
{
        struct control_message message = {.n_fds = CONTROL_MAX_FDS};
        _cleanup_free_ char *text = alloc_zero(CONTROL_MAX_PACKET);
        size_t len = 0;
        int r;

        if (!text)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a control message");
        r = sock_recv_fds(fd, text, CONTROL_MAX_PACKET, &len, message.fds, &message.n_fds);
        if (r < 0)
                return error_from_errno(ret_error, r, "Cannot read from the agent");
        if (len == 0) {
                error_set(ret_error, ERROR_MOVER_FAILED, NULL, "The agent that started the data mover ended");
                return -ENODATA;
        }
        r = doc_parse(text, len, &message.json, ret_error);
        explicit_bzero(text, len); /* it may hold keys */
        if (r >= 0)
                r = parse_op(message.json, &message.op, ret_error);
        if (r < 0) {
                control_message_deinit(&message);
                return r;
        }
        *ret_message = message;
        return 0;
}

void control_message_deinit(struct control_message *message)
{
        for (size_t i = 0; i < message->n_fds; i++)
                fd_closep(&message->fds[i]);
        message->n_fds = 0;
        json_decref(TAKE_PTR(message->json));
}

void control_send(int fd, json_t *event, bool droppable)
{
        _cleanup_json_ json_t *owned = event;
        _cleanup_free_ char *text = owned ? doc_to_text(owned) : NULL;

        /* An agent that is gone is noticed where the socket is read. */
        if (text)
                (void)!send(fd, text, strlen(text), MSG_NOSIGNAL | (droppable ? MSG_DONTWAIT : 0));
}

void control_send_failed(int fd, const struct error *error, bool from_peer)
{
        const char *code = error ? error_code_to_string(error->code) : "no-memory";
        const char *message = error ? error_message(error) : "The mover ran out of memory";
        json_t *event = json_pack("{s:s, s:s, s:s}", "event", "failed", "code", code, "message", message);

        if (event && error && error->hint)
                json_object_set_new(event, "hint", json_string(error->hint));
        if (event && from_peer)
                json_object_set_new(event, "peer_reason", json_string(message));
        control_send(fd, event, false);
}

/* Optional: 64 hex digits, which the message does not have any more then. */
static int parse_key(const json_t *json, const char *name, uint8_t ret_key[static 32], bool *ret_has,
        struct error **ret_error)
{
        const char *hex = NULL;
        int r = doc_opt_string(json, "start", name, 64, &hex, ret_error);

        if (r < 0 || !hex)
                return r;
        if (text_hex_decode(hex, ret_key, 32) < 0)
                return error_set(
                        ret_error, ERROR_BAD_DOCUMENT, NULL, "start.%s must be 64 hexadecimal digits", name);
        doc_wipe_string(json_object_get(json, name));
        *ret_has = true;
        return 0;
}

/* Optional: what is known of each disk. */
static int parse_disks(const json_t *json, struct control_start *start, struct error **ret_error)
{
        json_t *disks = NULL, *disk;
        size_t i;
        int r = doc_opt_array(json, "start", "disks", WIRE_MAX_DISKS, &disks, ret_error);

        if (r < 0)
                return r;
        json_array_foreach (disks, i, disk) {
                start->disks[i].export = "";
                r = doc_need_u64(disk, "start.disks", "size_bytes", 1, WIRE_MAX_DISK_BYTES,
                        &start->disks[i].size_bytes, ret_error);
                if (r >= 0)
                        r = doc_opt_string(
                                disk, "start.disks", "export", 255, &start->disks[i].export, ret_error);
                if (r < 0)
                        return r;
                start->n_disks++;
        }
        return 0;
}

int control_parse_start(
        const struct control_message *message, struct control_start *ret_start, struct error **ret_error)
{
        struct control_start s = {
                .codec = "auto", .max_pause_ms = DEFAULT_PAUSE_MS, .timeout_ms = DEFAULT_TIMEOUT_MS};
        const json_t *json = message->json;
        const struct {
                const char *key;
                const char **to;
                size_t max;
                bool optional;
        } strings[] = {{"migration", &s.migration, UUID_STRING_SIZE - 1, false},
                {"vm", &s.vm, UUID_STRING_SIZE - 1, false}, {"block", &s.block, 255, false},
                {"cert_pem", &s.cert_pem, 16384, false}, {"key_pem", &s.key_pem, 16384, false},
                {"peer_fingerprint", &s.peer_fingerprint, 64, false}, {"codec", &s.codec, 16, true},
                {"spec_digest", &s.spec_digest, 64, true}};
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(strings); i++) {
                r = (strings[i].optional ? doc_opt_string : doc_need_string)(
                        json, "start", strings[i].key, strings[i].max, strings[i].to, ret_error);
                if (r < 0)
                        return r;
        }
        if (!text_is_uuid(s.migration) || !text_is_uuid(s.vm))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "start.migration and start.vm must be lower-case UUIDs");
        r = doc_need_u64(
                json, "start", "ram_bytes", WIRE_PAGE_SIZE, WIRE_MAX_RAM_BYTES, &s.ram_bytes, ret_error);
        if (r >= 0)
                r = doc_opt_u64(json, "start", "ram_address", 0, INT64_MAX, &s.ram_address, ret_error);
        if (r >= 0)
                r = doc_opt_u64(json, "start", "max_pause_ms", 1, 3600000, &s.max_pause_ms, ret_error);
        if (r >= 0)
                r = doc_opt_u64(
                        json, "start", "rate_limit_bps", 0, UINT64_C(1) << 48, &s.rate_limit_bps, ret_error);
        if (r >= 0)
                r = doc_opt_u64(json, "start", "timeout_ms", 1, MAX_TIMEOUT_MS, &s.timeout_ms, ret_error);
        if (r >= 0)
                r = doc_opt_bool(json, "start", "verify", &s.verify, ret_error);
        if (r >= 0)
                r = doc_opt_bool(json, "start", "tunnel", &s.tunnel, ret_error);
        if (r >= 0)
                r = doc_opt_bool(json, "start", "post_copy", &s.post_copy, ret_error);
        if (r >= 0)
                r = parse_key(json, "checkpoint_key", s.checkpoint_key, &s.has_checkpoint, ret_error);
        if (r >= 0)
                r = parse_disks(json, &s, ret_error);
        if (r >= 0)
                r = parse_key(json, "sibling_key", s.sibling_key, &s.has_siblings, ret_error);
        if (r < 0)
                return r;
        *ret_start = s;
        explicit_bzero(s.checkpoint_key, sizeof(s.checkpoint_key));
        explicit_bzero(s.sibling_key, sizeof(s.sibling_key));
        return 0;
}
