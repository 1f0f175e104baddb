/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/wire.h"

struct frame_rule {
        const char *name;
        enum wire_side side;
        uint32_t min, max;
};

static const struct frame_rule rules[] = {
#define X(name, number, side, min, max) [number] = {#name, side, min, max},
        WIRE_FRAMES(X)
#undef X
};

#define X(name, number, side, min, max) \
        static_assert((max) <= WIRE_MAX_PAYLOAD, "the receive buffer holds every frame");
WIRE_FRAMES(X)
#undef X

const char *wire_frame_name(unsigned int type)
{
        return type < ARRAY_SIZE(rules) ? rules[type].name : NULL;
}

int wire_header_read(const struct wire_header_v1 *header, enum wire_side side, enum wire_frame *ret_type,
        uint32_t *ret_len, struct error **ret_error)
{
        uint32_t len = le32toh(header->payload_len);
        const char *name = wire_frame_name(header->type);

        if (!name || !(rules[header->type].side & side))
                return error_set(ret_error, ERROR_PROTOCOL, "Use the same drover version on both hosts",
                        "The peer sent a frame of type %u, which it must not", header->type);
        if (len < rules[header->type].min || len > rules[header->type].max || header->reserved[0] != 0 ||
                header->reserved[1] != 0 || header->reserved[2] != 0)
                return error_set(ret_error, ERROR_PROTOCOL, NULL,
                        "The peer sent a %s frame with a wrong length of %u bytes", name, len);
        *ret_type = (enum wire_frame)header->type;
        *ret_len = len;
        return 0;
}

void wire_header_write(struct wire_header_v1 *ret_header, enum wire_frame type, uint32_t payload_len)
{
        *ret_header = (struct wire_header_v1){.payload_len = htole32(payload_len), .type = (uint8_t)type};
}

bool wire_text_read(struct cursor *cursor, size_t len, char ret[static WIRE_MAX_TEXT + 1])
{
        const uint8_t *text;

        if (len > WIRE_MAX_TEXT || !cursor_bytes(cursor, len, &text))
                return false;
        for (size_t i = 0; i < len; i++)
                ret[i] = text[i] >= 0x20 && text[i] < 0x7f ? (char)text[i] : '?';
        ret[len] = '\0';
        return true;
}
