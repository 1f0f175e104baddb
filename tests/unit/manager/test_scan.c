/* SPDX-License-Identifier: Apache-2.0 */

/* Requests that go through the audit log: how they end when that takes long or fails in the middle, and whom slow readers keep out. */

#include "manager_rig.h"

#include "base/doc.h"
#include "manager/store_backend.h"

#define ENTRIES 1000 /* several times what is read at once */
#define N_SLOW 56

/* The store, of which lists of audit entries take their time, or fail. */
static struct {
        struct store_ops ops;
        const struct store_ops *real;
        struct clock_manual clock;
        unsigned int n_lists, take_ms, fail_at; /* fail_at: 0: none */
} slow;

static int slow_list(struct store *store, const char *kind, const char *after, bool descending,
        store_row_fn fn, void *userdata, struct error **ret_error)
{
        if (!strcmp(kind, "audit")) {
                clock_manual_advance(&slow.clock, slow.take_ms);
                if (++slow.n_lists == slow.fail_at)
                        return error_set(ret_error, ERROR_INTERNAL, NULL, "the store is gone");
        }
        return slow.real->list(store, kind, after, descending, fn, userdata, ret_error);
}

static void write_entries(struct state *state)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

        for (int i = 0; i < ENTRIES; i++) {
                char name[16];

                snprintf(name, sizeof(name), "z%04d", i);
                store_batch_put(&batch, STORE_ABSENT,
                        json_pack("{s:s, s:s, s:s, s:s}", "kind", "audit", "uid", name, "name", name,
                                "action", "test"));
        }
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
}

static void slow_down(struct state *state, unsigned int take_ms, unsigned int fail_at)
{
        struct store *store = state->manager->store;

        slow.real = store->ops;
        slow.ops = *slow.real;
        slow.ops.list = slow_list;
        slow.n_lists = 0;
        slow.take_ms = take_ms;
        slow.fail_at = fail_at;
        store->ops = &slow.ops;
        clock_manual_init(&slow.clock, 0);
        slow.clock.now_ms = clock_now_ms(state->manager->clock);
        slow.clock.unix_offset_ms = clock_unix_ms(state->manager->clock) - (int64_t)slow.clock.now_ms;
        state->manager->clock = &slow.clock.clock;
}

static void be_as_before(struct state *state)
{
        state->manager->store->ops = slow.real;
        state->manager->clock = loop_clock(state->loop);
}

static void list_that_takes_long_says_where_to_go_on(void **data)
{
        struct state *state = *data;
        char path[128];
        int n_pages = 0;

        write_entries(state);
        slow_down(state, 600, 0);
        assert_int_equal(call(state, "GET", "/api/v1/audit?action=nothing", NULL), 200);
        assert_int_equal(json_array_size(json_object_get(state->body, "items")), 0);
        assert_true(slow.n_lists < 8); /* not all of it */
        assert_non_null(json_text_or_null(state->body, "continue"));
        for (; json_text_or_null(state->body, "continue"); n_pages++) {
                snprintf(path, sizeof(path), "/api/v1/audit?action=nothing&continue=%s",
                        json_text(state->body, "continue"));
                assert_int_equal(call(state, "GET", path, NULL), 200);
                assert_true(n_pages < 20);
        }
        be_as_before(state);
}

static size_t n_lines; /* of the last export */

static void on_line(void *userdata, const char *line)
{
        n_lines++;
}

/* The code of what went wrong; "": nothing. */
static const char *export(struct state *state)
{
        n_lines = 0;
        state->answered = false;
        assert_int_equal(http_client_call(state->client,
                                 &(struct http_call_spec){.method = "GET",
                                         .address = state->address,
                                         .peer_name = "manager.drover",
                                         .path = "/api/v1/audit/export",
                                         .headers = (const char *const[]){state->headers[0], NULL},
                                         .timeout_ms = WAIT_MS,
                                         .line = on_line},
                                 on_reply, state, NULL, NULL),
                0);
        assert_int_equal(loop_wait(state->loop, &state->answered, WAIT_MS), 0);
        return state->code;
}

static void export_that_breaks_off_does_not_look_like_all(void **data)
{
        struct state *state = *data;

        write_entries(state);
        assert_string_equal(export(state), "");
        assert_true(n_lines >= ENTRIES);
        slow_down(state, 0, 3);
        assert_string_not_equal(export(state), "");
        assert_true(n_lines < ENTRIES);
        be_as_before(state);
}

static void slow_readers_keep_out_other_exports_alone(void **data)
{
        struct state *state = *data;
        struct api_scans *scans = &state->manager->scans;

        scans->n += N_SLOW;
        scans->n_slow += N_SLOW;
        assert_int_equal(call(state, "GET", "/api/v1/audit", NULL), 200);
        assert_int_equal(call(state, "GET", "/api/v1/audit/export", NULL), 429);
        scans->n--;
        scans->n_slow--;
        assert_string_equal(export(state), "");
        scans->n -= N_SLOW - 1;
        scans->n_slow -= N_SLOW - 1;
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(list_that_takes_long_says_where_to_go_on),
                TEST(export_that_breaks_off_does_not_look_like_all),
                TEST(slow_readers_keep_out_other_exports_alone),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
