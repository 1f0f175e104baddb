/* SPDX-License-Identifier: Apache-2.0 */

/* A disk goes through a pair of movers: a real mirror of QEMU's on one side, a real export on the other (both in
 * qemu-storage-daemon), and somebody who writes to the disk meanwhile. */

#include "mover_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"
#include "io/sock.h"
#include "mover/nbd.h"

#define MIB (1024 * 1024)
#define DISK_BYTES (24 * MIB + 3 * 512) /* its last stripe is short */
#define WAIT_MS 30000
#define MARK "device state"

struct daemon {
        pid_t pid;
        int qmp; /* our end */
        FILE *lines;
};

struct disks {
        char dir[64];
        struct fixture_options options;
        const char *format; /* of both images */
        const char *fault;  /* how the destination fails; NULL: it does not */
        struct fixture *f;
        struct daemon source, destination;
        struct nbd_client writer; /* the guest */
        uint8_t *expected;        /* what the disk holds */
        uint32_t random;
};

static uint32_t next_random(struct disks *d)
{
        d->random = d->random * 1664525 + 1013904223;
        return d->random >> 8;
}

static void run(const char *const *argv)
{
        int status = 0;
        pid_t pid = fork();

        if (pid == 0) {
                execvp(argv[0], (char *const *)argv);
                _exit(127);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (status != 0)
                fail_msg("%s %s failed", argv[0], argv[1]);
}

static void daemon_start(struct daemon *daemon, const char *const *options, int inherited)
{
        const char *argv[32] = {"qemu-storage-daemon", "--chardev"};
        char chardev[64];
        int pair[2];
        size_t n = 2;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        snprintf(chardev, sizeof(chardev), "socket,id=m,fd=%d", pair[1]);
        argv[n++] = chardev;
        argv[n++] = "--monitor";
        argv[n++] = "chardev=m";
        for (; *options; options++)
                argv[n++] = *options;
        daemon->pid = fork();
        if (daemon->pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nothing behind */
                (void)fcntl(pair[1], F_SETFD, 0);
                if (inherited >= 0)
                        (void)fcntl(inherited, F_SETFD, 0);
                execvp(argv[0], (char *const *)argv);
                _exit(127);
        }
        close(pair[1]);
        daemon->qmp = pair[0];
        daemon->lines = fdopen(dup(pair[0]), "r");
        assert_non_null(daemon->lines);
}

/* The next message that has this in it; the caller frees it. */
static char *daemon_await(struct daemon *daemon, const char *part)
{
        struct timeval limit = {.tv_sec = WAIT_MS / 1000};
        char *line = NULL;
        size_t size = 0;

        (void)setsockopt(daemon->qmp, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        while (getline(&line, &size, daemon->lines) > 0)
                if (strstr(line, part))
                        return line;
        fail_msg("the storage daemon did not say %s", part);
        return NULL;
}

static void daemon_tell(struct daemon *daemon, const char *command)
{
        assert_int_equal(write(daemon->qmp, command, strlen(command)), strlen(command));
        free(daemon_await(daemon, "\"return\""));
}

static void daemon_stop(struct daemon *daemon)
{
        if (daemon->pid <= 0)
                return;
        (void)kill(daemon->pid, SIGTERM);
        (void)waitpid(daemon->pid, NULL, 0);
        daemon->pid = 0;
        fclose(daemon->lines);
        close(daemon->qmp);
}

static int connect_to(struct disks *d, const char *name)
{
        char path[128];
        int fd = -1;

        snprintf(path, sizeof(path), "%s/%s.sock", d->dir, name);
        for (int i = 0; i < WAIT_MS / 10 && sock_connect_unix(path, SOCK_STREAM, &fd) < 0; i++)
                nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000}, NULL);
        assert_true(fd >= 0);
        return fd;
}

/* Half of it holes, the rest text and noise. */
static void make_images(struct disks *d)
{
        char raw[128], source[128], destination[128], size[32];
        FILE *out;

        snprintf(raw, sizeof(raw), "%s/raw", d->dir);
        snprintf(source, sizeof(source), "%s/source", d->dir);
        snprintf(destination, sizeof(destination), "%s/destination", d->dir);
        snprintf(size, sizeof(size), "%d", DISK_BYTES);
        d->expected = calloc(1, DISK_BYTES);
        assert_non_null(d->expected);
        for (size_t at = 0; at < DISK_BYTES; at++) {
                size_t kind = at / (96 * 1024) % 4;

                if (kind == 1)
                        d->expected[at] = (uint8_t) "text of a file "[at % 15];
                else if (kind == 2)
                        d->expected[at] = (uint8_t)next_random(d);
        }
        out = fopen(raw, "w");
        assert_non_null(out);
        assert_int_equal(fwrite(d->expected, 1, DISK_BYTES, out), DISK_BYTES);
        assert_int_equal(fclose(out), 0);
        run((const char *[]){"qemu-img", "convert", "-f", "raw", "-O", d->format, raw, source, NULL});
        run((const char *[]){"qemu-img", "create", "-q", "-f", d->format, destination, size, NULL});
}

static void start_destination(struct disks *d)
{
        char file[256], node[256], server[160];

        snprintf(file, sizeof(file), "driver=file,node-name=file,discard=unmap,filename=%s/destination",
                d->dir);
        snprintf(node, sizeof(node), "driver=%s,node-name=disk,discard=unmap,file=%s", d->format,
                d->fault ? "faulty" : "file");
        snprintf(server, sizeof(server), "addr.type=unix,addr.path=%s/destination.sock", d->dir);
        daemon_start(&d->destination,
                (const char *[]){"--blockdev", file, "--blockdev",
                        d->fault ?: "driver=null-co,node-name=unused", "--blockdev", node, "--nbd-server",
                        server, "--export", "nbd,id=e,node-name=disk,writable=on", NULL},
                -1);
}

static void start_source(struct disks *d, int mirror_fd)
{
        char file[256], node[64], server[160], mirror[128];
        struct error *error = NULL;

        snprintf(file, sizeof(file), "driver=file,node-name=file,filename=%s/source", d->dir);
        snprintf(node, sizeof(node), "driver=%s,node-name=disk,file=file", d->format);
        snprintf(server, sizeof(server), "addr.type=unix,addr.path=%s/source.sock", d->dir);
        snprintf(mirror, sizeof(mirror),
                "driver=nbd,node-name=mirror,discard=unmap,server.type=fd,server.str=%d,export=", mirror_fd);
        daemon_start(&d->source,
                (const char *[]){"--blockdev", file, "--blockdev", node, "--blockdev", mirror, "--nbd-server",
                        server, "--export", "nbd,id=e,node-name=disk,writable=on", NULL},
                mirror_fd);
        close(mirror_fd);
        if (nbd_client_init(&d->writer, connect_to(d, "source"), "disk", DISK_BYTES, WAIT_MS, &error) < 0)
                fail_msg("%s", error_message(error));
        daemon_tell(&d->source, "{\"execute\": \"qmp_capabilities\"}");
}

/* Movers and the destination's disk, without anybody who mirrors. */
static struct disks *disks_prepare(
        const struct fixture_options *options, const char *format, const char *fault)
{
        struct disks *d = calloc(1, sizeof(*d));

        assert_non_null(d);
        (void)signal(SIGPIPE, SIG_IGN);
        snprintf(d->dir, sizeof(d->dir), "/tmp/drover-disks-XXXXXX");
        assert_non_null(mkdtemp(d->dir));
        d->options = *options;
        d->format = format;
        d->fault = fault;
        d->random = 5;
        make_images(d);
        start_destination(d);
        d->options.disk_bytes = DISK_BYTES;
        d->options.disk_fd = connect_to(d, "destination");
        d->f = fixture_new(&d->options);
        close(d->options.disk_fd);
        json_decref(fixture_wait(&d->f->source, "ready"));
        return d;
}

static struct disks *disks_new(const struct fixture_options *options, const char *format, const char *fault)
{
        struct disks *d = disks_prepare(options, format, fault);

        start_source(d, fixture_mirror(d->f));
        return d;
}

/* The test is the mirror. */
static struct disks *disks_new_as_mirror(const struct fixture_options *options, const char *fault)
{
        struct disks *d = disks_prepare(options, "raw", fault);
        struct error *error = NULL;

        if (nbd_client_init(&d->writer, fixture_mirror(d->f), "", DISK_BYTES, WAIT_MS, &error) < 0)
                fail_msg("%s", error_message(error));
        return d;
}

static void disks_free(struct disks *d)
{
        static const char *const names[] = {
                "raw", "source", "destination", "source.sock", "destination.sock"};
        char path[128];

        nbd_client_deinit(&d->writer);
        if (d->f)
                fixture_free(d->f);
        daemon_stop(&d->source);
        daemon_stop(&d->destination);
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                snprintf(path, sizeof(path), "%s/%s", d->dir, names[i]);
                (void)unlink(path);
        }
        assert_int_equal(rmdir(d->dir), 0);
        free(d->expected);
        free(d);
}

static void mirror(struct disks *d)
{
        daemon_tell(&d->source,
                "{\"execute\": \"blockdev-mirror\", \"arguments\": {\"job-id\": \"j\", \"device\": \"disk\", "
                "\"target\": \"mirror\", \"sync\": \"full\", \"copy-mode\": \"background\", "
                "\"on-target-error\": \"report\", \"auto-dismiss\": false}}");
}

static void end_mirror(struct disks *d)
{
        char *line;

        free(daemon_await(&d->source, "BLOCK_JOB_READY"));
        daemon_tell(&d->source, "{\"execute\": \"block-job-cancel\", \"arguments\": {\"device\": \"j\"}}");
        line = daemon_await(&d->source, "BLOCK_JOB_COMPLETED");
        assert_null(strstr(line, "\"error\""));
        free(line);
        daemon_tell(&d->source, "{\"execute\": \"job-dismiss\", \"arguments\": {\"id\": \"j\"}}");
}

/* Its end, as the switchover has it. */
static void finish_mirror(struct disks *d)
{
        end_mirror(d);
        daemon_tell(
                &d->source, "{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"mirror\"}}");
}

static bool always(void *userdata)
{
        return true;
}

/* The guest writes: text, noise or zeroes, of any length. */
static void write_something(struct disks *d)
{
        uint32_t len = (next_random(d) % 400 + 1) * 512;
        uint64_t offset = (uint64_t)(next_random(d) % ((DISK_BYTES - len) / 512 + 1)) * 512;
        uint32_t kind = next_random(d) % 3;
        int error = 0;

        for (uint32_t i = 0; i < len; i++)
                d->expected[offset + i] = kind == 0   ? 0
                                          : kind == 1 ? (uint8_t)("new text "[i % 9] + offset)
                                                      : (uint8_t)next_random(d);
        assert_int_equal(nbd_client_call(&d->writer, NBD_WRITE, 0, offset, len, d->expected + offset, always,
                                 NULL, &error),
                0);
        assert_int_equal(error, 0);
}

/* What QEMU flushed is in the file: no daemon has to end for that. */
static void assert_destination_holds_it(struct disks *d)
{
        char source[128], destination[128], raw[128];
        _cleanup_free_ uint8_t *got = malloc(DISK_BYTES + 1);
        FILE *in;

        assert_non_null(got);
        daemon_stop(&d->destination);
        snprintf(raw, sizeof(raw), "%s/raw", d->dir);
        snprintf(source, sizeof(source), "%s/source", d->dir);
        snprintf(destination, sizeof(destination), "%s/destination", d->dir);
        run((const char *[]){"qemu-img", "convert", "-f", d->format, "-O", "raw", destination, raw, NULL});
        in = fopen(raw, "r");
        assert_non_null(in);
        assert_int_equal(fread(got, 1, DISK_BYTES + 1, in), DISK_BYTES);
        fclose(in);
        assert_memory_equal(got, d->expected, DISK_BYTES);
}

static void finish_memory(struct disks *d)
{
        fixture_fill(d->f, 0, fixture_pages(d->f), 1);
        fixture_stream_start(d->f);
        fixture_stream_pages(d->f, 0, fixture_pages(d->f), true);
        fixture_stream_device(d->f, MARK, sizeof(MARK));
        fixture_finish(d->f);
        fixture_assert_ram_equal(d->f);
}

static json_int_t source_stat(const struct disks *d, const char *name)
{
        return json_integer_value(json_object_get(d->f->source.stats, name));
}

static void move(const struct fixture_options *options, const char *format)
{
        struct disks *d = disks_new(options, format, NULL);

        mirror(d);
        for (int i = 0; i < 200; i++)
                write_something(d);
        finish_mirror(d);
        finish_memory(d);
        assert_true(source_stat(d, "bytes_disk") >= DISK_BYTES);
        assert_destination_holds_it(d);
        disks_free(d);
}

static void test_raw_disk_that_is_written_arrives(void **state)
{
        move(&(struct fixture_options){.n_channels = 3}, "raw");
}

static void test_qcow2_disk_that_is_written_arrives(void **state)
{
        move(&(struct fixture_options){.n_channels = 1}, "qcow2");
}

static bool for_a_while(void *userdata)
{
        return --*(int *)userdata > 0; /* asked about once a second */
}

/* What the mover answers; fails when it does not within 20 s. */
static int answer_to(struct disks *d, enum nbd_command command, uint64_t offset, uint32_t length)
{
        int error = -1, patience = 20;

        assert_int_equal(
                nbd_client_call(&d->writer, command, 0, offset, length,
                        command == NBD_WRITE ? d->expected + offset : NULL, for_a_while, &patience, &error),
                0);
        return error;
}

/* Past the barrier: the destination's QEMU is being fed its device state. */
static void reach_device_state(struct disks *d)
{
        fixture_fill(d->f, 0, fixture_pages(d->f), 1);
        fixture_stream_start(d->f);
        fixture_stream_pages(d->f, 0, fixture_pages(d->f), true);
        fixture_stream_device(d->f, MARK, sizeof(MARK));
        json_decref(fixture_wait(&d->f->source, "device-state"));
        d->f->source.device_state = true;
}

static void test_mirror_that_is_removed_after_the_barrier_does_no_harm(void **state)
{
        struct disks *d = disks_new(&(struct fixture_options){.n_channels = 3}, "qcow2", NULL);

        mirror(d);
        write_something(d);
        end_mirror(d);
        reach_device_state(d);
        daemon_tell(
                &d->source, "{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"mirror\"}}");
        fixture_finish(d->f);
        fixture_assert_ram_equal(d->f);
        assert_destination_holds_it(d);
        disks_free(d);
}

static void test_nothing_of_a_disk_follows_the_barrier(void **state)
{
        struct disks *d = disks_new_as_mirror(&(struct fixture_options){.n_channels = 3}, NULL);

        assert_int_equal(answer_to(d, NBD_WRITE, 0, MIB), 0);
        assert_int_equal(answer_to(d, NBD_FLUSH, 0, 0), 0);
        reach_device_state(d);
        assert_int_equal(answer_to(d, NBD_FLUSH, 0, 0), 0); /* all of it is flushed */
        assert_int_equal(answer_to(d, NBD_WRITE, 2 * MIB, MIB), ESHUTDOWN);
        assert_int_equal(answer_to(d, NBD_WRITE_ZEROES, 0, MIB), ESHUTDOWN);
        assert_int_equal(answer_to(d, NBD_FLUSH, 0, 0), ESHUTDOWN);
        fixture_finish(d->f);
        fixture_assert_ram_equal(d->f);
        disks_free(d);
}

static void test_flush_has_an_end_while_the_guest_is_stopped(void **state)
{
        struct disks *d = disks_new_as_mirror(&(struct fixture_options){0}, NULL);

        assert_int_equal(answer_to(d, NBD_WRITE, 0, MIB), 0);
        (void)kill(d->destination.pid, SIGSTOP);
        fixture_send(&d->f->source, json_pack("{s:s, s:i}", "op", "stopped", "disk_limit_ms", 300));
        assert_int_equal(answer_to(d, NBD_FLUSH, 0, 0), ETIMEDOUT);
        assert_int_equal(answer_to(d, NBD_WRITE, 0, MIB), ETIMEDOUT);
        (void)kill(d->destination.pid, SIGCONT);
        disks_free(d);
}

static void test_write_has_an_end_while_the_guest_is_stopped(void **state)
{
        struct disks *d = disks_new_as_mirror(
                &(struct fixture_options){.codec = "none", .rate_limit_bps = 8 * 1000 * 1000}, NULL);
        int error = 0;

        fixture_send(&d->f->source, json_pack("{s:s, s:i}", "op", "stopped", "disk_limit_ms", 1000));
        for (size_t i = 0; i < DISK_BYTES; i++)
                d->expected[i] = (uint8_t)next_random(d);
        for (int i = 0; error == 0 && i < 100; i++) /* at 1 MB/s until all batches are under way */
                error = answer_to(d, NBD_WRITE, (uint64_t)(i % 6) * 4 * MIB, 4 * MIB);
        assert_int_equal(error, ETIMEDOUT);
        disks_free(d);
}

/* Seen by its failure, which is the answer to whatever comes next. */
static void test_what_was_written_is_flushed_unasked(void **state)
{
        struct disks *d = disks_new_as_mirror(&(struct fixture_options){0},
                "driver=blkdebug,node-name=faulty,image=file,"
                "inject-error.0.event=flush_to_disk,inject-error.0.iotype=flush,inject-error.0.errno=5");
        int error = 0;

        assert_int_equal(answer_to(d, NBD_WRITE, 0, MIB), 0);
        for (int i = 0; error == 0 && i < WAIT_MS / 10; i++) {
                error = answer_to(d, NBD_WRITE, 0, 512);
                nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000}, NULL);
        }
        assert_int_equal(error, EIO);
        disks_free(d);
}

static void test_zeroes_do_not_go(void **state)
{
        struct disks *d = disks_new(&(struct fixture_options){.codec = "none"}, "raw", NULL);
        struct stat st;
        char path[128];

        mirror(d);
        finish_mirror(d);
        finish_memory(d);
        assert_in_range(source_stat(d, "bytes_disk_wire"), DISK_BYTES / 2 - MIB, DISK_BYTES / 2 + MIB);
        snprintf(path, sizeof(path), "%s/destination", d->dir);
        assert_int_equal(stat(path, &st), 0);
        assert_in_range(st.st_blocks * 512, DISK_BYTES / 2 - MIB, DISK_BYTES / 2 + MIB);
        assert_destination_holds_it(d);
        disks_free(d);
}

static void test_disk_survives_lost_connections(void **state)
{
        struct disks *d = disks_new(
                &(struct fixture_options){
                        .n_channels = 2, .codec = "none", .rate_limit_bps = 32 * 1000 * 1000},
                "raw", NULL);

        mirror(d);
        for (unsigned int i = 0; i < 8; i++) {
                for (int j = 0; j < 10; j++)
                        write_something(d);
                nanosleep(&(struct timespec){.tv_nsec = 100 * 1000000}, NULL);
                fixture_cut(d->f, i % 2);
                fixture_reconnect(d->f, i % 2, true);
        }
        finish_mirror(d);
        finish_memory(d);
        assert_in_range(source_stat(d, "reconnects"), 4, 8);
        assert_destination_holds_it(d);
        disks_free(d);
}

static void test_full_destination_ends_the_mirror_and_not_the_guest(void **state)
{
        struct disks *d = disks_new(&(struct fixture_options){0}, "raw",
                "driver=blkdebug,node-name=faulty,image=file,inject-error.0.event=none,"
                "inject-error.0.iotype=write,inject-error.0.errno=28");
        char *line;

        mirror(d);
        line = daemon_await(&d->source, "BLOCK_JOB_COMPLETED");
        assert_non_null(strstr(line, "No space left on device"));
        free(line);
        write_something(d);
        finish_memory(d); /* the movers do not mind */
        disks_free(d);
}

static void test_lost_export_ends_the_mirror_and_not_the_guest(void **state)
{
        struct disks *d = disks_new(
                &(struct fixture_options){.codec = "none", .rate_limit_bps = 32 * 1000 * 1000}, "raw", NULL);
        char *line;

        mirror(d);
        (void)kill(d->destination.pid, SIGKILL);
        line = daemon_await(&d->source, "BLOCK_JOB_COMPLETED");
        assert_non_null(strstr(line, "Input/output error"));
        free(line);
        write_something(d);
        disks_free(d);
}

static void test_mover_that_ends_ends_the_mirror_and_not_the_guest(void **state)
{
        struct disks *d = disks_new(
                &(struct fixture_options){.codec = "none", .rate_limit_bps = 32 * 1000 * 1000}, "raw", NULL);
        char *line;

        mirror(d);
        write_something(d);
        fixture_free(TAKE_PTR(d->f));
        line = daemon_await(&d->source, "BLOCK_JOB_COMPLETED");
        assert_non_null(strstr(line, "\"error\""));
        free(line);
        write_something(d);
        disks_free(d);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_raw_disk_that_is_written_arrives),
                cmocka_unit_test(test_qcow2_disk_that_is_written_arrives),
                cmocka_unit_test(test_mirror_that_is_removed_after_the_barrier_does_no_harm),
                cmocka_unit_test(test_nothing_of_a_disk_follows_the_barrier),
                cmocka_unit_test(test_flush_has_an_end_while_the_guest_is_stopped),
                cmocka_unit_test(test_write_has_an_end_while_the_guest_is_stopped),
                cmocka_unit_test(test_what_was_written_is_flushed_unasked),
                cmocka_unit_test(test_zeroes_do_not_go),
                cmocka_unit_test(test_disk_survives_lost_connections),
                cmocka_unit_test(test_full_destination_ends_the_mirror_and_not_the_guest),
                cmocka_unit_test(test_lost_export_ends_the_mirror_and_not_the_guest),
                cmocka_unit_test(test_mover_that_ends_ends_the_mirror_and_not_the_guest),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
