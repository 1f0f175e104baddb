/* SPDX-License-Identifier: Apache-2.0 */

/* What a hostile sink can send to a source: the input is a sequence of frames. Also the decoder, which reads
 * whatever a recording holds. */

#include <string.h>

#include "base/alloc.h"
#include "mover/decode.h"
#include "mover/source_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void handle(const struct channel *channel, enum wire_frame type)
{
        struct mail_result result;
        struct error *error = NULL;

        if (type == WIRE_RESULT) {
                (void)source_read_result(channel, &result, &error);
                error_free(error);
        } else if (type == WIRE_ABORT) {
                error_free(channel_abort_error(channel));
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
        static FILE *nowhere;
        struct channel channel = {0};
        struct cursor cursor = cursor_of(data, len);

        if (!nowhere)
                nowhere = fopen("/dev/null", "we");
        if (nowhere)
                (void)decode_frames(data, len, nowhere, NULL);
        while (cursor.left > 0) {
                struct wire_header_v1 header;
                const uint8_t *payload;
                enum wire_frame type;
                uint32_t payload_len;

                if (!cursor_copy(&cursor, &header, sizeof(header)) ||
                        wire_header_read(&header, WIRE_SINK, &type, &payload_len, NULL) < 0 ||
                        !cursor_bytes(&cursor, payload_len, &payload))
                        return 0;
                channel.payload = malloc(payload_len + 1u); /* exact, for the sanitizer */
                if (!channel.payload)
                        return 0;
                memcpy(channel.payload, payload, payload_len);
                channel.payload_len = payload_len;
                handle(&channel, type);
                free(channel.payload);
        }
        return 0;
}
