/* SPDX-License-Identifier: Apache-2.0 */

/* drover-manager: command line, start and end of the daemon. See drover-manager(8). */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/file.h"
#include "io/sock.h"
#include "manager/auth.h"
#include "manager/backup.h"
#include "manager/leadership.h"
#include "manager/manager.h"
#include "manager/password.h"
#include "manager/state_lock.h"
#include "manager/version.h"

#define ADDRESSES_MAX 64
#define LISTEN_BACKLOG 512
#define MANAGER_PORT 8443
#define EXIT_USAGE 2

struct options {
        const char *config;
        const char *state_dir;
        const char *listen;
        const char *log_level;
        const char *ca_folder;
        const char *token_file;
        const char *token_name;
        const char *role;
        uint64_t expires_days;
        const char *addresses[ADDRESSES_MAX + 1];
        size_t n_addresses;
};

static const char usage[] =
        "drover-manager [OPTIONS] [run]            runs the manager\n"
        "drover-manager [OPTIONS] init             makes the state directory, the CA and the first token\n"
        "drover-manager [OPTIONS] init --ca DIR    makes a further manager of a cluster over one PostgreSQL "
        "store\n"
        "drover-manager [OPTIONS] token create     makes another token\n"
        "drover-manager [OPTIONS] backup FILE      writes store and authority to FILE, also beside a running "
        "manager\n"
        "drover-manager [OPTIONS] restore FILE     puts them back; no manager may run\n"
        "\n"
        "  --config FILE       settings, default " CONFIG_PATH "\n"
        "  --state-dir DIR     overrides state-dir\n"
        "  --listen A:P        overrides listen\n"
        "  --log-level LEVEL   error, warning, notice, info or debug\n"
        "  --address ADDRESS   init, restore: IP address or DNS name of this manager for its certificate; "
        "repeat\n"
        "  --ca DIR            init: folder with ca.pem and ca.key of the first manager\n"
        "  --token-file FILE   init, token create: write the token there (mode 0600) instead of printing it\n"
        "  --name NAME         init, token create: name of the token, default admin\n"
        "  --role ROLE         token create: admin (default), read-only, or another role\n"
        "  --expires-days N    token create: default never\n"
        "  --version, --help\n";

enum option_code {
        OPT_CONFIG = 256,
        OPT_STATE_DIR,
        OPT_LISTEN,
        OPT_LOG_LEVEL,
        OPT_ADDRESS,
        OPT_CA,
        OPT_TOKEN_FILE,
        OPT_NAME,
        OPT_ROLE,
        OPT_EXPIRES,
        OPT_VERSION,
        OPT_HELP
};

static const struct option long_options[] = {
        {"config", required_argument, NULL, OPT_CONFIG},
        {"state-dir", required_argument, NULL, OPT_STATE_DIR},
        {"listen", required_argument, NULL, OPT_LISTEN},
        {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
        {"address", required_argument, NULL, OPT_ADDRESS},
        {"ca", required_argument, NULL, OPT_CA},
        {"token-file", required_argument, NULL, OPT_TOKEN_FILE},
        {"name", required_argument, NULL, OPT_NAME},
        {"role", required_argument, NULL, OPT_ROLE},
        {"expires-days", required_argument, NULL, OPT_EXPIRES},
        {"version", no_argument, NULL, OPT_VERSION},
        {"help", no_argument, NULL, OPT_HELP},
        {},
};

static int fail(struct error *error)
{
        fprintf(stderr, "drover-manager: %s\n", error_message(error));
        if (error && error->hint)
                fprintf(stderr, "%s\n", error->hint);
        error_free(error);
        return EXIT_FAILURE;
}

/* -1: go on; else the exit status. */
static int take_option(struct options *options, int option)
{
        switch (option) {
        case OPT_CONFIG:
                options->config = optarg;
                return -1;
        case OPT_STATE_DIR:
                options->state_dir = optarg;
                return -1;
        case OPT_LISTEN:
                options->listen = optarg;
                return -1;
        case OPT_LOG_LEVEL:
                options->log_level = optarg;
                return -1;
        case OPT_ADDRESS:
                if (options->n_addresses == ADDRESSES_MAX)
                        return EXIT_USAGE;
                options->addresses[options->n_addresses++] = optarg;
                return -1;
        case OPT_CA:
                options->ca_folder = optarg;
                return -1;
        case OPT_TOKEN_FILE:
                options->token_file = optarg;
                return -1;
        case OPT_NAME:
                options->token_name = optarg;
                return -1;
        case OPT_ROLE:
                options->role = optarg;
                return text_is_name(optarg) ? -1 : EXIT_USAGE;
        case OPT_EXPIRES:
                return text_parse_u64(optarg, 1, 36500, &options->expires_days) < 0 ? EXIT_USAGE : -1;
        case OPT_VERSION:
                printf("drover-manager %s\n", DROVER_VERSION);
                return EXIT_SUCCESS;
        case OPT_HELP:
                fputs(usage, stdout);
                return EXIT_SUCCESS;
        default:
                return EXIT_USAGE;
        }
}

static int override(const struct options *options, struct config *config, struct error **ret_error)
{
        if (options->state_dir && alloc_replace(&config->state_dir, options->state_dir) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (options->listen && alloc_replace(&config->listen, options->listen) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (options->log_level && log_level_from_string(options->log_level, &config->log_level) < 0)
                return error_set(ret_error, ERROR_BAD_REQUEST, "Use error, warning, notice, info or debug.",
                        "%s is no log level", options->log_level);
        return 0;
}

static void on_end(void *userdata)
{
        log_notice("ending");
        sd_notify(0, "STOPPING=1");
        loop_exit(userdata, 0);
}

struct watchdog {
        struct loop_source *timer;
        uint64_t interval_ms;
};

static void on_watchdog(void *userdata)
{
        struct watchdog *watchdog = userdata;

        sd_notify(0, "WATCHDOG=1");
        loop_source_rearm(watchdog->timer, watchdog->interval_ms);
}

static int add_watchdog(struct loop *loop, struct watchdog *watchdog)
{
        uint64_t usec = 0;

        if (sd_watchdog_enabled(0, &usec) <= 0)
                return 0;
        watchdog->interval_ms = MAX(usec / 1000 / 3, UINT64_C(1));
        return loop_add_timer(loop, 0, on_watchdog, watchdog, &watchdog->timer);
}

static int listen_on(const struct config *config, int *ret_fd, struct error **ret_error)
{
        struct sock_address address;
        char text[64];
        int r;

        r = sock_address_parse(config->listen, MANAGER_PORT, true, &address, ret_error);
        if (r >= 0)
                r = sock_listen_tcp(&address, LISTEN_BACKLOG, ret_fd, ret_error);
        if (r < 0)
                return r;
        if (sock_local_address(*ret_fd, &address) >= 0)
                log_notice("listening on %s", sock_address_format(&address, text));
        return 0;
}

/* Two connections to each host and one for each client: more than the 1,024 descriptors that select() once set. */
static void raise_descriptor_limit(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return;
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                log_debug("the limit of open files stays: %s", strerror(errno));
}

static int run(const struct config *config, struct error **ret_error)
{
        _cleanup_(loop_freep) struct loop *loop = NULL;
        _cleanup_(loop_source_freep) struct loop_source *term = NULL, *interrupt = NULL;
        _cleanup_(leadership_freep) struct leadership *leadership = NULL;
        _cleanup_fd_ int lock_fd = -1, listen_fd = -1;
        struct watchdog watchdog = {};
        int r;

        r = state_lock(config->state_dir, &lock_fd, ret_error);
        if (r < 0)
                return r;
        signal(SIGPIPE, SIG_IGN);
        raise_descriptor_limit();
        r = loop_new(&loop);
        if (r >= 0)
                r = loop_add_signal(loop, SIGTERM, on_end, loop, &term);
        if (r >= 0)
                r = loop_add_signal(loop, SIGINT, on_end, loop, &interrupt);
        if (r >= 0)
                r = add_watchdog(loop, &watchdog);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot set up the event loop");
        r = listen_on(config, &listen_fd, ret_error);
        if (r >= 0)
                r = leadership_new(config, loop, listen_fd, &leadership, ret_error);
        if (r < 0) {
                loop_source_free(watchdog.timer);
                return r;
        }
        TAKE_FD(listen_fd);
        sd_notify(0, "READY=1");
        r = loop_run(loop);
        loop_source_free(watchdog.timer);
        return r < 0 ? error_from_errno(ret_error, r, "the event loop failed") : 0;
}

static int hand_out(const struct options *options, const char *secret, struct error **ret_error)
{
        char line[AUTH_SECRET_SIZE + 1];
        int r;

        if (!options->token_file) {
                printf("%s\n", secret);
                return 0;
        }
        snprintf(line, sizeof(line), "%s\n", secret);
        r = file_write_atomic(options->token_file, line, strlen(line), 0600);
        explicit_bzero(line, sizeof(line));
        return r < 0 ? error_from_errno(ret_error, r, "cannot write %s", options->token_file) : 0;
}

static int init(const struct config *config, const struct options *options, struct error **ret_error)
{
        char secret[AUTH_SECRET_SIZE];
        int r;

        if (options->ca_folder)
                return manager_join(config, options->ca_folder, options->addresses, ret_error);
        r = manager_init(config, options->addresses, options->token_name ?: "admin", secret, ret_error);
        return r < 0 ? r : hand_out(options, secret, ret_error);
}

static int create_token(const struct config *config, const struct options *options, struct error **ret_error)
{
        char secret[AUTH_SECRET_SIZE];
        int r;

        r = manager_create_token(config, options->token_name ?: "admin", options->role ?: "admin",
                options->expires_days, secret, ret_error);
        return r < 0 ? r : hand_out(options, secret, ret_error);
}

static int back_up(const struct config *config, const char *path, struct error **ret_error)
{
        _cleanup_(store_closep) struct store *store = NULL;
        int r = manager_open_store(config, &clock_system, &store, ret_error);

        return r < 0 ? r : backup_write(store, config, &clock_system, path, ret_error);
}

/* Nobody else may lead meanwhile. One that was killed is known to be gone when it has been silent for a lease. */
static int lead_alone(struct store *store, struct error **ret_error)
{
        uint64_t until_ms = clock_now_ms(&clock_system) + STORE_LEASE_MS + STORE_BEAT_MS;
        struct store_leader leader;
        int r;

        while ((r = store_lead(store, "restore", "drover-manager restore", &leader, ret_error)) == 1 &&
                clock_now_ms(&clock_system) < until_ms)
                (void)poll(NULL, 0, STORE_BEAT_MS / 3);
        return r == 1 ? error_set(ret_error, ERROR_CONFLICT, "Stop all managers first.",
                                "the manager %s leads", leader.server)
                      : r;
}

static int restore(const struct config *config, const struct options *options, const char *path,
        struct error **ret_error)
{
        _cleanup_(store_closep) struct store *store = NULL;
        _cleanup_fd_ int lock_fd = -1;
        int r = file_make_dirs(config->state_dir, 0700);

        if (r < 0)
                return error_from_errno(ret_error, r, "cannot make %s", config->state_dir);
        r = state_lock(config->state_dir, &lock_fd, ret_error);
        if (r >= 0)
                r = manager_open_store(config, &clock_system, &store, ret_error);
        if (r >= 0)
                r = lead_alone(store, ret_error);
        if (r < 0)
                return r;
        r = backup_restore(store, config, &clock_system, path, options->addresses, ret_error);
        (void)store_resign(store, NULL);
        return r;
}

static int dispatch(const struct config *config, const struct options *options, char **words, int n_words,
        struct error **ret_error)
{
        if (n_words == 0 || (n_words == 1 && !strcmp(words[0], "run")))
                return run(config, ret_error);
        if (n_words == 1 && !strcmp(words[0], "init"))
                return init(config, options, ret_error);
        if (n_words == 2 && !strcmp(words[0], "token") && !strcmp(words[1], "create"))
                return create_token(config, options, ret_error);
        if (n_words == 2 && !strcmp(words[0], "backup"))
                return back_up(config, words[1], ret_error);
        if (n_words == 2 && !strcmp(words[0], "restore"))
                return restore(config, options, words[1], ret_error);
        return error_set(
                ret_error, ERROR_BAD_REQUEST, "See drover-manager --help.", "%s is no command", words[0]);
}

int main(int argc, char **argv)
{
        struct options options = {};
        struct config config = {};
        struct error *error = NULL;
        int option, r;

        /* Not a command for people: see password.c. */
        if (argc == 2 && !strcmp(argv[1], "password-worker"))
                return password_worker(STDIN_FILENO);
        while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
                r = take_option(&options, option);
                if (r == EXIT_USAGE)
                        fprintf(stderr, "See drover-manager --help.\n");
                if (r >= 0)
                        return r;
        }
        r = config_load(options.config ?: CONFIG_PATH, options.config != NULL, &config, &error);
        if (r >= 0)
                r = override(&options, &config, &error);
        log_init("drover-manager", config.log_level);
        if (r >= 0)
                r = dispatch(&config, &options, argv + optind, argc - optind, &error);
        config_deinit(&config);
        return r < 0 ? fail(error) : EXIT_SUCCESS;
}
