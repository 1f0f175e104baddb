/* SPDX-License-Identifier: Apache-2.0 */

/* Messages of QEMU's return path: cut anywhere they are the same, and what is none is refused at its header. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "vmm/return_path.h"

struct heard {
        struct buf bytes;
        unsigned int n;
        struct return_path_message last;
        int answer;
};

static int hear(void *userdata, const struct return_path_message *message, struct error **ret_error _unused_)
{
        struct heard *heard = userdata;

        heard->n++;
        heard->last = *message;
        assert_int_equal(buf_append(&heard->bytes, message->bytes, message->len), 0);
        return heard->answer;
}

/* A SHUT, a PONG, a request that names its block and one that does not. */
static const uint8_t all[] = {0, 1, 0, 4, 0, 0, 0, 0, 0, 2, 0, 4, 0xd5, 0x0a, 0xd7, 0x15, 0, 3, 0, 19, 0, 0,
        0, 0, 0, 0, 16, 0, 0, 0, 16, 0, 6, 'p', 'c', '.', 'r', 'a', 'm', 0, 4, 0, 12, 0, 0, 0, 0, 0, 1, 0, 0,
        0, 0, 16, 0};

static void messages_are_the_same_wherever_they_are_cut(void **state _unused_)
{
        for (size_t piece = 1; piece <= sizeof(all); piece++) {
                struct heard heard = {0};
                struct return_path path = {0};

                buf_init(&heard.bytes, 4096);
                for (size_t at = 0; at < sizeof(all); at += piece)
                        assert_int_equal(return_path_feed(&path, all + at, MIN(piece, sizeof(all) - at), hear,
                                                 &heard, NULL),
                                0);
                assert_int_equal(heard.n, 4);
                assert_int_equal(heard.last.type, RETURN_PATH_PAGES);
                assert_int_equal(heard.bytes.len, sizeof(all));
                assert_memory_equal(buf_string(&heard.bytes), all, sizeof(all));
                buf_deinit(&heard.bytes);
        }
}

static void value_is_read_as_it_was_put(void **state _unused_)
{
        uint8_t bytes[RETURN_PATH_VALUE_BYTES];
        struct return_path path = {0};
        struct heard heard = {0};

        buf_init(&heard.bytes, 4096);
        return_path_put(RETURN_PATH_PONG, 0xd50ad715, bytes);
        assert_int_equal(return_path_feed(&path, bytes, sizeof(bytes), hear, &heard, NULL), 0);
        assert_int_equal(heard.last.type, RETURN_PATH_PONG);
        assert_int_equal(heard.last.value, 0xd50ad715);
        assert_memory_equal(bytes, all + 8, sizeof(bytes));
        buf_deinit(&heard.bytes);
}

static void assert_refused(const uint8_t *data, size_t len, const char *text)
{
        struct return_path path = {0};
        struct heard heard = {0};
        struct error *error = NULL;

        buf_init(&heard.bytes, 4096);
        assert_true(return_path_feed(&path, data, len, hear, &heard, &error) < 0);
        assert_int_equal(error->code, ERROR_PROTOCOL);
        assert_non_null(strstr(error_message(error), text));
        assert_int_equal(heard.n, 0);
        error_free(error);
        buf_deinit(&heard.bytes);
}

static void what_is_no_message_is_refused_at_its_header(void **state _unused_)
{
        static const uint8_t headers[][4] = {
                {0, 0, 0, 4},       /* type 0 */
                {0, 5, 0, 0},       /* of recovery, which drover has none of */
                {0, 1, 0, 0},       /* SHUT without a value */
                {0, 2, 0, 8},       /* PONG with two */
                {0, 4, 0, 13},      /* a byte more than a request has */
                {0, 3, 0, 12},      /* no name */
                {0, 3, 0xff, 0xff}, /* longer than any */
                {0xff, 0xff, 0, 4},
        };
        uint8_t other_name[RETURN_PATH_HEADER_BYTES + 19];

        for (size_t i = 0; i < ARRAY_SIZE(headers); i++)
                assert_refused(headers[i], sizeof(headers[i]), "is none of QEMU's return path");
        memcpy(other_name, all + 16, sizeof(other_name));
        other_name[16] = 7;
        assert_refused(other_name, sizeof(other_name), "too many or too few");
}

static void error_of_the_caller_ends_it(void **state _unused_)
{
        struct heard heard = {.answer = -EPIPE};
        struct return_path path = {0};

        buf_init(&heard.bytes, 4096);
        assert_int_equal(return_path_feed(&path, all, sizeof(all), hear, &heard, NULL), -EPIPE);
        assert_int_equal(heard.n, 1);
        buf_deinit(&heard.bytes);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(messages_are_the_same_wherever_they_are_cut),
                cmocka_unit_test(value_is_read_as_it_was_put),
                cmocka_unit_test(what_is_no_message_is_refused_at_its_header),
                cmocka_unit_test(error_of_the_caller_ends_it),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
