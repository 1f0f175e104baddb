/* SPDX-License-Identifier: Apache-2.0 */

/* What a real agent that starts makes of the journals of storage migrations whose QEMU is gone. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "io/file.h"
#include "rig.h"

#define ID "0123abcd-4567-4890-8bcd-ef0123456789"
#define COPY "t1/disk0-0123abcd4567.raw"
#define PHASE_TRIES 300

static struct rig rig;
static bool possible;

static int setup(void **state)
{
        possible = rig_setup(&rig);
        if (possible) {
                rig_configure(&rig);
                assert_int_equal(rig_vm(&rig, "create", rig_vm_document(), NULL), 200);
        }
        return 0;
}

static int teardown(void **state)
{
        rig_teardown(&rig);
        return 0;
}

/* In the rig's folder. */
static void write_file(const char *name, const char *text)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s", rig.folder, name);

        assert_int_equal(file_write_atomic(path, text, strlen(text), 0600), 0);
}

static bool exists(const char *name)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s", rig.folder, name);

        return access(path, F_OK) == 0;
}

/* That of a copy of disk0, which has taken over as far as the journal says; `left` may be NULL. */
static void write_journal(const char *phase, const char *left, bool twice)
{
        _cleanup_json_ json_t *json = json_pack("{s:i, s:s, s:o, s:{s:i, s:s, s:[{s:s, s:{s:s, s:s, s:s}, "
                                                "s:{s:s, s:s, s:s}, s:b}]}, s:b, s:b, s:i, s:i, "
                                                "s:s*}",
                "format", 1, "phase", phase, "vm", rig_vm_document(), "record", "format", 1, "id", ID,
                "disks", "name", "disk0", "from", "datastore", "local", "path", "t1/disk0.raw", "format",
                "raw", "to", "datastore", "local", "path", COPY, "format", "raw", "switched", 1, "live", 0,
                "was_running", 0, "rate_bytes_per_s", 0, "timeout_ms", 0, "left", left);
        _cleanup_free_ char *text = json ? doc_to_text(json) : NULL;

        assert_non_null(text);
        write_file("state/storage-moves/" ID "." RIG_VM_UID ".json", text);
        if (twice) /* as an earlier version called it: while it is renamed, a folder may show both */
                write_file("state/storage-moves/" ID ".json", text);
}

static void restart_agent(void)
{
        rig_stop_agent(&rig);
        rig_start_agent(&rig);
        rig_configure(&rig);
}

/* The document of the migration once it is in this phase; the caller's. */
static json_t *wait_phase(const char *phase)
{
        json_t *body = NULL;

        for (unsigned int i = 0; i < PHASE_TRIES; i++) {
                json_decref(body);
                assert_int_equal(
                        rig_call(&rig, rig.manager, "GET", "/agent/v1/storage-moves/" ID, NULL, &body), 200);
                if (!strcmp(json_string_value(json_object_get(body, "phase")), phase))
                        return body;
                (void)loop_iterate(rig.loop, 50);
        }
        fail_msg("its phase is %s", json_string_value(json_object_get(body, "phase")));
        return NULL;
}

/* The VM was started from where the disks were, on another host perhaps: the start removed the record and the copy. */
static void test_a_journal_alone_does_not_say_that_a_copy_has_taken_over(void **state)
{
        _cleanup_json_ json_t *document = NULL;

        if (!possible)
                skip();
        write_journal("switching", NULL, false);
        restart_agent();
        document = wait_phase("failed");
        assert_false(json_is_true(
                json_object_get(json_array_get(json_object_get(document, "disks"), 0), "switched")));
}

static void test_with_a_record_that_cannot_be_read_nothing_is_said_and_nothing_removed(void **state)
{
        _cleanup_json_ json_t *document = NULL;

        if (!possible)
                skip();
        write_file("store/" COPY, "data");
        write_file("store/t1/storage-move.json", "{");
        write_journal("switching", NULL, false);
        restart_agent();
        document = wait_phase("failed");
        assert_false(json_is_true(
                json_object_get(json_array_get(json_object_get(document, "disks"), 0), "switched")));
        assert_true(json_is_string(json_object_get(document, "left")));
        assert_true(exists("store/" COPY));
        assert_true(exists("store/t1/storage-move.json"));
}

/* Its copy may be what the manager's document names, and the other image what the guest ran on since. */
static void test_a_record_that_says_less_than_the_agent_removes_nothing(void **state)
{
        _cleanup_json_ json_t *document = NULL;

        if (!possible)
                skip();
        write_file("store/" COPY, "data");
        write_file("store/t1/storage-move.json",
                "{\"format\": 1, \"id\": \"" ID "\", \"disks\": [{\"name\": \"disk0\", \"switched\": false, "
                "\"from\": {\"datastore\": \"local\", \"path\": \"t1/disk0.raw\", \"format\": \"raw\"}, "
                "\"to\": {\"datastore\": \"local\", \"path\": \"" COPY "\", \"format\": \"raw\"}}]}");
        write_journal("switched", NULL, false);
        restart_agent();
        assert_int_equal(rig_call(&rig, rig.manager, "POST", "/agent/v1/storage-moves/" ID "/settle",
                                 json_object(), NULL),
                202);
        document = wait_phase("done");
        assert_non_null(strstr(json_string_value(json_object_get(document, "left")) ?: "", "do not agree"));
        assert_true(exists("store/" COPY));
        assert_true(exists("store/t1/storage-move.json"));
}

static void test_one_that_has_ended_is_told_once_with_what_is_left(void **state)
{
        _cleanup_json_ json_t *body = NULL;
        json_t *items;

        if (!possible)
                skip();
        write_journal("done", "shared:t1/disk0.raw stays", true);
        restart_agent();
        assert_int_equal(rig_call(&rig, rig.manager, "GET", "/agent/v1/storage-moves", NULL, &body), 200);
        items = json_object_get(body, "items");
        assert_int_equal(json_array_size(items), 1);
        assert_string_equal(json_string_value(json_object_get(json_array_get(items, 0), "left")) ?: "",
                "shared:t1/disk0.raw stays");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(
                        test_a_journal_alone_does_not_say_that_a_copy_has_taken_over, setup, teardown),
                cmocka_unit_test_setup_teardown(
                        test_with_a_record_that_cannot_be_read_nothing_is_said_and_nothing_removed, setup,
                        teardown),
                cmocka_unit_test_setup_teardown(
                        test_a_record_that_says_less_than_the_agent_removes_nothing, setup, teardown),
                cmocka_unit_test_setup_teardown(
                        test_one_that_has_ended_is_told_once_with_what_is_left, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
