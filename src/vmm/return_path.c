/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/return_path.h"

#include <endian.h>
#include <string.h>

#define PAGES_START_BYTES 8
#define PAGES_BYTES (PAGES_START_BYTES + 4) /* start, length */

static uint16_t get16(const uint8_t *bytes)
{
        uint16_t raw;

        memcpy(&raw, bytes, sizeof(raw));
        return be16toh(raw);
}

static uint32_t get32(const uint8_t *bytes)
{
        uint32_t raw;

        memcpy(&raw, bytes, sizeof(raw));
        return be32toh(raw);
}

static bool length_fits(uint16_t type, uint16_t len)
{
        switch (type) {
        case RETURN_PATH_SHUT:
        case RETURN_PATH_PONG:
                return len == sizeof(uint32_t);
        case RETURN_PATH_PAGES:
                return len == PAGES_BYTES;
        case RETURN_PATH_PAGES_OF:
                return len > PAGES_BYTES && len <= RETURN_PATH_MAX_BYTES - RETURN_PATH_HEADER_BYTES;
        default:
                return false;
        }
}

/* Takes as much of the input as belongs to the first n_wanted bytes of the message; false if some are missing still. */
static bool collect(struct return_path *path, const uint8_t **data, size_t *len, size_t n_wanted)
{
        size_t take = MIN(*len, n_wanted - path->n_bytes);

        memcpy(path->bytes + path->n_bytes, *data, take);
        path->n_bytes += take;
        *data += take;
        *len -= take;
        return path->n_bytes == n_wanted;
}

int return_path_feed(struct return_path *path, const uint8_t *data, size_t len, return_path_fn fn,
        void *userdata, struct error **ret_error)
{
        while (len > 0) {
                struct return_path_message message = {.bytes = path->bytes};
                uint16_t type, body_len;
                int r;

                if (path->n_bytes < RETURN_PATH_HEADER_BYTES &&
                        !collect(path, &data, &len, RETURN_PATH_HEADER_BYTES))
                        return 0;
                type = get16(path->bytes);
                body_len = get16(path->bytes + sizeof(type));
                if (!length_fits(type, body_len))
                        return error_set(ret_error, ERROR_PROTOCOL, NULL,
                                "a message of type %u and %u bytes is none of QEMU's return path", type,
                                body_len);
                message.type = (enum return_path_type)type;
                message.len = RETURN_PATH_HEADER_BYTES + (size_t)body_len;
                if (!collect(path, &data, &len, message.len))
                        return 0;
                if (type == RETURN_PATH_PAGES_OF &&
                        path->bytes[RETURN_PATH_HEADER_BYTES + PAGES_BYTES] != body_len - PAGES_BYTES - 1)
                        return error_set(ret_error, ERROR_PROTOCOL, NULL,
                                "a request on QEMU's return path names its block in too many or too few "
                                "bytes");
                message.value = get32(path->bytes + RETURN_PATH_HEADER_BYTES +
                                      (type >= RETURN_PATH_PAGES_OF ? PAGES_START_BYTES : 0));
                path->n_bytes = 0;
                r = fn(userdata, &message, ret_error);
                if (r < 0)
                        return r;
        }
        return 0;
}

void return_path_put(enum return_path_type type, uint32_t value, uint8_t ret_message[RETURN_PATH_VALUE_BYTES])
{
        uint16_t head[] = {htobe16((uint16_t)type), htobe16(sizeof(value))};
        uint32_t body = htobe32(value);

        memcpy(ret_message, head, sizeof(head));
        memcpy(ret_message + sizeof(head), &body, sizeof(body));
}
