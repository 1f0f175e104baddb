/* SPDX-License-Identifier: Apache-2.0 */

/* An agent that is broken, or somebody else's by now: its answers are as large as the manager takes any. Whatever it says, a task can be
 * ended, and holds its objects no longer than that. */

#include "manager_rig.h"

#include "base/doc.h"

#define PAD_BYTES \
        ((4u << 20) - \
                2000) /* below the bound of any answer; with a task around it, above that of a document */

static void pad(struct state *state, const char *path)
{
        state->agents[0].pad = path;
        state->agents[0].pad_bytes = PAD_BYTES;
}

static void wait_calls(struct state *state, const char *method_and_path, int n)
{
        uint64_t end = clock_now_ms(loop_clock(state->loop)) + WAIT_MS;

        while (agent_double_calls(&state->agents[0], method_and_path) < n) {
                assert_true(clock_now_ms(loop_clock(state->loop)) < end);
                loop_iterate(state->loop, 20);
        }
}

static void status_that_is_too_large_does_not_hold_the_migration(void **data)
{
        struct state *state = *data;
        char path[128], asked[128];

        set_the_stage(state);
        begin_migration(state, path);
        snprintf(asked, sizeof(asked), "GET /agent/v1/migrations/%s",
                json_text(state->agents[0].migration, "id"));
        json_object_set_new(state->agents[0].migration, "phase", json_string("failed"));
        pad(state, "/migrations/");
        wait_calls(state, asked, agent_double_calls(&state->agents[0], asked) + 2);
        state->agents[0].pad = NULL;
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
}

/* Nobody asks for it later. */
static void what_a_source_adds_to_its_status_is_not_kept(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *doc = NULL;
        json_t *outcome;
        char path[128];

        set_the_stage(state);
        begin_migration(state, path);
        pad(state, "/migrations/");
        state->agents[0].pad_bytes = 1000;
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(
                store_get(state->manager->store, "task", json_text(state->body, "uid"), &doc, NULL), 0);
        outcome = json_object_get(json_object_get(json_object_get(doc, "internal"), "data"), "outcome");
        assert_string_equal(json_text(outcome, "phase"), "done");
        assert_null(json_object_get(outcome, "x"));
}

static json_int_t shown(struct state *state, const char *path, const char *key)
{
        assert_int_equal(call(state, "GET", path, NULL), 200);
        return json_integer_value(
                json_object_get(json_object_get(json_status(state->body), "progress"), key));
}

static void numbers_that_cannot_be_are_shown_as_some_that_can(void **data)
{
        static const double numbers[][2] = {{5, -5}, {5, -10}, {1e300, 1}, {1e300, 1e300}, {-1, 1e300}};
        struct state *state = *data;
        char path[128];

        set_the_stage(state);
        begin_migration(state, path);
        for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
                uint64_t end = clock_now_ms(loop_clock(state->loop)) + WAIT_MS;

                json_object_set_new(state->agents[0].migration, "progress",
                        json_pack("{s:i, s:f, s:f}", "pass", (int)i + 100, "bytes_ram", numbers[i][0],
                                "remaining_bytes", numbers[i][1]));
                while (shown(state, path, "pass") != (json_int_t)i + 100) {
                        assert_true(clock_now_ms(loop_clock(state->loop)) < end);
                        loop_iterate(state->loop, 20);
                }
                assert_in_range(shown(state, path, "percent"), 0, 99);
        }
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
}

static void answer_that_is_too_large_does_not_hold_the_machine(void **data)
{
        struct state *state = *data;
        char asked[128], path[128];

        set_the_stage(state);
        snprintf(asked, sizeof(asked), "POST /agent/v1/vms/%s/stop", vm_uid(state));
        pad(state, "/stop");
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/stop", json_object()), 202);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        wait_calls(state, asked, 2); /* the first was no answer */
        state->agents[0].pad = NULL;
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/start", NULL), 202);
        assert_string_equal(finish(state), "succeeded");
}

static void one_host_does_not_hold_what_is_applied_to_all(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        pad(state, "/switches/");
        call(state, "POST", "/api/v1/switches", json_pack("{s:s}", "name", "sw2"));
        assert_string_equal(finish(state), "failed");
        assert_non_null(strstr(
                json_text(json_object_get(json_status(state->body), "error"), "detail"), "is larger than"));
        state->agents[0].pad = NULL;
        call(state, "POST", "/api/v1/port-groups",
                json_pack("{s:s, s:{s:s}}", "name", "net2", "spec", "switch", "sw2"));
        assert_string_equal(finish(state), "succeeded");
}

/* Each host of the cluster has its part of that document. */
static void what_a_host_adds_to_its_answer_is_not_kept(void **data)
{
        struct state *state = *data;
        const json_t *answers, *answer;

        set_the_stage(state);
        pad(state, "/switches/");
        state->agents[0].pad_bytes = 1000;
        call(state, "POST", "/api/v1/switches", json_pack("{s:s}", "name", "sw2"));
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(call(state, "GET", "/api/v1/switches/sw2", NULL), 200);
        answers = json_object_get(json_status(state->body), "hosts");
        answer = json_object_get(answers, "host1");
        assert_true(json_is_true(json_object_get(answer, "ok")));
        assert_non_null(json_object_get(answer, "asked"));
        assert_null(json_object_get(answer, "x"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(status_that_is_too_large_does_not_hold_the_migration),
                TEST(what_a_source_adds_to_its_status_is_not_kept),
                TEST(answer_that_is_too_large_does_not_hold_the_machine),
                TEST(numbers_that_cannot_be_are_shown_as_some_that_can),
                TEST(what_a_host_adds_to_its_answer_is_not_kept),
                TEST(one_host_does_not_hold_what_is_applied_to_all),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
