/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/config.h"

#include <errno.h>
#include <ini.h>
#include <string.h>
#include <unistd.h>

#include "agent/data_paths.h"
#include "base/alloc.h"
#include "base/text.h"
#include "fabric/ovsdb.h"
#include "io/file.h"

#define CONFIG_MAX_BYTES 65536

enum key_kind {
        KEY_SIZE,
        KEY_HOURS,
        KEY_TEXT,
        KEY_NAME,
        KEY_PATH,
        KEY_ACCELERATOR,
        KEY_ADDRESSES,
        KEY_YES_NO,
        KEY_LOG_LEVEL
};

static const struct key {
        const char *name;
        enum key_kind kind;
        size_t offset; /* of a char * in struct agent_config; not for KEY_LOG_LEVEL */
        const char *fallback;
} keys[] = {
        {"name", KEY_NAME, offsetof(struct agent_config, name), NULL},
        {"listen", KEY_TEXT, offsetof(struct agent_config, listen), "0.0.0.0:8444"},
        {"state-dir", KEY_PATH, offsetof(struct agent_config, state_dir), "/var/lib/drover-agent"},
        {"runtime-dir", KEY_PATH, offsetof(struct agent_config, runtime_dir), "/run/drover-agent"},
        {"qemu", KEY_TEXT, offsetof(struct agent_config, qemu), "qemu-system-x86_64"},
        {"mover", KEY_TEXT, offsetof(struct agent_config, mover), NULL},
        {"migration-address", KEY_ADDRESSES, offsetof(struct agent_config, migration_address), NULL},
        {"accelerator", KEY_ACCELERATOR, offsetof(struct agent_config, accelerator), "auto"},
        {"ovmf-code", KEY_PATH, offsetof(struct agent_config, ovmf_code), "/usr/share/OVMF/OVMF_CODE_4M.fd"},
        {"ovmf-vars", KEY_PATH, offsetof(struct agent_config, ovmf_vars), "/usr/share/OVMF/OVMF_VARS_4M.fd"},
        {"cgroup-root", KEY_TEXT, offsetof(struct agent_config, cgroup_root), "drover.slice"},
        {"checkpoint-space", KEY_SIZE, offsetof(struct agent_config, checkpoint_space), "0"},
        {"checkpoint-hours", KEY_HOURS, offsetof(struct agent_config, checkpoint_hours), "48"},
        {"sibling-space", KEY_SIZE, offsetof(struct agent_config, sibling_space), "0"},
        {"disks-along", KEY_YES_NO, offsetof(struct agent_config, disks_along), "no"},
        {"openvswitch", KEY_PATH, offsetof(struct agent_config, openvswitch), OVSDB_DEFAULT_PATH},
        {"log-level", KEY_LOG_LEVEL, 0, NULL},
};

static char **key_field(struct agent_config *config, const struct key *key)
{
        return (char **)((char *)config + key->offset);
}

static int default_name(char **ret)
{
        char host[256];

        if (gethostname(host, sizeof(host)) < 0)
                return -errno;
        host[sizeof(host) - 1] = '\0';
        host[strcspn(host, ".")] = '\0';
        return alloc_replace(ret, text_is_name(host) ? host : "host");
}

/* The mover is beside us, in a build tree in the folder of its layer, or where it is installed. */
static int default_mover(char **ret)
{
        static const char *const places[] = {
                "drover-mover", "../mover/drover-mover", "../libexec/drover/drover-mover"};
        char self[4096];
        ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
        char *slash;

        if (len < 0)
                return -errno;
        self[len] = '\0';
        slash = strrchr(self, '/');
        if (slash)
                *slash = '\0';
        for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
                _cleanup_free_ char *path = alloc_printf("%s/%s", self, places[i]);

                if (!path)
                        return -ENOMEM;
                if (access(path, X_OK) == 0 || i + 1 == ARRAY_SIZE(places)) {
                        free(*ret);
                        *ret = TAKE_PTR(path);
                        return 0;
                }
        }
        return 0;
}

int agent_config_init(struct agent_config *config)
{
        struct agent_config fresh = {.log_level = LOG_LEVEL_INFO};
        int r = 0;

        for (size_t i = 0; i < ARRAY_SIZE(keys) && r == 0; i++) {
                if (keys[i].fallback)
                        r = alloc_replace(key_field(&fresh, &keys[i]), keys[i].fallback);
        }
        if (r == 0)
                r = default_name(&fresh.name);
        if (r == 0)
                r = default_mover(&fresh.mover);
        if (r < 0) {
                agent_config_deinit(&fresh);
                return r;
        }
        *config = fresh;
        return 0;
}

struct reading {
        struct agent_config *config;
        const char *path;
        int error; /* the first one */
        char *cause;
};

static char *check_value(const struct key *key, const char *value)
{
        struct sock_address addresses[DATA_PATHS_MAX];
        enum log_level level;
        uint64_t number;
        size_t n;

        if (!*value)
                return alloc_printf("%s has no value", key->name);
        if (key->kind == KEY_NAME && !text_is_name(value))
                return alloc_printf("name '%.64s' is not of the form [A-Za-z0-9][A-Za-z0-9._-]{0,62}", value);
        if (key->kind == KEY_PATH && value[0] != '/')
                return alloc_printf("%s must be an absolute path, not '%.64s'", key->name, value);
        if (key->kind == KEY_ACCELERATOR && strcmp(value, "auto") != 0 && strcmp(value, "kvm") != 0 &&
                strcmp(value, "tcg") != 0)
                return alloc_printf("accelerator must be auto, kvm or tcg, not '%.64s'", value);
        if (key->kind == KEY_YES_NO && strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
                return alloc_printf("%s must be yes or no, not '%.64s'", key->name, value);
        if (key->kind == KEY_ADDRESSES &&
                sock_address_list_parse(value, 0, ARRAY_SIZE(addresses), addresses, &n, NULL) < 0)
                return alloc_printf(
                        "%s must be 1 to %d different IP addresses with commas between, not '%.200s'",
                        key->name, DATA_PATHS_MAX, value);
        if (key->kind == KEY_SIZE && strcmp(value, "0") != 0 && text_parse_size(value, &number) < 0)
                return alloc_printf("%s must be a size like 8G, or 0, not '%.64s'", key->name, value);
        if (key->kind == KEY_HOURS && text_parse_u64(value, 1, 8760, &number) < 0)
                return alloc_printf("%s must be 1 to 8760, not '%.64s'", key->name, value);
        if (key->kind == KEY_LOG_LEVEL && log_level_from_string(value, &level) < 0)
                return alloc_printf(
                        "log-level must be error, warning, notice, info or debug, not '%.64s'", value);
        return NULL;
}

/* inih's call-back: 1 goes on, 0 notes the line as wrong. */
static int take_value(void *userdata, const char *section, const char *name, const char *value)
{
        struct reading *reading = userdata;

        if (reading->error < 0)
                return 1;
        reading->error = -EINVAL;
        if (*section && strcmp(section, "agent") != 0) {
                reading->cause = alloc_printf("unknown section [%.64s]", section);
                return 0;
        }
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                if (strcmp(keys[i].name, name) != 0)
                        continue;
                reading->cause = check_value(&keys[i], value ?: "");
                if (reading->cause)
                        return 0;
                if (keys[i].kind == KEY_LOG_LEVEL)
                        reading->error = log_level_from_string(value, &reading->config->log_level);
                else
                        reading->error = alloc_replace(key_field(reading->config, &keys[i]), value);
                return reading->error == 0;
        }
        reading->cause = alloc_printf("unknown key '%.64s'", name);
        return 0;
}

int agent_config_load(const char *path, bool optional, struct agent_config *ret, struct error **ret_error)
{
        _cleanup_agent_config_ struct agent_config config = {0};
        struct reading reading = {.config = &config, .path = path};
        _cleanup_free_ char *text = NULL;
        _cleanup_free_ char *cause = NULL;
        int line;
        int r = agent_config_init(&config);

        if (r < 0)
                return error_from_errno(ret_error, r, "defaults of the configuration");
        r = file_read(path, CONFIG_MAX_BYTES, &text, NULL);
        if (r < 0 && !(r == -ENOENT && optional))
                return error_from_errno(ret_error, r, "configuration file %s", path);
        line = ini_parse_string(text ?: "", take_value, &reading);
        cause = reading.cause;
        if (line != 0 || reading.error < 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "See drover-agent.conf(5).",
                        "%s, line %d: %s", path, line, cause ?: "not of the form key = value");
        *ret = config;
        config = (struct agent_config){0};
        return 0;
}

void agent_config_deinit(struct agent_config *config)
{
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                if (keys[i].kind == KEY_LOG_LEVEL)
                        continue;
                free(*key_field(config, &keys[i]));
                *key_field(config, &keys[i]) = NULL;
        }
}
