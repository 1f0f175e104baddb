/* SPDX-License-Identifier: Apache-2.0 */

/* What the destination still has of this guest from an earlier stay (checkpoint.h): at the beginning of a migration the sink says
 * page by page what it holds, and what is the same now goes as a number. At its end the memory is kept for the guest's return. */

#include <errno.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/log.h"
#include "mover/source_internal.h"

/* A sender waits so long altogether for what the sink holds; reading a checkpoint should be faster than sending its pages. */
#define MAX_WAIT_NS UINT64_C(20000000000)

int source_checkpoint_init(struct source *source, struct error **ret_error)
{
        /* Zero until the sink says something else; takes no memory until then. */
        void *held = mmap(NULL, ram_pages(&source->ram) * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (held == MAP_FAILED)
                return error_from_errno(ret_error, errno, "Cannot set up the list of pages that are held");
        source->held = held;
        return 0;
}

void source_checkpoint_deinit(struct source *source)
{
        if (source->held)
                munmap(source->held, ram_pages(&source->ram) * sizeof(uint64_t));
        source->held = NULL;
        fd_closep(&source->checkpoint_fd);
        explicit_bzero(source->checkpoint_key, sizeof(source->checkpoint_key));
}

static int invalid(struct error **ret_error)
{
        return error_set(ret_error, ERROR_PROTOCOL, NULL, "The peer's HELD is not valid");
}

int source_take_held(struct sender *sender, struct error **ret_error)
{
        struct cursor cursor = cursor_of(sender->channel.payload, sender->channel.payload_len);
        struct source *source = sender->source;
        uint64_t n_stripes = wire_channel_stripes(source->ram.bytes, sender->number, source->n_channels);
        struct wire_held_stripe_v1 held;
        uint64_t covered;

        if (!cursor_u64le(&cursor, &covered) || !sender->cipher || covered > n_stripes ||
                covered <= sender->held_covered || cursor.left % sizeof(held) != 0)
                return invalid(ret_error);
        while (cursor_copy(&cursor, &held, sizeof(held))) {
                uint64_t stripe = le64toh(held.stripe), first = stripe * WIRE_STRIPE_PAGES;

                if (stripe >= wire_ram_stripes(source->ram.bytes) ||
                        stripe % source->n_channels != sender->number)
                        return invalid(ret_error);
                for (uint64_t i = 0; i < WIRE_STRIPE_PAGES && first + i < ram_pages(&source->ram); i++)
                        source->held[first + i] = le64toh(held.digests[i]);
        }
        sender->held_covered = covered;
        if (covered == n_stripes)
                sender->awaits_held = false;
        return 0;
}

static int await_held(struct sender *sender, uint64_t index, struct error **ret_error)
{
        uint64_t started_ns = clock_monotonic_ns();
        int r = 0;

        while (r >= 0 && sender->awaits_held && index >= sender->held_covered) {
                enum wire_frame type;

                r = sender_handle_frame(sender, WIRE_HELD, &type, ret_error);
                if (r >= 0 && type == WIRE_HELD)
                        r = source_take_held(sender, ret_error);
                if (sender->source->stopping)
                        return -ECANCELED;
                if (sender->held_wait_ns + clock_monotonic_ns() - started_ns > MAX_WAIT_NS)
                        sender->awaits_held = false; /* what comes later still counts */
        }
        sender->held_wait_ns += clock_monotonic_ns() - started_ns;
        return r;
}

int source_is_held(
        struct sender *sender, uint64_t page, uint64_t digest, bool *ret_held, struct error **ret_error)
{
        struct source *source = sender->source;
        int r = 0;

        if (page < sender->last_page) /* in the second pass it costs more than it saves */
                sender->awaits_held = false;
        if (sender->awaits_held)
                r = await_held(sender, page / WIRE_STRIPE_PAGES / source->n_channels, ret_error);
        *ret_held = r >= 0 && digest != 0 && source->held[page] == digest;
        return r;
}

void source_keep_checkpoint(struct source *source)
{
        _cleanup_error_ struct error *error = NULL;
        uint64_t started_ns = clock_monotonic_ns(), bytes = 0;

        if (source->checkpoint_fd < 0)
                return;
        if (checkpoint_write(source->checkpoint_fd, source->checkpoint_key, &source->ram, &bytes, &error) <
                0) {
                log_warning("%s", error_message(error));
                bytes = 0;
        }
        control_send(source->control_fd,
                json_pack("{s:s, s:I, s:I}", "event", "checkpoint", "bytes", (json_int_t)bytes, "ms",
                        (json_int_t)((clock_monotonic_ns() - started_ns) / 1000000)),
                false);
}
