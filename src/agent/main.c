/* SPDX-License-Identifier: Apache-2.0 */

/* drover-agent: looks after the virtual machines of one host. See docs/ and drover-agent(8). */

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>

#include "agent/agent.h"
#include "agent/enrol.h"
#include "base/doc.h"
#include "base/log.h"
#include "io/loop.h"

#define CONFIG_FILE "/etc/drover/agent.conf"
#define EXIT_USAGE 2
#define WATCHDOG_ENABLED 1
#ifndef DROVER_VERSION
#define DROVER_VERSION "0"
#endif

struct options {
        const char *config_file; /* NULL: the default one, which may be missing */
        struct enrol_options enrol;
};

static int usage(FILE *to)
{
        (void)fputs(
                "Usage: drover-agent [--config FILE] [COMMAND]\n"
                "\n"
                "Commands:\n"
                "  run (default)                                    look after this host's virtual machines\n"
                "  enrol --manager ADDRESS --token TOKEN [--name N]  make this host a member of a cluster\n"
                "  version                                          print the version\n",
                to);
        return to == stderr ? EXIT_USAGE : EXIT_SUCCESS;
}

static int report(struct error *error)
{
        (void)fprintf(stderr, "drover-agent: %s%s%s\n", error_message(error),
                error && error->hint ? ". " : "", error && error->hint ? error->hint : "");
        error_free(error);
        return EXIT_FAILURE;
}

static int load_config(const struct options *options, struct agent_config *ret, struct error **ret_error)
{
        const char *file = options->config_file ?: CONFIG_FILE;

        return agent_config_load(file, !options->config_file, ret, ret_error);
}

/* --- run -------------------------------------------------------------------------------------------------------- */

static void on_ready(void *userdata)
{
        struct agent *agent = userdata;

        (void)sd_notifyf(0, "READY=1\nSTATUS=Listening on %s, %zu virtual machines",
                agent_listen_address(agent), map_size(&agent->vms));
}

static void on_signal(void *userdata)
{
        (void)sd_notify(0, "STOPPING=1");
        log_info("ending; virtual machines run on");
        loop_exit(userdata, EXIT_SUCCESS);
}

/* Each VM takes some ten descriptors. */
static void raise_limits(void)
{
        struct rlimit files;

        if (getrlimit(RLIMIT_NOFILE, &files) < 0)
                return;
        files.rlim_cur = files.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &files) < 0)
                log_warning("the limit of open files stays as it is: %s", strerror(errno));
}

static int run_agent(struct loop *loop, struct agent_config *config, struct error **ret_error)
{
        _cleanup_(agent_freep) struct agent *agent = NULL;
        int r = agent_new(loop, config, &agent, ret_error);

        if (r == 0)
                r = agent_start(agent, on_ready, agent, ret_error);
        return r < 0 ? r : loop_run(loop);
}

static int command_run(const struct options *options)
{
        _cleanup_agent_config_ struct agent_config config = {0};
        _cleanup_(loop_freep) struct loop *loop = NULL; /* goes after the sources in it */
        _cleanup_(loop_source_freep) struct loop_source *on_term = NULL, *on_int = NULL;
        struct error *error = NULL;
        int r = load_config(options, &config, &error);

        if (r < 0)
                return report(error);
        log_init("drover-agent", config.log_level);
        raise_limits();
        (void)signal(SIGPIPE, SIG_IGN);
        r = loop_new(&loop);
        if (r == 0)
                r = loop_add_signal(loop, SIGTERM, on_signal, loop, &on_term);
        if (r == 0)
                r = loop_add_signal(loop, SIGINT, on_signal, loop, &on_int);
        if (r == 0)
                r = sd_event_set_watchdog(loop_sd_event(loop), WATCHDOG_ENABLED);
        if (r < 0) {
                (void)error_from_errno(&error, r, "event loop");
                return report(error);
        }
        r = run_agent(loop, &config, &error);
        if (r < 0)
                return error ? report(error) : EXIT_FAILURE;
        return r;
}

/* --- enrol, version --------------------------------------------------------------------------------------------- */

static int command_enrol(const struct options *options)
{
        _cleanup_agent_config_ struct agent_config config = {0};
        struct enrol_options enrol_options = options->enrol;
        struct error *error = NULL;
        int r;

        if (!enrol_options.manager || !enrol_options.token)
                return usage(stderr);
        r = load_config(options, &config, &error);
        if (r == 0) {
                enrol_options.state_dir = config.state_dir;
                r = enrol(&enrol_options, &error);
        }
        if (r < 0)
                return report(error);
        (void)printf("This host is enrolled. Start the agent: systemctl enable --now drover-agent\n");
        return EXIT_SUCCESS;
}

static int command_version(const struct options *options)
{
        (void)printf("drover-agent " DROVER_VERSION "\n");
        return EXIT_SUCCESS;
}

static const struct command {
        const char *name;
        int (*run)(const struct options *options);
} commands[] = {
        {"run", command_run},
        {"enrol", command_enrol},
        {"version", command_version},
};

int main(int argc, char **argv)
{
        static const struct option known[] = {
                {"config", required_argument, NULL, 'c'},
                {"manager", required_argument, NULL, 'm'},
                {"token", required_argument, NULL, 't'},
                {"name", required_argument, NULL, 'n'},
                {"help", no_argument, NULL, 'h'},
                {"version", no_argument, NULL, 'V'},
                {0},
        };
        struct options options = {0};
        const char *name;
        int c;

        doc_wipe_freed(); /* keys are in them */
        log_init("drover-agent", LOG_LEVEL_INFO);
        while ((c = getopt_long(argc, argv, "c:h", known, NULL)) >= 0) {
                switch (c) {
                case 'c':
                        options.config_file = optarg;
                        break;
                case 'm':
                        options.enrol.manager = optarg;
                        break;
                case 't':
                        options.enrol.token = optarg;
                        break;
                case 'n':
                        options.enrol.name = optarg;
                        break;
                case 'h':
                        return usage(stdout);
                case 'V':
                        return command_version(&options);
                default:
                        return usage(stderr);
                }
        }
        name = optind < argc ? argv[optind] : "run";
        if (argc - optind > 1)
                return usage(stderr);
        for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
                if (strcmp(commands[i].name, name) == 0)
                        return commands[i].run(&options);
        }
        return usage(stderr);
}
