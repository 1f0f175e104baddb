/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/config.h"

#include <errno.h>
#include <ini.h>
#include <string.h>

#include "base/alloc.h"
#include "base/text.h"
#include "manager/store.h"

struct reading {
        struct config *config;
        struct error *error;
};

static int set_text(struct config *config, size_t offset, const char *value)
{
        return alloc_replace((char **)((char *)config + offset), value);
}

static int set_store(struct config *config, size_t offset, const char *value)
{
        return store_check_place(value, NULL) < 0 ? -EINVAL : set_text(config, offset, value);
}

static int set_count(struct config *config, size_t offset, const char *value)
{
        return text_parse_u64(value, 1, UINT32_MAX, (uint64_t *)((char *)config + offset));
}

static int set_rate(struct config *config, size_t offset, const char *value)
{
        return text_parse_u64(value, 0, 1000, (uint64_t *)((char *)config + offset));
}

#define COST_MAX 100000

static int set_cost(struct config *config, size_t offset, const char *value)
{
        return text_parse_u64(value, 1, COST_MAX, (uint64_t *)((char *)config + offset));
}

static int set_days(struct config *config, size_t offset, const char *value)
{
        return text_parse_u64(value, 0, 36500, (uint64_t *)((char *)config + offset));
}

/* Seconds; 0 leaves the order to arrival alone. */
static int set_step(struct config *config, size_t offset, const char *value)
{
        uint64_t seconds;
        int r = text_parse_u64(value, 0, 24 * 3600, &seconds);

        if (r >= 0)
                *(uint64_t *)((char *)config + offset) = seconds * 1000;
        return r;
}

static int set_level(struct config *config, size_t offset, const char *value)
{
        return log_level_from_string(value, &config->log_level);
}

static const struct {
        const char *key;
        int (*set)(struct config *config, size_t offset, const char *value);
        size_t offset;
} keys[] = {
        {"listen", set_text, offsetof(struct config, listen)},
        {"state-dir", set_text, offsetof(struct config, state_dir)},
        {"store", set_store, offsetof(struct config, store)},
        {"name", set_text, offsetof(struct config, name)},
        {"log-level", set_level, 0},
        {"task-retention", set_count, offsetof(struct config, task_retention)},
        {"request-rate", set_rate, offsetof(struct config, request_rate)},
        {"audit-retention", set_count, offsetof(struct config, audit_retention)},
        {"audit-retention-days", set_days, offsetof(struct config, audit_retention_days)},
        {"host-cost-limit", set_cost, offsetof(struct config, queue_limits.host)},
        {"datastore-cost-limit", set_cost, offsetof(struct config, queue_limits.datastore)},
        {"network-cost-limit", set_cost, offsetof(struct config, queue_limits.network)},
        {"network-cost-limit-10g", set_cost, offsetof(struct config, queue_limits.network_fast)},
        {"priority-step", set_step, offsetof(struct config, queue_limits.level_ms)},
};

/* inih's handler: 1 to go on, 0 for an error. */
static int take(void *userdata, const char *section, const char *name, const char *value)
{
        struct reading *reading = userdata;

        if (reading->error)
                return 0;
        for (size_t i = 0; !strcmp(section, "manager") && i < ARRAY_SIZE(keys); i++) {
                if (strcmp(keys[i].key, name))
                        continue;
                if (keys[i].set(reading->config, keys[i].offset, value) >= 0)
                        return 1;
                error_set(&reading->error, ERROR_BAD_DOCUMENT, "See drover-manager.conf(5).",
                        "%.64s = %.64s: the value is not allowed", name, value);
                return 0;
        }
        error_set(&reading->error, ERROR_BAD_DOCUMENT, "See drover-manager.conf(5).",
                "[%.64s] %.64s is not known", section, name);
        return 0;
}

static int set_defaults(struct config *config, struct error **ret_error)
{
        char host[65] = "manager";

        if (gethostname(host, sizeof(host) - 1) < 0)
                snprintf(host, sizeof(host), "manager");
        *config = (struct config){
                .listen = alloc_strdup("0.0.0.0:8443"),
                .state_dir = alloc_strdup("/var/lib/drover/manager"),
                .name = alloc_strdup(host),
                .log_level = LOG_LEVEL_INFO,
                .task_retention = 10000,
                .audit_retention = 1000000,
                .audit_retention_days = 90,
                .program = "/proc/self/exe",
                .request_rate = 1000,
                .queue_limits = QUEUE_LIMITS_DEFAULT,
        };
        if (!config->listen || !config->state_dir || !config->name)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return 0;
}

static int read_file(struct config *config, const char *path, bool must_exist, struct error **ret_error)
{
        struct reading reading = {.config = config};
        int r;

        r = ini_parse(path, take, &reading);
        if (reading.error) {
                error_about(&reading.error, "%s", path);
                return error_propagate(ret_error, reading.error);
        }
        if (r > 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "See drover-manager.conf(5).",
                        "%s: line %d is not of the form `key = value`", path, r);
        if (r < 0 && must_exist)
                return error_set(ret_error, ERROR_NOT_FOUND, "Check the path given with --config.",
                        "cannot read %s", path);
        return 0;
}

int config_load(const char *path, bool must_exist, struct config *ret_config, struct error **ret_error)
{
        struct config config = {};
        int r;

        r = set_defaults(&config, ret_error);
        if (r >= 0)
                r = read_file(&config, path, must_exist, ret_error);
        if (r < 0) {
                config_deinit(&config);
                return r;
        }
        *ret_config = config;
        return 0;
}

void config_deinit(struct config *config)
{
        free(config->listen);
        free(config->state_dir);
        free(config->store);
        free(config->name);
        *config = (struct config){};
}
