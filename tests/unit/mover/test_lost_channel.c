/* SPDX-License-Identifier: Apache-2.0 */

/* Connections that end in the middle: the agent (the test) makes others, and nothing is missed. */

#include "mover_fixture.h"

#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MARK "device state"
#define PASSES 6
#define SLOWLY .codec = "none", .rate_limit_bps = 64 * 1000 * 1000 /* the passes take some seconds */

static uint32_t next_random(uint32_t *state)
{
        *state = *state * 1664525 + 1013904223;
        return *state >> 8;
}

/* Changes some pages: to few contents, so that many are references; to zero; in one block. */
static void change_pages(struct fixture *f, uint32_t *random)
{
        for (uint64_t page = 0; page < fixture_pages(f); page++) {
                uint8_t *data = f->source_ram + page * WIRE_PAGE_SIZE;
                uint32_t r = next_random(random);

                if (r % 3 == 0)
                        data[r / 8 % WIRE_PAGE_SIZE] ^= 0x5a;
                else if (r % 5 == 0)
                        memset(data, (int)(r / 64 % 4), WIRE_PAGE_SIZE);
                else if (r % 7 == 0)
                        fixture_fill(f, page, 1, r);
        }
}

static void *stream_passes(void *userdata)
{
        struct fixture *f = userdata;
        uint64_t n = fixture_pages(f);
        uint32_t random = 7;

        fixture_fill(f, 0, n, 1);
        fixture_stream_start(f);
        for (unsigned int pass = 0; pass < PASSES; pass++) {
                if (pass > 0)
                        change_pages(f, &random);
                fixture_stream_pages(f, 0, n, pass == PASSES - 1);
        }
        fixture_stream_device(f, MARK, sizeof(MARK));
        return NULL;
}

static json_int_t source_stat(const struct fixture *f, const char *name)
{
        return json_integer_value(json_object_get(f->source.stats, name));
}

static void assert_device_state_came_once(struct fixture *f)
{
        size_t len = sizeof(MARK) + 1 + 8; /* and the closing description */

        fixture_join_reader(f);
        assert_true(f->fed.len > len && f->fed.len < 1000);
        assert_memory_equal(f->fed.data + f->fed.len - len, "\4" MARK "\0\0\6\0\0\0\2{}", len);
        assert_null(memmem(f->fed.data, f->fed.len - len, MARK, sizeof(MARK)));
}

static void lose_connections(const struct fixture_options *options, unsigned int n_cuts)
{
        struct fixture *f = fixture_new(options);
        uint32_t random = 3;
        pthread_t streamer;

        json_decref(fixture_wait(&f->source, "ready"));
        assert_int_equal(pthread_create(&streamer, NULL, stream_passes, f), 0);
        for (unsigned int i = 0; i < n_cuts; i++) {
                unsigned int channel = next_random(&random) % f->options.n_channels;

                nanosleep(&(struct timespec){.tv_nsec = (long)(next_random(&random) % 150) * 1000000}, NULL);
                fixture_cut(f, channel);
                fixture_reconnect(f, channel, true);
        }
        pthread_join(streamer, NULL);
        fixture_finish(f);
        fixture_assert_ram_equal(f);
        /* One that is cut before HELLO was answered is not counted. */
        assert_in_range(source_stat(f, "reconnects"), n_cuts / 2, n_cuts);
        assert_device_state_came_once(f);
        fixture_free(f);
}

static void test_only_connection_is_replaced(void **state)
{
        lose_connections(&(struct fixture_options){.n_channels = 1, SLOWLY}, 8);
}

static void test_each_of_three_connections_is_replaced(void **state)
{
        lose_connections(&(struct fixture_options){.n_channels = 3, SLOWLY}, 12);
}

static void test_replaced_connections_are_verified(void **state)
{
        lose_connections(&(struct fixture_options){.n_channels = 2, SLOWLY, .verify = true}, 6);
}

/* The agent has a better way for a channel. */
static void test_connection_that_works_is_moved(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){SLOWLY, .verify = true});
        pthread_t streamer;

        json_decref(fixture_wait(&f->source, "ready"));
        assert_int_equal(pthread_create(&streamer, NULL, stream_passes, f), 0);
        for (unsigned int i = 0; i < 4; i++) {
                nanosleep(&(struct timespec){.tv_nsec = 150000000}, NULL);
                fixture_reconnect(f, i % 2, true);
        }
        pthread_join(streamer, NULL);
        fixture_finish(f);
        fixture_assert_ram_equal(f);
        assert_int_equal(source_stat(f, "reconnects"), 4);
        assert_device_state_came_once(f);
        fixture_free(f);
}

/* A stopped guest does not wait for anything that is not needed. */
static void test_nothing_is_moved_while_the_guest_is_stopped(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){0});

        json_decref(fixture_wait(&f->source, "ready"));
        (void)stream_passes(f);
        json_decref(fixture_wait(&f->source, "device-state"));
        fixture_reconnect(f, 1, true);
        fixture_finish(f);
        fixture_assert_ram_equal(f);
        assert_int_equal(source_stat(f, "reconnects"), 0);
        fixture_free(f);
}

static void test_all_are_lost_at_once(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){.n_channels = 4, SLOWLY});
        pthread_t streamer;

        json_decref(fixture_wait(&f->source, "ready"));
        assert_int_equal(pthread_create(&streamer, NULL, stream_passes, f), 0);
        nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
        for (unsigned int i = 0; i < 4; i++)
                assert_int_equal(shutdown(f->channel_fds[i], SHUT_RDWR), 0);
        for (unsigned int i = 0; i < 4; i++) {
                json_t *lost = fixture_wait(&f->source, "channel-lost");

                fixture_reconnect(
                        f, (unsigned int)json_integer_value(json_object_get(lost, "channel")), true);
                json_decref(lost);
        }
        pthread_join(streamer, NULL);
        fixture_finish(f);
        fixture_assert_ram_equal(f);
        fixture_free(f);
}

static void test_connection_that_ends_at_once_is_replaced_again(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){SLOWLY});
        pthread_t streamer;

        json_decref(fixture_wait(&f->source, "ready"));
        assert_int_equal(pthread_create(&streamer, NULL, stream_passes, f), 0);
        fixture_cut(f, 1);
        for (unsigned int i = 0; i < 3; i++) {
                fixture_reconnect(f, 1, false);
                json_decref(fixture_wait(&f->source, "channel-lost"));
        }
        fixture_reconnect(f, 1, true);
        pthread_join(streamer, NULL);
        fixture_finish(f);
        fixture_assert_ram_equal(f);
        assert_int_equal(source_stat(f, "reconnects"), 1);
        fixture_free(f);
}

/* The device state is on its way, or there. */
static void test_connection_is_replaced_while_the_guest_is_stopped(void **state)
{
        for (unsigned int channel = 0; channel < 2; channel++) {
                struct fixture *f = fixture_new(&(struct fixture_options){0});

                json_decref(fixture_wait(&f->source, "ready"));
                (void)stream_passes(f);
                json_decref(fixture_wait(&f->source, "device-state"));
                fixture_cut(f, channel);
                fixture_reconnect(f, channel, true);
                fixture_finish(f);
                fixture_assert_ram_equal(f);
                assert_device_state_came_once(f);
                fixture_free(f);
        }
}

#define MUCH (44 * 1024 * 1024) /* more than the source keeps unacknowledged (sent_log.c) */

static uint8_t much[MUCH];

static void *stream_much(void *userdata)
{
        fixture_stream(userdata, much, sizeof(much));
        return NULL;
}

/* The destination's QEMU takes nothing, so nothing is acknowledged; the source waits with a frame in hand when its connection
 * ends. */
static void test_connection_is_lost_while_the_log_is_full(void **state)
{
        struct fixture *f;
        uint32_t random = 11;
        pthread_t streamer;

        if (geteuid() != 0)
                skip(); /* large receive buffers */
        for (size_t i = 0; i < sizeof(much); i++)
                much[i] = (uint8_t)next_random(&random);
        f = fixture_new(&(struct fixture_options){.n_channels = 1,
                .tunnel = true,
                .codec = "none",
                .hold_qemu = true,
                .receive_buffer = 64 * 1024 * 1024});
        json_decref(fixture_wait(&f->source, "ready"));
        assert_int_equal(pthread_create(&streamer, NULL, stream_much, f), 0);
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
        fixture_cut(f, 0);
        fixture_release_qemu(f);
        fixture_reconnect(f, 0, true);
        pthread_join(streamer, NULL);
        fixture_send(&f->source, json_pack("{s:s}", "op", "stopped"));
        fixture_finish(f);
        fixture_join_reader(f);
        assert_int_equal(f->fed.len, sizeof(much));
        assert_memory_equal(f->fed.data, much, sizeof(much));
        assert_true(source_stat(f, "reconnects") >= 1);
        fixture_free(f);
}

/* Whoever connects without being the source takes places, but cannot keep the source from its own. */
static void test_strangers_do_not_keep_a_connection_from_being_replaced(void **state)
{
        enum { STRANGERS = WIRE_MAX_CHANNELS + 40 };
        struct fixture *f = fixture_new(&(struct fixture_options){SLOWLY});
        int strangers[STRANGERS];
        pthread_t streamer;

        json_decref(fixture_wait(&f->source, "ready"));
        assert_int_equal(pthread_create(&streamer, NULL, stream_passes, f), 0);
        for (unsigned int i = 0; i < STRANGERS; i++)
                strangers[i] = fixture_connect_socket(f);
        fixture_cut(f, 1);
        for (unsigned int i = 0; i < 10 && source_stat(f, "reconnects") == 0; i++) {
                fixture_reconnect(f, 1, true); /* the agent tries again whenever the mover asks */
                for (unsigned int n = 0; n < 2; n++) {
                        json_t *stats = fixture_wait(&f->source, "stats");

                        json_decref(f->source.stats);
                        f->source.stats = stats;
                }
        }
        assert_int_equal(source_stat(f, "reconnects"), 1);
        pthread_join(streamer, NULL);
        fixture_finish(f);
        fixture_assert_ram_equal(f);
        for (unsigned int i = 0; i < STRANGERS; i++)
                close(strangers[i]);
        fixture_free(f);
}

/* The source gave the connection up, but the destination does not know: it ends what it has of it. */
static void test_destination_may_not_have_noticed(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){.no_source = true});
        struct tls_stream *first = fixture_connect(f), *second = fixture_connect(f);
        struct wire_hello_v1 hello = fixture_hello();
        struct wire_run_v1 run = {.first_page = htole64(3), .n_pages = htole32(1)};
        struct {
                struct wire_header_v1 header;
                struct wire_hello_reply_v1 reply;
                struct wire_header_v1 ack_header;
                struct wire_ack_v1 ack;
        } __attribute__((packed)) answer;

        fixture_frame(first, WIRE_HELLO, &hello, sizeof(hello));
        fixture_frame(first, WIRE_ZERO, &run, sizeof(run));
        assert_int_equal(tls_stream_read(first, &answer, sizeof(answer.header) + sizeof(answer.reply)), 0);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        fixture_frame(second, WIRE_HELLO, &hello, sizeof(hello));
        assert_int_equal(tls_stream_read(second, &answer, sizeof(answer)), 0);
        assert_int_equal(answer.header.type, WIRE_HELLO_REPLY);
        assert_int_equal(answer.ack_header.type, WIRE_ACK);
        assert_int_equal(le64toh(answer.ack.bytes_received), sizeof(struct wire_header_v1) + sizeof(run));
        assert_true(tls_stream_read(first, &answer, sizeof(answer)) < 0);
        tls_stream_free(first);
        tls_stream_free(second);
        fixture_free(f);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_only_connection_is_replaced),
                cmocka_unit_test(test_each_of_three_connections_is_replaced),
                cmocka_unit_test(test_replaced_connections_are_verified),
                cmocka_unit_test(test_all_are_lost_at_once),
                cmocka_unit_test(test_connection_that_works_is_moved),
                cmocka_unit_test(test_nothing_is_moved_while_the_guest_is_stopped),
                cmocka_unit_test(test_connection_that_ends_at_once_is_replaced_again),
                cmocka_unit_test(test_connection_is_replaced_while_the_guest_is_stopped),
                cmocka_unit_test(test_connection_is_lost_while_the_log_is_full),
                cmocka_unit_test(test_strangers_do_not_keep_a_connection_from_being_replaced),
                cmocka_unit_test(test_destination_may_not_have_noticed),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
