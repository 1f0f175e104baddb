/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/schedule_spec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "cluster/evacuation.h"
#include "io/file.h"
#include "manager/json.h"
#include "manager/operations.h"

#define ZONE_FOLDER "/usr/share/zoneinfo"
#define VMS_MAX 1000
#define LABEL_MAX 256

/* As libc has it, the folder may be another one. */
static char *path_of_zone(const char *name)
{
        return alloc_printf("%s/%s", getenv("TZDIR") ?: ZONE_FOLDER, name);
}

/* Of the file as it is now; all zero: there is none. */
static struct schedule_zone_stamp stamp_of(const char *path)
{
        struct stat st;

        if (!path || stat(path, &st) < 0)
                return (struct schedule_zone_stamp){};
        return (struct schedule_zone_stamp){.inode = st.st_ino,
                .mtime_s = st.st_mtim.tv_sec,
                .mtime_ns = st.st_mtim.tv_nsec,
                .size = st.st_size};
}

static int load_zone(const char *name, struct schedule_spec *spec, struct error **ret_error)
{
        _cleanup_free_ char *path = NULL, *data = NULL;
        struct time_zone **ret_zone = &spec->zone;
        size_t size = 0;
        int r;

        if (!strcmp(name, "UTC")) {
                *ret_zone = time_zone_utc();
                return *ret_zone ? 0 : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        if (!text_is_relative_path(name))
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Write it as in the tz database, such as Europe/Berlin.", "\"%.64s\" is no time zone",
                        name);
        path = path_of_zone(name);
        if (!path)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        spec->zone_stamp = stamp_of(path); /* before it is read: a change meanwhile is seen later */
        r = file_read(path, TIME_ZONE_FILE_MAX, &data, &size);
        if (r >= 0)
                r = time_zone_parse(data, size, ret_zone);
        if (r >= 0)
                return 0;
        return error_set(ret_error, r == -ENOMEM ? ERROR_NO_MEMORY : ERROR_BAD_DOCUMENT,
                "Write it as in the tz database, such as Europe/Berlin; the package tzdata must be "
                "installed.",
                "time zone %.64s cannot be read from %s: %s", name, getenv("TZDIR") ?: ZONE_FOLDER,
                r == -EINVAL || r == -EOPNOTSUPP ? "it is no zone of local civil time" : strerror(-r));
}

static int read_missed(const json_t *spec, enum schedule_missed *ret, struct error **ret_error)
{
        const char *word = "skip";
        int r = doc_opt_string(spec, "spec", "missed", 16, &word, ret_error);

        if (r < 0)
                return r;
        *ret = !strcmp(word, "run-once") ? SCHEDULE_MISSED_RUN_ONCE : SCHEDULE_MISSED_SKIP;
        return *ret == SCHEDULE_MISSED_SKIP && strcmp(word, "skip")
                       ? error_set(ret_error, ERROR_BAD_DOCUMENT, "Allowed are skip and run-once.",
                                 "field spec.missed cannot be \"%.16s\"", word)
                       : 0;
}

static int read_when(const json_t *spec, struct schedule_spec *out, struct error **ret_error)
{
        const char *at = NULL, *calendar = NULL, *zone = NULL;
        int r;

        r = doc_opt_string(spec, "spec", "at", 64, &at, ret_error);
        if (r >= 0)
                r = doc_opt_string(spec, "spec", "calendar", CALENDAR_TEXT_MAX, &calendar, ret_error);
        if (r >= 0)
                r = doc_opt_string(spec, "spec", "time_zone", CALENDAR_ZONE_SIZE - 1, &zone, ret_error);
        if (r >= 0 && !at == !calendar)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Give at for one run, or calendar for runs that recur.",
                        at ? "spec has both at and calendar" : "spec has neither at nor calendar");
        if (r >= 0 && calendar)
                r = calendar_parse(calendar, &out->rule.calendar, ret_error);
        if (r >= 0 && *out->rule.calendar.zone && zone && strcmp(zone, out->rule.calendar.zone))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "Leave one of them out.",
                        "spec.time_zone is %s, and the calendar expression ends with %s", zone,
                        out->rule.calendar.zone);
        if (r >= 0)
                r = load_zone(*out->rule.calendar.zone ? out->rule.calendar.zone : zone ?: "UTC", out, ret_error);
        if (r >= 0 && at)
                r = schedule_parse_at(at, out->zone, &out->rule.at_s, ret_error);
        return r;
}

static int check_names(const json_t *action, const char *key, struct error **ret_error)
{
        json_t *names = NULL, *name;
        size_t i;
        int r = doc_opt_array(action, "spec.action", key, VMS_MAX, &names, ret_error);

        json_array_foreach (names, i, name)
                if (r >= 0 && !text_is_name(json_string_value(name)))
                        r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                "field spec.action.%s has what is no name", key);
        return r;
}

static int check_migrate(const json_t *action, struct error **ret_error)
{
        static const char *const keys[] = {"type", "vms", "label", "to", "policy", "tries", "priority",
                "max_pause_ms", "give_up_ms", NULL};
        const char *to = NULL, *label = NULL;
        int r;

        r = doc_only_keys(action, "spec.action", keys, ret_error);
        if (r >= 0)
                r = check_names(action, "vms", ret_error);
        if (r >= 0)
                r = doc_opt_string(action, "spec.action", "label", LABEL_MAX, &label, ret_error);
        if (r >= 0)
                r = doc_opt_string(action, "spec.action", "to", NAME_MAX_CHARS, &to, ret_error);
        if (r >= 0 && !label == !json_array_size(json_object_get(action, "vms")))
                r = error_set(
                        ret_error, ERROR_BAD_DOCUMENT, NULL, "spec.action must have either vms or label");
        if (r >= 0 && label && (!strchr(label, '=') || *label == '='))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "Write it as KEY=VALUE.",
                        "\"%.64s\" is no label", label);
        return r < 0 ? r : operation_moves_check(action, false, ret_error);
}

static int check_maintenance(const json_t *action, struct error **ret_error)
{
        static const char *const keys[] = {"type", "host", "on", "return", "policy", "tries", "priority",
                "max_pause_ms", "give_up_ms", NULL};
        const char *host = NULL;
        int r;

        r = doc_only_keys(action, "spec.action", keys, ret_error);
        if (r >= 0)
                r = doc_need_string(action, "spec.action", "host", NAME_MAX_CHARS, &host, ret_error);
        return r < 0 ? r : operation_maintenance_check(NULL, action, ret_error);
}

static int check_action(const json_t *spec, struct error **ret_error)
{
        const char *type = NULL;
        json_t *action = NULL;
        int r;

        r = doc_opt_object(spec, "spec", "action", &action, ret_error);
        if (r >= 0 && !action)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field spec.action is missing");
        if (r >= 0)
                r = doc_need_string(action, "spec.action", "type", 32, &type, ret_error);
        if (r < 0)
                return r;
        if (!strcmp(type, "migrate"))
                return check_migrate(action, ret_error);
        if (!strcmp(type, "maintenance"))
                return check_maintenance(action, ret_error);
        return error_set(ret_error, ERROR_BAD_DOCUMENT, "Allowed are migrate and maintenance.",
                "field spec.action.type cannot be \"%.32s\"", type);
}

int schedule_spec_read(const json_t *spec, struct schedule_spec *ret_spec, struct error **ret_error)
{
        static const char *const keys[] = {
                "at", "calendar", "time_zone", "window_ms", "missed", "action", NULL};
        _cleanup_schedule_spec_ struct schedule_spec out = {.rule = {.at_s = INT64_MIN}};
        uint64_t window_ms = 0;
        int r;

        r = doc_only_keys(spec, "spec", keys, ret_error);
        if (r >= 0)
                r = read_when(spec, &out, ret_error);
        if (r >= 0)
                r = doc_opt_u64(spec, "spec", "window_ms", 1000, UINT64_C(1000) * SCHEDULE_WINDOW_MAX_S,
                        &window_ms, ret_error);
        if (r >= 0)
                r = read_missed(spec, &out.rule.missed, ret_error);
        if (r >= 0)
                r = check_action(spec, ret_error);
        if (r < 0)
                return r;
        out.rule.window_s = (int64_t)(window_ms / 1000);
        out.rule.zone = out.zone;
        *ret_spec = out;
        out = (struct schedule_spec){};
        return 0;
}

bool schedule_spec_zone_changed(const json_t *spec, const struct schedule_spec *read)
{
        const char *name = *read->rule.calendar.zone ? read->rule.calendar.zone
                                                     : json_text_or_null(spec, "time_zone") ?: "UTC";
        _cleanup_free_ char *path = path_of_zone(name);
        struct schedule_zone_stamp stamp = stamp_of(path), was = read->zone_stamp;

        if (!strcmp(name, "UTC") || !path)
                return false;
        return stamp.inode != was.inode || stamp.mtime_s != was.mtime_s || stamp.mtime_ns != was.mtime_ns ||
               stamp.size != was.size;
}

void schedule_spec_deinit(struct schedule_spec *spec)
{
        time_zone_free(spec->zone);
}

void schedule_state_read(const json_t *internal, struct schedule_state *ret_state)
{
        const json_t *floor = json_object_get(internal, "floor_s");
        json_t *ran;
        size_t i;

        schedule_begin(ret_state, json_integer_value(json_object_get(internal, "until_s")));
        if (json_is_integer(floor))
                ret_state->floor_s = json_integer_value(floor);
        if (json_is_integer(json_object_get(internal, "tried_s")))
                ret_state->tried_s = json_integer_value(json_object_get(internal, "tried_s"));
        json_array_foreach (json_object_get(internal, "ran_s"), i, ran)
                if (ret_state->n_ran < SCHEDULE_RAN_MAX)
                        ret_state->ran_s[ret_state->n_ran++] = json_integer_value(ran);
}

json_t *schedule_state_write(const struct schedule_state *state)
{
        json_t *ran = json_array(), *internal;

        for (size_t i = 0; ran && i < state->n_ran; i++)
                if (json_array_append_new(ran, json_integer(state->ran_s[i])) < 0) {
                        json_decref(ran);
                        return NULL;
                }
        internal = json_pack("{s:I, s:o}", "until_s", (json_int_t)state->until_s, "ran_s", ran);
        if (internal && ((state->floor_s != INT64_MIN && json_object_set_new(internal, "floor_s",
                                                                 json_integer(state->floor_s)) < 0) ||
                                (state->tried_s != INT64_MIN && json_object_set_new(internal, "tried_s",
                                                                        json_integer(state->tried_s)) < 0))) {
                json_decref(internal);
                return NULL;
        }
        return internal;
}
