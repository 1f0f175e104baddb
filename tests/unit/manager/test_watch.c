/* SPDX-License-Identifier: Apache-2.0 */

/* What clients hear that watch: each change once, in order, wherever they begin and however much there is at once. */

#include <malloc.h>
#include <poll.h>
#include <stdlib.h>

#include "manager_rig.h"

#include "base/doc.h"
#include "manager/store_backend.h"

struct heard {
        struct http_call *call;
        unsigned long long id;
        bool begun; /* the first id says where it would resume */
        unsigned int n_vms, n_resets;
        bool out_of_order;
};

static void on_line(void *userdata, const char *line)
{
        struct heard *heard = userdata;

        if (!strncmp(line, "id: ", 4)) {
                unsigned long long id = strtoull(line + 4, NULL, 10);

                heard->out_of_order |= heard->begun && id <= heard->id;
                heard->id = id;
                heard->begun = true;
        }
        heard->n_vms += !strcmp(line, "event: vm");
        heard->n_resets += !strcmp(line, "event: reset");
}

static void ignore_end(void *userdata, int status, json_t *body, struct error *error)
{
}

static void begin(struct state *state, const char *path, struct heard *heard)
{
        *heard = (struct heard){};
        assert_int_equal(http_client_call(state->client,
                                 &(struct http_call_spec){.method = "GET",
                                         .address = state->address,
                                         .peer_name = "manager.drover",
                                         .path = path,
                                         .headers = (const char *const[]){state->headers[0], NULL},
                                         .timeout_ms = 4 * WAIT_MS,
                                         .line = on_line},
                                 ignore_end, heard, &heard->call, NULL),
                0);
}

/* Until it has heard so much; then a little longer, for what it should not hear. */
static void wait_heard(
        struct state *state, const struct heard *heard, const unsigned int *n, unsigned int wanted)
{
        uint64_t end = clock_now_ms(loop_clock(state->loop)) + 3 * WAIT_MS;

        while (!heard->begun || *n < wanted) {
                assert_true(clock_now_ms(loop_clock(state->loop)) < end);
                loop_iterate(state->loop, 20);
        }
        for (int i = 0; i < 10; i++)
                loop_iterate(state->loop, 10);
        assert_int_equal(*n, wanted);
        assert_false(heard->out_of_order);
}

/* Machines number `from` to `to` - 1, each of about 2 KB, in one transaction. */
static void commit_vms(struct state *state, unsigned int from, unsigned int to)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        char name[32], filler[2001];

        memset(filler, 'x', sizeof(filler) - 1);
        filler[sizeof(filler) - 1] = '\0';
        for (unsigned int i = from; i < to; i++) {
                snprintf(name, sizeof(name), "vm%05u", i);
                store_batch_put(&batch, STORE_ANY,
                        json_pack("{s:s, s:s, s:s, s:{s:s}, s:{s:s}}", "kind", "vm", "uid", name, "name",
                                name, "spec", "filler", filler, "status", "power", "stopped"));
        }
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
}

static uint64_t revision(struct state *state)
{
        uint64_t revision = 0;

        assert_int_equal(store_revision(state->manager->store, &revision, NULL), 0);
        return revision;
}

/* The first watcher after a start, which has heard all up to some change before it. */
static void client_resumes_where_it_was(void **data)
{
        struct state *state = *data;
        struct heard first, second;
        char path[64];

        commit_vms(state, 0, 5);
        snprintf(path, sizeof(path), "/api/v1/events?since=%llu", (unsigned long long)revision(state) - 2);
        begin(state, path, &first);
        wait_heard(state, &first, &first.n_vms, 2);
        commit_vms(state, 5, 8);
        wait_heard(state, &first, &first.n_vms, 5);
        begin(state, "/api/v1/events?since=0", &second); /* from before what is remembered, perhaps */
        wait_heard(state, &second, &second.n_vms, 8);
        http_call_cancel(first.call);
        http_call_cancel(second.call);
}

/* Far more than is remembered, in one moment: nothing is left out, neither of what is new nor of what was. */
static void flood_is_heard_whole(void **data)
{
        struct state *state = *data;
        struct heard watching, late, filtered;

        begin(state, "/api/v1/events", &watching);
        wait_heard(state, &watching, &watching.n_vms, 0);
        for (unsigned int i = 0; i < 5000; i += 1000)
                commit_vms(state, i, i + 1000);
        wait_heard(state, &watching, &watching.n_vms, 5000);
        begin(state, "/api/v1/events?since=0", &late);
        begin(state, "/api/v1/events?since=0&kinds=host", &filtered);
        wait_heard(state, &late, &late.n_vms, 5000);
        assert_int_equal(filtered.n_vms, 0);
        /* It has come through all that it does not want. */
        commit_vms(state, 0, 1);
        wait_heard(state, &late, &late.n_vms, 5001);
        wait_heard(state, &filtered, &filtered.n_vms, 0);
        http_call_cancel(watching.call);
        http_call_cancel(late.call);
        http_call_cancel(filtered.call);
}

/* One machine again and again, whose document has hundreds of numbers: ten times as large in memory as written down. */
static void what_is_remembered_is_bounded_in_memory(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *numbers = json_object();
        struct heard watching;
        char key[16];
        size_t before;

        for (int i = 0; i < 300; i++) {
                snprintf(key, sizeof(key), "k%d", i);
                json_object_set_new(numbers, key, json_integer(i));
        }
        begin(state, "/api/v1/events", &watching);
        wait_heard(state, &watching, &watching.n_vms, 0);
        before = mallinfo2().uordblks;
        for (int i = 0; i < 30; i++) {
                _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

                for (int k = 0; k < 100; k++)
                        store_batch_put(&batch, STORE_ANY,
                                json_pack("{s:s, s:s, s:s, s:O, s:{}}", "kind", "vm", "uid", "vm", "name",
                                        "vm", "spec", numbers, "status"));
                assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
        }
        wait_heard(state, &watching, &watching.n_vms, 3000);
        /* What SQLite keeps of its pages is in it, too. */
        assert_true(mallinfo2().uordblks < before + (48u << 20));
        http_call_cancel(watching.call);
}

static void client_that_missed_what_is_forgotten_lists_again(void **data)
{
        struct state *state = *data;
        struct heard late;

        commit_vms(state, 0, 50);
        assert_int_equal(store_trim_log(state->manager->store, 10, NULL), 0);
        begin(state, "/api/v1/events?since=1", &late);
        wait_heard(state, &late, &late.n_resets, 1);
        assert_int_equal(late.n_vms, 0);
        commit_vms(state, 0, 3);
        wait_heard(state, &late, &late.n_vms, 3);
        http_call_cancel(late.call);
}

/* Changes that come while clients are being served are heard without another one. */
static void change_during_a_round_is_heard(void **data)
{
        struct state *state = *data;
        struct heard watching;

        begin(state, "/api/v1/events", &watching);
        wait_heard(state, &watching, &watching.n_vms, 0);
        for (unsigned int i = 0; i < 100; i++) {
                commit_vms(state, i, i + 1);
                loop_iterate(state->loop, 0);
        }
        wait_heard(state, &watching, &watching.n_vms, 100);
        http_call_cancel(watching.call);
}

static const struct store_ops *real_ops;
static unsigned int n_reads;

static int count_reads(struct store *store, uint64_t after, size_t limit,
        int (*fn)(void *userdata, const struct store_row_event *event), void *userdata,
        struct error **ret_error)
{
        n_reads++;
        return real_ops->changes(store, after, limit, fn, userdata, ret_error);
}

/* A log of thousands of changes would hold the loop for long when a manager starts. */
static void nothing_is_read_while_nobody_watches(void **data)
{
        struct state *state = *data;
        struct store_ops ops;

        commit_vms(state, 0, 10);
        stop_manager(state);
        start_manager(state);
        real_ops = state->manager->store->ops;
        ops = *real_ops;
        ops.changes = count_reads;
        state->manager->store->ops = &ops;
        n_reads = 0;
        for (int i = 0; i < 20; i++)
                loop_iterate(state->loop, 10);
        state->manager->store->ops = real_ops;
        assert_int_equal(n_reads, 0);
}

/* --- Who may watch ------------------------------------------------------------------------------------------------ */

#define N_WATCHERS 40
#define SLOW_MS 4

static const struct store_ops *whole_ops;
static size_t n_credentials;

static int counted_get(struct store *store, const char *kind, const char *name_or_uid, store_row_fn fn,
        void *userdata, struct error **ret_error)
{
        n_credentials += !strncmp(kind, "token", 5) || !strcmp(kind, "session");
        assert_int_equal(poll(NULL, 0, SLOW_MS), 0); /* as a database elsewhere */
        return whole_ops->get(store, kind, name_or_uid, fn, userdata, ret_error);
}

/* A token of that name; the caller of all that follows. */
static void become_token(struct state *state, const char *name)
{
        snprintf(state->headers[0], sizeof(state->headers[0]), "Authorization: Bearer %s", state->secret);
        assert_int_equal(
                call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", name, "role", "admin")),
                201);
        snprintf(state->headers[0], sizeof(state->headers[0]), "Authorization: Bearer %s",
                json_text(state->body, "secret"));
}

/* Reads of credentials that follow a change of somebody's access: in all, and (returned) the most in one round of the loop. */
static size_t most_reads_at_once(struct state *state, size_t *ret_all)
{
        struct store_ops ops = *state->manager->store->ops;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        size_t most = 0, before;

        whole_ops = state->manager->store->ops;
        ops.get = counted_get;
        state->manager->store->ops = &ops;
        n_credentials = 0;
        store_batch_put(&batch, STORE_ANY, object_new("role", "another", "one"));
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
        for (int i = 0; i < 100; i++) {
                before = n_credentials;
                loop_iterate(state->loop, 10);
                most = MAX(most, n_credentials - before);
        }
        state->manager->store->ops = whole_ops;
        *ret_all = n_credentials;
        return most;
}

static void begin_all(struct state *state, struct heard *heard, bool of_one)
{
        char name[16];

        for (size_t i = 0; i < N_WATCHERS; i++) {
                snprintf(name, sizeof(name), "t%zu", i);
                if (!i || !of_one)
                        become_token(state, name);
                begin(state, "/api/v1/events", &heard[i]);
        }
        for (size_t i = 0; i < N_WATCHERS; i++)
                while (!heard[i].begun)
                        loop_iterate(state->loop, 10);
}

static void end_all(struct heard *heard)
{
        for (size_t i = 0; i < N_WATCHERS; i++)
                http_call_cancel(heard[i].call);
}

static void credential_is_read_once_for_all_who_watch_with_it(void **data)
{
        struct heard heard[N_WATCHERS];
        struct state *state = *data;
        size_t n_all;

        begin_all(state, heard, true);
        most_reads_at_once(state, &n_all);
        assert_in_range(n_all, 1, N_WATCHERS / 4);
        end_all(heard);
}

static void credentials_are_read_in_pieces(void **data)
{
        struct heard heard[N_WATCHERS];
        struct state *state = *data;
        size_t n_all, most;

        begin_all(state, heard, false);
        most = most_reads_at_once(state, &n_all);
        assert_true(n_all >= N_WATCHERS);
        assert_true(most < N_WATCHERS);
        end_all(heard);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(client_resumes_where_it_was),
                TEST(flood_is_heard_whole),
                TEST(what_is_remembered_is_bounded_in_memory),
                TEST(client_that_missed_what_is_forgotten_lists_again),
                TEST(change_during_a_round_is_heard),
                TEST(nothing_is_read_while_nobody_watches),
                TEST(credential_is_read_once_for_all_who_watch_with_it),
                TEST(credentials_are_read_in_pieces),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
