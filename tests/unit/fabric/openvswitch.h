/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A database and an ovs-vswitchd (userspace datapath) of a test's own, in its network namespace and a temporary folder: Debian's
 * packages, unpacked by dev/labkit/openvswitch.py in the cache. Exits with 77 (meson: skipped) where they are not there. */

#include <glob.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>

#include "netns.h"

#include "base/alloc.h"
#include "io/sock.h"

struct openvswitch {
        char root[512], folder[64], socket[96];
        pid_t database, vswitch; /* 0: none */
};

static inline void openvswitch_find(struct openvswitch *ovs)
{
        const char *cache = getenv("DROVER_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
        char pattern[400];
        glob_t found;

        if (cache && *cache)
                snprintf(pattern, sizeof(pattern), "%s/openvswitch-*/root", cache);
        else if (xdg && *xdg)
                snprintf(pattern, sizeof(pattern), "%s/drover/openvswitch-*/root", xdg);
        else
                snprintf(pattern, sizeof(pattern), "%s/.cache/drover/openvswitch-*/root", home ?: "");
        if (glob(pattern, 0, NULL, &found) != 0) {
                fprintf(stderr, "skipped: no Open vSwitch in the cache (dev/test fetches it)\n");
                exit(77);
        }
        snprintf(ovs->root, sizeof(ovs->root), "%s", found.gl_pathv[found.gl_pathc - 1]);
        globfree(&found);
}

/* For the programs, and for command lines. */
static inline void openvswitch_environment(const struct openvswitch *ovs)
{
        static const char *const folders[] = {"OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"};
        char text[640];

        setenv("ROOT", ovs->root, 1);
        setenv("FOLDER", ovs->folder, 1);
        for (size_t i = 0; i < sizeof(folders) / sizeof(*folders); i++)
                setenv(folders[i], ovs->folder, 1);
        snprintf(text, sizeof(text), "unix:%s", ovs->socket);
        setenv("SOCKET", text, 1);
        snprintf(text, sizeof(text), "%s/usr/lib/x86_64-linux-gnu", ovs->root);
        setenv("LD_LIBRARY_PATH", text, 1);
        snprintf(text, sizeof(text), "%s/usr/share/openvswitch", ovs->root);
        setenv("OVS_PKGDATADIR", text, 1);
}

static inline void openvswitch_vsctl(const char *words)
{
        _cleanup_free_ char *line =
                alloc_printf("$ROOT/usr/bin/ovs-vsctl --db=$SOCKET --retry --timeout=60 %s", words);

        assert_non_null(line);
        netns_run(line);
}

/* What ovs-vsctl prints, without the last line feed. */
static inline void openvswitch_ask(const char *words, char *ret, size_t size)
{
        _cleanup_free_ char *line = alloc_printf("%s > $FOLDER/answer", words);
        _cleanup_free_ char *path = alloc_printf("%s/answer", getenv("FOLDER"));
        FILE *answer;

        assert_non_null(line);
        assert_non_null(path);
        openvswitch_vsctl(line);
        answer = fopen(path, "r");
        assert_non_null(answer);
        ret[fread(ret, 1, size - 1, answer)] = '\0';
        ret[strcspn(ret, "\n")] = '\0';
        fclose(answer);
}

static inline pid_t openvswitch_spawn(const char *command)
{
        pid_t pid = fork();

        if (pid == 0) {
                execl("/bin/sh", "sh", "-c", command, NULL);
                _exit(127);
        }
        assert_true(pid > 0);
        return pid;
}

static inline void openvswitch_end(pid_t *pid)
{
        if (*pid <= 0)
                return;
        kill(*pid, SIGKILL);
        waitpid(*pid, NULL, 0);
        *pid = 0;
}

/* Returns when it takes connections: its socket is there some moments before it listens. */
static inline void openvswitch_start_database(struct openvswitch *ovs)
{
        int fd = -1;

        unlink(ovs->socket);
        ovs->database =
                openvswitch_spawn("exec $ROOT/usr/sbin/ovsdb-server $FOLDER/conf.db --remote=p$SOCKET "
                                  "--pidfile=$FOLDER/ovsdb-server.pid --overwrite-pidfile -vconsole:off");
        for (int i = 0; i < 12000 && sock_connect_unix(ovs->socket, SOCK_STREAM, &fd) < 0; i++)
                usleep(5000);
        assert_true(fd >= 0);
        close(fd);
}

static inline void openvswitch_start_vswitch(struct openvswitch *ovs)
{
        ovs->vswitch = openvswitch_spawn(
                "exec $ROOT/usr/lib/openvswitch-switch/ovs-vswitchd $SOCKET --disable-system "
                "--pidfile=$FOLDER/ovs-vswitchd.pid --overwrite-pidfile -vconsole:off");
        openvswitch_vsctl(
                "set Open_vSwitch . external_ids:started=$(date +%N)"); /* waits until it has answered */
}

static inline void openvswitch_start(struct openvswitch *ovs)
{
        *ovs = (struct openvswitch){0};
        openvswitch_find(ovs);
        snprintf(ovs->folder, sizeof(ovs->folder), "/tmp/drover-ovs-XXXXXX");
        assert_non_null(mkdtemp(ovs->folder));
        snprintf(ovs->socket, sizeof(ovs->socket), "%s/db.sock", ovs->folder);
        openvswitch_environment(ovs);
        netns_run("$ROOT/usr/bin/ovsdb-tool create $FOLDER/conf.db $OVS_PKGDATADIR/vswitch.ovsschema");
        openvswitch_start_database(ovs);
        openvswitch_vsctl("--no-wait init");
}

static inline void openvswitch_stop(struct openvswitch *ovs)
{
        openvswitch_end(&ovs->vswitch);
        openvswitch_end(&ovs->database);
        netns_run("rm -rf $FOLDER");
}
