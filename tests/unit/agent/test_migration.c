/* SPDX-License-Identifier: Apache-2.0 */

/* Journals of migrations on a real agent with a real QEMU, whose peer is never there. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/journal.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "io/file.h"
#include "rig.h"

#define ID "44444444-4444-4444-8444-444444444444"
#define SETTLE_MS 20000

static struct rig rig;
static bool possible;

static int group_setup(void **state)
{
        possible = rig_setup(&rig);
        if (possible)
                rig_configure(&rig);
        return 0;
}

static int group_teardown(void **state)
{
        rig_teardown(&rig);
        return 0;
}

/* Every test begins with a running VM under epoch 1, and ends without it and without migrations. */
static int each_setup(void **state)
{
        if (!possible)
                return 0;
        assert_int_equal(rig_vm(&rig, "create", rig_vm_document(), NULL), 200);
        assert_int_equal(rig_vm(&rig, "start", rig_vm_document(), NULL), 200);
        return 0;
}

static int each_teardown(void **state)
{
        json_t *document;

        if (!possible)
                return 0;
        (void)rig_call(&rig, rig.manager, "DELETE", "/agent/v1/migrations/" ID, NULL, NULL);
        assert_int_equal(rig_vm(&rig, "stop", json_pack("{s:b}", "force", 1), &document), 200);
        assert_int_equal(rig_vm(&rig, "delete", document, NULL), 200);
        return 0;
}

static char *state_path(const char *file)
{
        char *path = alloc_printf("%s/state/migrations%s", rig.folder, file);

        assert_non_null(path);
        return path;
}

static json_t *make_spec(void)
{
        json_t *document = vm_document(vm_find(rig.agent, RIG_VM_UID));

        return json_pack("{s:s, s:o, s:i, s:{s:s, s:s}, s:{s:s, s:s}}", "id", ID, "vm", document, "epoch", 1,
                "source", "host", RIG_HOST_UID, "address", agent_listen_address(rig.agent), "destination",
                "host", RIG_OTHER_UID, "address", "127.0.0.1:9");
}

/* The phase that the agent tells; "" when it knows no such migration. */
static void read_phase(char ret_phase[static 32])
{
        json_t *body = NULL;

        (void)rig_call(&rig, rig.manager, "GET", "/agent/v1/migrations/" ID, NULL, &body);
        (void)snprintf(ret_phase, 32, "%s", json_string_value(json_object_get(body, "phase")) ?: "");
        json_decref(body);
}

static void wait_phase(const char *wanted)
{
        uint64_t until_ms = clock_now_ms(&clock_system) + SETTLE_MS;
        char phase[32];

        do {
                (void)loop_iterate(rig.loop, 50);
                read_phase(phase);
        } while (strcmp(phase, wanted) != 0 && clock_now_ms(&clock_system) < until_ms);
        assert_string_equal(phase, wanted);
}

/* The journal's last line as it is on disk; the caller's. */
static json_t *last_record(void)
{
        _cleanup_free_ char *folder = state_path(""), *text = NULL;
        _cleanup_free_ char *path = state_path("/" ID "." RIG_VM_UID ".journal");
        char *line;
        json_t *record;
        size_t len;

        assert_int_equal(file_read(path, JOURNAL_MAX_BYTES, &text, &len), 0);
        assert_true(len > 1 && text[len - 1] == '\n');
        text[len - 1] = '\0';
        line = strrchr(text, '\n');
        line = line ? line + 1 : text;
        line = strchr(line, ' ');
        assert_non_null(line);
        assert_int_equal(doc_parse(line + 1, strlen(line + 1), &record, NULL), 0);
        return record;
}

static bool is_settled(void)
{
        _cleanup_json_ json_t *record = last_record();

        return json_object_get(record, "settled") != NULL;
}

static void test_settled_line_is_written_when_the_disk_takes_it_again(void **state)
{
        _cleanup_free_ char *path = state_path("/" ID "." RIG_VM_UID ".journal");
        struct rlimit limit, small;
        struct stat st;

        if (!possible)
                skip();
        assert_int_equal(rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations", make_spec(), NULL), 202);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
        (void)signal(SIGXFSZ, SIG_IGN);
        small = (struct rlimit){.rlim_cur = (rlim_t)st.st_size, .rlim_max = limit.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        assert_int_equal(
                rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations/" ID "/cancel", NULL, NULL), 202);
        wait_phase("cancelled");
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, small.rlim_cur);
        assert_int_equal(rig_vm(&rig, "pause", NULL, NULL), 200); /* the VM does not wait for that */
        for (int i = 0; i < 100 && stat(path, &st) == 0 && st.st_size == (off_t)small.rlim_cur; i++)
                (void)loop_iterate(rig.loop, 50);
        assert_true(is_settled());
}

static void test_guest_that_resumed_by_itself_is_taken_back_under_a_new_epoch(void **state)
{
        _cleanup_json_ json_t *spec = NULL, *first = NULL, *second = NULL, *owner = NULL, *last = NULL;
        _cleanup_free_ char *folder = state_path(""), *owner_path = NULL, *text = NULL;
        struct journal *journal;
        size_t len;

        if (!possible)
                skip();
        spec = make_spec();
        first = json_pack("{s:s, s:i, s:i, s:O}", "record", "outgoing", "epoch", 1, "role", 0, "spec", spec);
        second = json_pack("{s:s, s:i}", "record", "handed-off", "epoch", 2);
        rig_stop_agent(&rig);
        assert_int_equal(journal_create(folder, ID, RIG_VM_UID, first, &journal, NULL), 0);
        assert_int_equal(journal_append(journal, second, NULL), 0);
        journal_free(journal);
        rig_start_agent(&rig);
        wait_phase("failed");

        last = last_record();
        assert_string_equal(json_string_value(json_object_get(last, "record")), "taken-back");
        assert_string_equal(json_string_value(json_object_get(last, "settled")), "failed");
        assert_non_null(json_object_get(last, "error"));
        assert_int_equal(json_integer_value(json_object_get(last, "epoch")), 3);
        assert_int_equal(vm_find(rig.agent, RIG_VM_UID)->config->status.owner_epoch, 3);
        owner_path = alloc_printf("%s/store/t1/owner.json", rig.folder);
        assert_int_equal(file_read(owner_path, 4096, &text, &len), 0);
        assert_int_equal(doc_parse(text, len, &owner, NULL), 0);
        assert_int_equal(json_integer_value(json_object_get(owner, "epoch")), 3);
        assert_string_equal(json_string_value(json_object_get(owner, "owner")), RIG_HOST_UID);
}

static json_t *spec_of_disks(void)
{
        json_t *spec = make_spec();

        assert_int_equal(json_object_set_new(spec, "disks", json_pack("{s:s}", "datastore", "local")), 0);
        assert_int_equal(json_object_set_new(json_object_get(json_object_get(spec, "vm"), "spec"), "disks",
                                 json_pack("[{s:s, s:s, s:s, s:s}]", "name", "disk0", "datastore", "local",
                                         "path", "t1/disk0.raw", "format", "raw")),
                0);
        return spec;
}

/* Without a QEMU, and with a disk that travelled along: the last that the journal says is `handed-off`. */
static void leave_journal_of_disks(void)
{
        _cleanup_json_ json_t *spec = spec_of_disks(), *first = NULL, *second = NULL;
        _cleanup_free_ char *folder = state_path("");
        struct journal *journal;

        first = json_pack("{s:s, s:i, s:i, s:O}", "record", "outgoing", "epoch", 1, "role", 0, "spec", spec);
        second = json_pack("{s:s, s:i}", "record", "handed-off", "epoch", 2);
        assert_int_equal(rig_vm(&rig, "stop", json_pack("{s:b}", "force", 1), NULL), 200);
        rig_stop_agent(&rig);
        assert_int_equal(journal_create(folder, ID, RIG_VM_UID, first, &journal, NULL), 0);
        assert_int_equal(journal_append(journal, second, NULL), 0);
        journal_free(journal);
        rig_start_agent(&rig);
}

/* The guest may have gone on from there, to a third host. */
static void test_removal_of_the_peer_alone_is_no_word_about_the_disks_there(void **state)
{
        _cleanup_json_ json_t *last = NULL;
        uint64_t until_ms;
        char phase[32];

        if (!possible)
                skip();
        leave_journal_of_disks();
        assert_int_equal(rig_call(&rig, rig.manager, "PUT", "/agent/v1/removed-hosts",
                                 json_pack("{s:[s]}", "hosts", RIG_OTHER_UID), NULL),
                200);
        wait_phase("waiting-for-peer");
        for (until_ms = clock_now_ms(&clock_system) + 1500; clock_now_ms(&clock_system) < until_ms;)
                (void)loop_iterate(rig.loop, 50);
        read_phase(phase);
        assert_string_equal(phase, "waiting-for-peer");

        assert_int_equal(
                rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations/" ID "/peer-removed", NULL, NULL),
                200);
        rig_stop_agent(&rig); /* it is noted */
        rig_start_agent(&rig);
        wait_phase("failed");
        last = last_record();
        assert_string_equal(json_string_value(json_object_get(last, "record")), "taken-back");
        assert_int_equal(json_integer_value(json_object_get(last, "epoch")), 3);
        assert_int_equal(rig_call(&rig, rig.manager, "PUT", "/agent/v1/removed-hosts",
                                 json_pack("{s:[]}", "hosts"), NULL),
                200);
        rig_configure(&rig);
        assert_int_equal(
                rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations/" ID "/peer-removed", NULL, NULL),
                409); /* it is settled */
}

/* The task has ended without it, and the VM may have been started meanwhile, from its folder or the other. */
static void test_source_that_is_told_to_let_go_leaves_the_owner_record_alone(void **state)
{
        _cleanup_json_ json_t *last = NULL, *facts = NULL;
        _cleanup_free_ char *path = alloc_printf("%s/store/t1/owner.json", rig.folder), *before = NULL,
                            *after = NULL;
        json_t *waiting;

        if (!possible)
                skip();
        leave_journal_of_disks();
        wait_phase("waiting-for-peer");
        assert_int_equal(file_read(path, 4096, &before, NULL), 0);
        assert_int_equal(rig_call(&rig, rig.manager, "GET", "/agent/v1/host", NULL, &facts), 200);
        waiting = json_array_get(json_object_get(facts, "waiting_migrations"), 0);
        assert_string_equal(json_string_value(json_object_get(waiting, "id")), ID);
        assert_string_equal(json_string_value(json_object_get(waiting, "peer")), RIG_OTHER_UID);
        assert_int_equal(rig_call(&rig, rig.manager, "PUT", "/agent/v1/removed-hosts",
                                 json_pack("{s:[s]}", "hosts", RIG_OTHER_UID), NULL),
                200);
        assert_int_equal(
                rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations/" ID "/let-go", NULL, NULL), 200);
        wait_phase("failed");
        last = last_record();
        assert_string_equal(json_string_value(json_object_get(last, "record")), "released");
        assert_int_equal(file_read(path, 4096, &after, NULL), 0);
        assert_string_equal(before, after);
        assert_int_equal(rig_call(&rig, rig.manager, "PUT", "/agent/v1/removed-hosts",
                                 json_pack("{s:[]}", "hosts"), NULL),
                200);
        rig_configure(&rig);
        assert_int_equal(
                rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations/" ID "/let-go", NULL, NULL), 409);
        assert_int_equal(rig_vm(&rig, "start", rig_vm_document(), NULL), 200); /* from where it was */
}

static void assert_code(int status, json_t *body, const char *code)
{
        assert_true(status >= 400);
        assert_string_equal(json_string_value(json_object_get(body, "code")), code);
        json_decref(body);
}

/* QEMU would stop the guest as soon as its memory is copied, whatever is left of the disks. */
static void test_disks_do_not_travel_along_where_nobody_holds_qemu(void **state)
{
        json_t *body = NULL;
        int status;

        if (!possible)
                skip();
        status = rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations", spec_of_disks(), &body);
        assert_non_null(strstr(json_string_value(json_object_get(body, "detail")), "takes no part"));
        assert_code(status, body, "not-supported");
        free(rig.agent->config.disks_along);
        rig.agent->config.disks_along = strdup("yes");
        assert_non_null(rig.agent->config.disks_along);
        status = rig_call(&rig, rig.manager, "POST", "/agent/v1/migrations", spec_of_disks(), &body);
        assert_non_null(strstr(json_string_value(json_object_get(body, "detail")), "QEMU is held"));
        assert_code(status, body, "not-supported");
}

#define OTHER_ID "55555555-5555-4555-8555-555555555555"

/* Of a destination that abandoned what came with its disks; `settled`: it has settled, too. */
static void leave_journal_of_destination(bool with_disks, bool settled)
{
        _cleanup_json_ json_t *spec = with_disks ? spec_of_disks() : make_spec(), *first = NULL,
                              *second = NULL, *third = NULL;
        _cleanup_free_ char *folder = state_path("");
        json_t *source = json_incref(json_object_get(spec, "source"));
        struct journal *journal;

        assert_int_equal(json_object_set_new(spec, "id", json_string(OTHER_ID)), 0);
        assert_int_equal(json_object_set(spec, "source", json_object_get(spec, "destination")), 0);
        assert_int_equal(json_object_set_new(spec, "destination", source), 0);
        if (with_disks)
                json_object_set_new(spec, "disks_from",
                        json_pack("{s:s, s:[i]}", "left_store", OTHER_ID, "sizes", 1 << 20));
        first = json_pack("{s:s, s:i, s:i, s:O}", "record", "prepared", "epoch", 1, "role", 1, "spec", spec);
        second = json_pack("{s:s, s:i}", "record", "abandoned", "epoch", 1);
        third = json_pack("{s:s, s:i, s:s}", "record", "abandoned", "epoch", 1, "settled", "failed");
        rig_stop_agent(&rig);
        assert_int_equal(journal_create(folder, OTHER_ID, RIG_VM_UID, first, &journal, NULL), 0);
        assert_int_equal(journal_append(journal, second, NULL), 0);
        if (settled)
                assert_int_equal(journal_append(journal, third, NULL), 0);
        journal_free(journal);
        rig_start_agent(&rig);
}

static void drop_journal_of_destination(void)
{
        _cleanup_free_ char *path = state_path("/" OTHER_ID "." RIG_VM_UID ".journal");

        rig_stop_agent(&rig);
        assert_int_equal(unlink(path), 0);
        rig_start_agent(&rig);
}

/* A source that was taken for down comes back and asks; nobody else knows. */
static void test_destination_of_disks_is_not_forgotten_before_its_source_has_heard(void **state)
{
        json_t *body = NULL;
        int status;

        if (!possible)
                skip();
        leave_journal_of_destination(true, true);
        status = rig_call(&rig, rig.manager, "DELETE", "/agent/v1/migrations/" OTHER_ID, NULL, &body);
        assert_code(status, body, "conflict");
        assert_int_equal(
                rig_call(&rig, rig.host, "GET", "/agent/v1/peer/migrations/" OTHER_ID, NULL, &body), 200);
        assert_string_equal(json_string_value(json_object_get(body, "record")), "abandoned");
        json_decref(body);
        drop_journal_of_destination();

        leave_journal_of_destination(false, true);
        assert_int_equal(
                rig_call(&rig, rig.manager, "DELETE", "/agent/v1/migrations/" OTHER_ID, NULL, NULL), 204);
}

/* The one before is about to remove its folder, which would be the next one's. */
static void test_destination_takes_no_migration_while_disks_of_an_earlier_one_are_there(void **state)
{
        _cleanup_json_ json_t *spec = NULL;
        json_t *source, *body = NULL;
        int status;

        if (!possible)
                skip();
        leave_journal_of_destination(true, false);
        spec = make_spec();
        source = json_incref(json_object_get(spec, "source"));
        assert_int_equal(json_object_set(spec, "source", json_object_get(spec, "destination")), 0);
        assert_int_equal(json_object_set_new(spec, "destination", source), 0);
        status = rig_call(&rig, rig.host, "POST", "/agent/v1/peer/migrations", json_incref(spec), &body);
        assert_code(status, body, "busy");
        drop_journal_of_destination();
        status = rig_call(&rig, rig.host, "POST", "/agent/v1/peer/migrations", json_incref(spec), &body);
        assert_code(status, body, "conflict"); /* it runs here */
}

static json_t *wait_other(const char *phase)
{
        uint64_t until_ms = clock_now_ms(&clock_system) + SETTLE_MS;
        json_t *body = NULL;

        for (;;) {
                (void)loop_iterate(rig.loop, 50);
                assert_int_equal(
                        rig_call(&rig, rig.manager, "GET", "/agent/v1/migrations/" OTHER_ID, NULL, &body),
                        200);
                if (!strcmp(json_string_value(json_object_get(body, "phase")) ?: "", phase))
                        return body;
                assert_true(clock_now_ms(&clock_system) < until_ms);
                json_decref(body);
        }
}

/* While it was away its source was removed: nobody will say any more whose the disks are, so they stay, and others are not kept waiting. */
static void test_destination_whose_source_was_removed_keeps_its_disks_and_says_so(void **state)
{
        _cleanup_json_ json_t *status = NULL, *again = NULL;

        if (!possible)
                skip();
        leave_journal_of_destination(true, false);
        assert_int_equal(rig_call(&rig, rig.manager, "PUT", "/agent/v1/removed-hosts",
                                 json_pack("{s:[s]}", "hosts", RIG_OTHER_UID), NULL),
                200);
        status = wait_other("failed");
        assert_string_equal(
                json_string_value(json_object_get(status, "left")), "the folder t1 on datastore local");
        rig_stop_agent(&rig); /* it is noted */
        rig_start_agent(&rig);
        again = wait_other("failed");
        assert_string_equal(
                json_string_value(json_object_get(again, "left")), "the folder t1 on datastore local");
        assert_int_equal(rig_call(&rig, rig.manager, "PUT", "/agent/v1/removed-hosts",
                                 json_pack("{s:[]}", "hosts"), NULL),
                200);
        rig_configure(&rig);
        drop_journal_of_destination();
}

static void test_unreadable_journal_keeps_its_vm_busy_and_is_no_answer(void **state)
{
        _cleanup_free_ char *path = state_path("/" ID "." RIG_VM_UID ".journal");
        const char damaged[] = "not\na journal\n";
        json_t *body = NULL;
        int status;

        if (!possible)
                skip();
        rig_stop_agent(&rig);
        assert_int_equal(file_write_atomic(path, damaged, strlen(damaged), 0600), 0);
        rig_start_agent(&rig);
        status = rig_call(&rig, rig.host, "GET", "/agent/v1/peer/migrations/" ID, NULL, &body);
        assert_code(status, body, "owner-unknown");
        status = rig_vm(&rig, "pause", NULL, &body);
        assert_code(status, body, "busy");

        rig_stop_agent(&rig);
        assert_int_equal(unlink(path), 0);
        rig_start_agent(&rig);
        assert_int_equal(rig_vm(&rig, "pause", NULL, NULL), 200);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, each_setup, each_teardown)
        const struct CMUnitTest tests[] = {
                TEST(test_settled_line_is_written_when_the_disk_takes_it_again),
                TEST(test_guest_that_resumed_by_itself_is_taken_back_under_a_new_epoch),
                TEST(test_removal_of_the_peer_alone_is_no_word_about_the_disks_there),
                TEST(test_source_that_is_told_to_let_go_leaves_the_owner_record_alone),
                TEST(test_destination_of_disks_is_not_forgotten_before_its_source_has_heard),
                TEST(test_destination_takes_no_migration_while_disks_of_an_earlier_one_are_there),
                TEST(test_destination_whose_source_was_removed_keeps_its_disks_and_says_so),
                TEST(test_disks_do_not_travel_along_where_nobody_holds_qemu),
                TEST(test_unreadable_journal_keeps_its_vm_busy_and_is_no_answer),
        };

        return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
