/* SPDX-License-Identifier: Apache-2.0 */

/* What the inventory has in memory is what the store has: after any changes, when following them fails, and when memory runs out
 * half way. No agent is called: the loop's timers for them never fire here. */

#include "fixture.h"

#include "../torture_loop.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/doc.h"
#include "base/log.h"
#include "io/loop.h"
#include "manager/inventory_private.h"
#include "manager/store_backend.h"

#define WAIT_MS 20000

struct state {
        struct folder folder;
        struct manager manager;
        struct store_ops ops; /* the store's, of which some fail */
        const struct store_ops *real;
};

static void on_commit(void *userdata)
{
        struct state *state = userdata;

        if (state->manager.inventory)
                inventory_follow(state->manager.inventory);
}

static int setup(void **ret)
{
        struct state *state = calloc(1, sizeof(*state));

        log_init("test", LOG_LEVEL_ERROR);
        folder_make(&state->folder);
        assert_int_equal(loop_new(&state->manager.loop), 0);
        state->manager.clock = loop_clock(state->manager.loop);
        state->manager.store = store_open_in(&state->folder);
        state->real = state->manager.store->ops;
        state->ops = *state->real;
        state->manager.store->ops = &state->ops;
        store_on_commit(state->manager.store, on_commit, state);
        assert_int_equal(inventory_new(&state->manager, &state->manager.inventory, NULL), 0);
        *ret = state;
        return 0;
}

static int teardown(void **data)
{
        struct state *state = *data;

        inventory_free(state->manager.inventory);
        store_close(state->manager.store);
        loop_free(state->manager.loop);
        folder_remove(&state->folder);
        free(state);
        return 0;
}

static int no_changes(struct store *store, uint64_t after, size_t limit,
        int (*fn)(void *userdata, const struct store_row_event *event), void *userdata,
        struct error **ret_error)
{
        return error_set(ret_error, ERROR_INTERNAL, NULL, "the change log cannot be read");
}

/* `disks` and `nics` as JSON. */
static json_t *vm(const char *uid, const char *name, const char *host, const char *disks, const char *nics)
{
        return json_pack("{s:s, s:s, s:s, s:{s:o, s:o}, s:{s:s, s:s}}", "kind", "vm", "uid", uid, "name",
                name, "spec", "disks", json_loads(disks, 0, NULL), "nics", json_loads(nics, 0, NULL),
                "status", "host", host, "power", "running");
}

static json_t *plain(const char *uid, const char *name)
{
        return vm(uid, name, "host1", "[]", "[]");
}

static json_t *host(const char *name)
{
        return json_pack("{s:s, s:s+, s:s, s:{s:s}, s:{s:s}}", "kind", "host", "uid", "uid-", name, "name",
                name, "spec", "address", "127.0.0.1:1", "status", "state", "connecting");
}

/* Takes the document over. */
static int put(struct state *state, json_t *doc)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

        store_batch_put(&batch, STORE_ANY, doc);
        return store_commit(state->manager.store, &batch, NULL, NULL);
}

static int drop(struct state *state, const char *kind, const char *uid)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

        store_batch_remove(&batch, kind, uid, STORE_ANY);
        return store_commit(state->manager.store, &batch, NULL, NULL);
}

/* --- Lists ------------------------------------------------------------------------------------------------------------ */

/* All pages of `limit`, as one array; NULL without memory. */
static json_t *pages(struct state *state, bool memory, struct store_query query)
{
        _cleanup_json_ json_t *all = json_array();
        char after[64] = "";
        bool more = true;

        while (more) {
                _cleanup_json_ json_t *page = NULL;

                query.after = *after ? after : NULL;
                if ((memory ? inventory_list(state->manager.inventory, &query, &page, &more)
                            : store_list(state->manager.store, &query, &page, &more, NULL)) < 0 ||
                        json_array_extend(all, page) < 0)
                        return NULL;
                if (more)
                        snprintf(after, sizeof(after), "%s",
                                json_string_value(json_object_get(
                                        json_array_get(page, json_array_size(page) - 1), "name")));
        }
        return TAKE_PTR(all);
}

static bool is_odd(void *userdata, const json_t *doc)
{
        return json_integer_value(json_object_get(doc, "revision")) % 2;
}

/* Memory and store list the same: both ways, filtered, in pages and at once. */
static bool is_same(struct state *state, const char *kind)
{
        for (int way = 0; way < 8; way++) {
                struct store_query query = {.kind = kind,
                        .descending = way & 1,
                        .limit = way & 2 ? 3 : STORE_LIMIT_NONE,
                        .match = way & 4 ? is_odd : NULL};
                _cleanup_json_ json_t *memory = pages(state, true, query),
                                      *store = pages(state, false, query);

                if (!memory || !store || !json_equal(memory, store))
                        return false;
        }
        return true;
}

static void lists_from_memory_are_the_stores(void **data)
{
        struct state *state = *data;
        unsigned int seed = 20261127;
        char uid[16], name[16];

        for (int i = 0; i < 400; i++) {
                int which = rand_r(&seed) % 20, what = rand_r(&seed) % 4;
                uint64_t revision = 0;

                snprintf(uid, sizeof(uid), "u%d", which);
                snprintf(name, sizeof(name), "n%d", rand_r(&seed) % 30);
                if (what == 0)
                        assert_int_equal(drop(state, "vm", uid), 0);
                else if (what == 1)
                        put(state, host(name));
                else /* new, changed or renamed; a name that is taken is refused */
                        put(state, vm(uid, name, "n3", "[]", "[]"));
                assert_int_equal(store_revision(state->manager.store, &revision, NULL), 0);
                assert_true(inventory_followed(state->manager.inventory) == revision);
                if (i % 20 == 0) {
                        assert_true(is_same(state, "vm"));
                        assert_true(is_same(state, "host"));
                }
        }
        assert_true(is_same(state, "vm"));
        assert_true(is_same(state, "host"));
}

/* --- Names and users ---------------------------------------------------------------------------------------------------- */

static void names_are_found_after_renaming_and_reuse(void **data)
{
        struct state *state = *data;
        const struct inventory *inventory = state->manager.inventory;

        put(state, plain("a", "web"));
        put(state, plain("a", "www"));
        assert_null(inventory_vm_named(inventory, "web"));
        assert_string_equal(json_text(inventory_vm_named(inventory, "www"), "uid"), "a");
        put(state, plain("b", "web"));
        assert_string_equal(json_text(inventory_vm_named(inventory, "web"), "uid"), "b");
        drop(state, "vm", "b");
        put(state, plain("c", "web"));
        assert_string_equal(json_text(inventory_vm_named(inventory, "web"), "uid"), "c");
}

/* Names of the VMs beside that of the uid, with spaces between. */
static const char *beside(struct state *state, const char *uid, char ret[static 64])
{
        _cleanup_json_ json_t *vms =
                inventory_vms_beside(state->manager.inventory, inventory_vm(state->manager.inventory, uid));
        json_t *item;
        size_t i;

        if (!vms) /* without memory, once */
                vms = inventory_vms_beside(
                        state->manager.inventory, inventory_vm(state->manager.inventory, uid));
        assert_non_null(vms);
        *ret = '\0';
        json_array_foreach (vms, i, item)
                snprintf(ret + strlen(ret), 64 - strlen(ret), "%s", json_text(item, "name"));
        return ret;
}

static void address_belongs_to_who_has_it_now(void **data)
{
        static const char *const one = "[{\"mac\": \"52:54:00:00:00:0a\"}]",
                                 *const upper = "[{\"mac\": \"52:54:00:00:00:0A\"}]";
        struct state *state = *data;
        char text[64];

        put(state, vm("a", "a", "host1", "[]", one));
        put(state, vm("b", "b", "host1", "[]", one));
        assert_string_equal(beside(state, "a", text), "b");
        put(state, vm("b", "b", "host1", "[]", "[]"));
        assert_string_equal(beside(state, "a", text), "");
        put(state, vm("c", "c", "host1", "[]", one));
        assert_string_equal(beside(state, "a", text), "c");
        drop(state, "vm", "c");
        assert_string_equal(beside(state, "a", text), "");
        put(state, vm("c", "c", "host1", "[]", upper));
        assert_string_equal(beside(state, "c", text), "a");
}

static void image_that_both_only_read_is_nobodys(void **data)
{
        static const char
                *const reads = "[{\"datastore\": \"d\", \"path\": \"cd.iso\", \"read_only\": true}]",
                       *const writes = "[{\"datastore\": \"d\", \"path\": \"cd.iso\"}]";
        struct state *state = *data;
        char text[64];

        put(state, vm("a", "a", "host1", reads, "[]"));
        put(state, vm("b", "b", "host1", reads, "[]"));
        assert_string_equal(beside(state, "a", text), "");
        put(state, vm("c", "c", "host1", writes, "[]"));
        assert_string_equal(beside(state, "a", text), "c");
        assert_int_equal(strlen(beside(state, "c", text)), 2);
        put(state, vm("d", "d", "host1", writes, "[]"));
        assert_int_equal(strlen(beside(state, "c", text)), 3);
}

static void text_of_a_machine_is_that_of_its_newest_document(void **data)
{
        struct state *state = *data;
        struct inventory *inventory = state->manager.inventory;

        for (int i = 0; i < 3; i++) {
                _cleanup_json_ json_t *old = json_incref((json_t *)inventory_vm(inventory, "a")),
                                      *parsed = NULL, *doc = plain("a", i % 2 ? "web" : "www");
                const char *text;

                json_object_set_new(doc, "internal", json_true());
                put(state, TAKE_PTR(doc));
                assert_true(!old || !inventory_vm_text(inventory, old));
                text = inventory_vm_text(inventory, inventory_vm(inventory, "a"));
                assert_non_null(text);
                assert_ptr_equal(text, inventory_vm_text(inventory, inventory_vm(inventory, "a")));
                parsed = json_loads(text, 0, NULL);
                assert_string_equal(json_text(parsed, "name"), i % 2 ? "web" : "www");
                assert_int_equal(json_revision(parsed), inventory_followed(inventory));
                assert_null(json_object_get(parsed, "internal"));
        }
}

/* --- Following ---------------------------------------------------------------------------------------------------------- */

static void what_could_not_be_followed_is_followed_later(void **data)
{
        struct state *state = *data;
        struct inventory *inventory = state->manager.inventory;
        uint64_t before, revision = 0;

        put(state, plain("a", "a"));
        before = inventory_followed(inventory);
        state->ops.changes = no_changes;
        assert_int_equal(put(state, plain("b", "b")), 0);
        assert_false(inventory_is_current(inventory));
        assert_true(inventory_followed(inventory) == before); /* what the list is of */
        assert_null(inventory_vm(inventory, "b"));
        state->ops = *state->real;
        /* By itself: nothing is committed any more. */
        for (uint64_t end = clock_now_ms(state->manager.clock) + WAIT_MS; !inventory_is_current(inventory);) {
                assert_true(clock_now_ms(state->manager.clock) < end);
                loop_iterate(state->manager.loop, 20);
        }
        assert_int_equal(store_revision(state->manager.store, &revision, NULL), 0);
        assert_true(inventory_followed(inventory) == revision);
        assert_true(is_same(state, "vm"));
}

/* A manager that could not follow for so long that the log does not reach back any more. */
static void what_the_log_has_forgotten_is_loaded_anew(void **data)
{
        struct state *state = *data;
        struct inventory *inventory = state->manager.inventory;
        uint64_t revision = 0;
        const json_t *same;

        put(state, host("n1"));
        put(state, host("n2"));
        put(state, plain("a", "a"));
        put(state, plain("b", "b"));
        put(state, plain("c", "c"));
        same = inventory_vm(inventory, "a");
        state->ops.changes = no_changes;
        assert_int_equal(drop(state, "host", "uid-n2"), 0);
        assert_int_equal(put(state, host("n3")), 0);
        assert_int_equal(drop(state, "vm", "b"), 0);
        assert_int_equal(put(state, plain("c", "b")), 0); /* renamed, to a name that was taken */
        assert_int_equal(put(state, plain("d", "d")), 0);
        assert_int_equal(store_trim_log(state->manager.store, 1, NULL), 0);
        state->ops = *state->real;
        inventory_follow(inventory);
        assert_true(inventory_is_current(inventory));
        assert_int_equal(store_revision(state->manager.store, &revision, NULL), 0);
        assert_true(inventory_followed(inventory) == revision);
        assert_true(is_same(state, "vm"));
        assert_true(is_same(state, "host"));
        assert_ptr_equal(inventory_vm(inventory, "a"), same);
        assert_null(inventory_host(inventory, "n2"));
        assert_string_equal(json_text(inventory_vm_named(inventory, "b"), "uid"), "c");
        assert_int_equal(put(state, plain("e", "e")), 0);
        assert_true(is_same(state, "vm"));
}

static void host_that_the_store_has_under_another_name_is_followed(void **data)
{
        struct state *state = *data;
        json_t *renamed = host("n1");

        put(state, host("n1"));
        put(state, vm("a", "a", "n2", "[]", "[]"));
        json_object_set_new(renamed, "name", json_string("n2"));
        assert_int_equal(put(state, renamed), 0);
        assert_true(is_same(state, "host"));
        assert_null(inventory_host(state->manager.inventory, "n1"));
        assert_non_null(inventory_host(state->manager.inventory, "n2"));
}

/* --- Merging ------------------------------------------------------------------------------------------------------------ */

#define BAD "00000000-0000-4000-8000-000000000150"

static const struct store_ops *backend;
static size_t n_commits;

/* One change that cannot be made. */
static int commit_none_of_bad(struct store *store, const struct store_row_change *changes, size_t n_changes,
        uint64_t *ret_revision, struct error **ret_error)
{
        n_commits++;
        for (size_t i = 0; i < n_changes; i++)
                if (!strcmp(changes[i].uid, BAD))
                        return error_set(ret_error, ERROR_EXISTS, NULL, "it cannot be made");
        return backend->commit(store, changes, n_changes, ret_revision, ret_error);
}

static void change_that_cannot_be_made_is_tried_alone_with_a_few_others(void **data)
{
        struct state *state = *data;
        struct inventory *inventory = state->manager.inventory;
        enum { N = 300 };
        struct host *at;
        char uid[40];

        put(state, host("n1"));
        for (int i = 0; i < N; i++) {
                snprintf(uid, sizeof(uid), "00000000-0000-4000-8000-%012d", i);
                put(state, vm(uid, uid, "n1", "[]", "[]"));
        }
        at = map_get(&inventory->hosts, "uid-n1");
        at->connected = true;
        for (int i = 0; i < N; i++) {
                _cleanup_json_ json_t *report = json_pack(
                        "{s:s, s:{s:s, s:i}}", "name", "x", "status", "power", "paused", "owner_epoch", 1);

                snprintf(uid, sizeof(uid), "00000000-0000-4000-8000-%012d", i);
                assert_int_equal(host_take_report(at, uid, report), 0);
        }
        backend = state->real;
        n_commits = 0;
        state->ops.commit = commit_none_of_bad;
        inventory_merge_host(at);
        state->ops.commit = state->real->commit;
        assert_true(n_commits < N / 2);
        for (int i = 0; i < N; i++) {
                snprintf(uid, sizeof(uid), "00000000-0000-4000-8000-%012d", i);
                assert_string_equal(json_text(json_status(inventory_vm(inventory, uid)), "power"),
                        strcmp(uid, BAD) ? "paused" : "running");
        }
}

#define CLAIMED "00000000-0000-4000-8000-00000000000c"

/* A host that has answered, and what it says of the VM (NULL: nothing). */
static struct host *says(struct state *state, const char *name, const char *power, json_int_t epoch)
{
        _cleanup_json_ json_t *report = power ? json_pack("{s:s, s:{s:s, s:I}}", "name", "claimed", "status",
                                                        "power", power, "owner_epoch", epoch)
                                              : NULL;
        struct host *at;
        char uid[16];

        snprintf(uid, sizeof(uid), "uid-%s", name);
        put(state, host(name));
        at = map_get(&state->manager.inventory->hosts, uid);
        at->connected = true;
        assert_int_equal(host_take_report(at, CLAIMED, report), 0);
        return at;
}

static void assert_at(struct state *state, const char *host_name, const char *power)
{
        const json_t *status = json_status(inventory_vm(state->manager.inventory, CLAIMED));

        assert_string_equal(json_text(status, "host"), host_name);
        assert_string_equal(json_text(status, "power"), power);
}

/* VM on n1, as recorded and as that host says; then n2 says that it has it, too. */
static void claim(struct state *state, const char *at_home, const char *claimed, json_int_t epoch)
{
        put(state, vm(CLAIMED, "claimed", "n1", "[]", "[]"));
        inventory_merge_host(says(state, "n1", at_home, 5));
        inventory_merge_host(says(state, "n2", claimed, epoch));
}

static void host_does_not_take_a_machine_by_a_later_epoch(void **data)
{
        static const char *const powers[] = {"running", "paused"};

        for (size_t i = 0; i < 4; i++) {
                claim(*data, powers[i / 2], powers[i % 2], 1000000000000000);
                assert_at(*data, "n1", powers[i / 2]);
                inventory_merge_host(says(*data, "n1", powers[i / 2], 5));
                assert_at(*data, "n1", powers[i / 2]);
        }
}

static void machine_that_its_host_let_go_is_the_next_ones(void **data)
{
        static const char *const ends[] = {"outgoing-done", "unknown", "crashed", NULL};

        for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
                claim(*data, "running", "running", 6);
                assert_at(*data, "n1", "running");
                inventory_merge_host(says(*data, "n1", ends[i], 5));
                assert_at(*data, "n2", "running");
        }
}

static void host_that_was_not_asked_yet_has_its_say_first(void **data)
{
        struct state *state = *data;
        struct host *home = says(state, "n1", NULL, 0);

        home->connected = false;
        put(state, vm(CLAIMED, "claimed", "n1", "[]", "[]"));
        inventory_merge_host(says(state, "n2", "running", 6));
        assert_at(state, "n1", "running");
        home->n_failures = 2; /* it was asked, and is not there */
        inventory_merge_host(says(state, "n2", "running", 6));
        assert_at(state, "n2", "running");
}

static void machine_that_is_off_is_where_it_runs_after_all(void **data)
{
        struct state *state = *data;
        json_t *off = vm(CLAIMED, "claimed", "n1", "[]", "[]");

        says(state, "n1", NULL, 0);
        json_object_set_new(json_object_get(off, "status"), "power", json_string("stopped"));
        put(state, off);
        inventory_merge_host(says(state, "n2", "running", 6));
        assert_at(state, "n2", "running");
}

/* One call fails, once: what is asked for again succeeds. */
#define SURELY(condition) assert_true((condition) || (condition))

static void arm_again(void)
{
#ifdef DROVER_TORTURE
        torture_arm(torture_nth);
#endif
}

static void disarm(void)
{
#ifdef DROVER_TORTURE
        torture_arm(0);
#endif
}

/* The change is followed as it is committed, or, where that has failed half way, later: with `trimmed` the log does not have it then. */
static void forget_log(struct state *state, const void *trimmed)
{
        if (trimmed)
                SURELY(store_trim_log(state->manager.store, 0, NULL) >= 0);
}

/* `arg`: the log is trimmed after each change. */
static void change_and_look(void *arg)
{
        static const char
                *const image = "[{\"datastore\": \"d\", \"path\": \"p\"}]",
                       *const nics = "[{\"mac\": \"52:54:00:00:00:01\"}, {\"mac\": \"52:54:00:00:00:02\"}]";
        struct inventory *inventory;
        struct state *state;
        void *data = NULL;
        char text[64];

        disarm();
        setup(&data);
        arm_again();
        state = data;
        inventory = state->manager.inventory;
        SURELY(put(state, host("host1")) >= 0);
        forget_log(state, arg);
        SURELY(put(state, vm("a", "a", "host1", image, nics)) >= 0);
        forget_log(state, arg);
        SURELY(put(state, vm("b", "b", "host1", image, nics)) >= 0);
        forget_log(state, arg);
        SURELY(put(state, vm("a", "c", "host1", image, "[]")) >= 0);
        forget_log(state, arg);
        while (!inventory_is_current(inventory))
                inventory_follow(inventory);
        SURELY(is_same(state, "vm") && is_same(state, "host"));
        assert_string_equal(json_text(inventory_vm_named(inventory, "c"), "uid"), "a");
        assert_null(inventory_vm_named(inventory, "a"));
        assert_string_equal(beside(state, "b", text), "c");
        assert_string_equal(beside(state, "a", text), "b");
        SURELY(inventory_live(inventory, "host1"));
        teardown(&data);
}

static void failure_half_way_loses_nothing(void **data)
{
        bool trimmed = true;

        torture_loop(change_and_look, NULL);
        torture_loop(change_and_look, &trimmed);
}

/* --- Excuses ------------------------------------------------------------------------------------------------------------ */

static void silence_is_excused_only_while_nobody_could_hear(void **data)
{
        struct host host = {.connected = true}, away = {};

        assert_true(inventory_excuses(&host, 0.9, true));
        assert_false(inventory_excuses(&host, 0.5, true));
        assert_false(inventory_excuses(&host, 0.9, false)); /* there was time to read an answer */
        assert_false(inventory_excuses(&away, 0.9, true));
}

static void excuses_end(void **data)
{
        struct host host = {.connected = true};
        unsigned int before = 0, after = 0;

        while (inventory_excuses(&host, 1, true) && before < 100)
                host.n_excused = ++before;
        host.n_failures = 1;
        host.n_excused = 0;
        while (inventory_excuses(&host, 1, true) && after < 100)
                host.n_excused = ++after;
        assert_int_equal(before, 4);
        assert_int_equal(after, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(lists_from_memory_are_the_stores),
                TEST(names_are_found_after_renaming_and_reuse),
                TEST(address_belongs_to_who_has_it_now),
                TEST(image_that_both_only_read_is_nobodys),
                TEST(text_of_a_machine_is_that_of_its_newest_document),
                TEST(what_could_not_be_followed_is_followed_later),
                TEST(what_the_log_has_forgotten_is_loaded_anew),
                TEST(host_that_the_store_has_under_another_name_is_followed),
                TEST(change_that_cannot_be_made_is_tried_alone_with_a_few_others),
                TEST(host_does_not_take_a_machine_by_a_later_epoch),
                TEST(machine_that_its_host_let_go_is_the_next_ones),
                TEST(host_that_was_not_asked_yet_has_its_say_first),
                TEST(machine_that_is_off_is_where_it_runs_after_all),
                cmocka_unit_test(failure_half_way_loses_nothing),
                cmocka_unit_test(silence_is_excused_only_while_nobody_could_hear),
                cmocka_unit_test(excuses_end),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
