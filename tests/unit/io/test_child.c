/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/alloc.h"
#include "io/child.h"
#include "io/file.h"
#include "unit/torture_loop.h"

#define WAIT_MS 20000

struct probe {
        bool done;
        int calls;
        struct child_result result;
        char output[4096];
        struct child *free_in_handler;
};

static void on_exit_of_child(void *userdata, const struct child_result *result)
{
        struct probe *p = userdata;

        p->done = true;
        p->calls++;
        p->result = *result;
        snprintf(p->output, sizeof(p->output), "%s", result->output);
        child_free(TAKE_PTR(p->free_in_handler));
}

static struct child *start(struct loop *loop, struct probe *p, const struct child_spec *spec)
{
        _cleanup_error_ struct error *e = NULL;
        struct child *c = NULL;
        int r = child_start(loop, spec, on_exit_of_child, p, &c, &e);

        if (r < 0)
                print_error("%s\n", error_message(e));
        assert_int_equal(r, 0);
        return c;
}

#define SH(script) \
        (const char *const[]) \
        { \
                "sh", "-c", script, NULL \
        }

static int new_loop(void **state)
{
        return loop_new((struct loop **)state);
}

static int free_loop(void **state)
{
        loop_free(*state);
        return 0;
}

static void an_exit_code_and_the_output_are_reported(void **state)
{
        struct child_spec spec = CHILD_SPEC_INIT;
        struct probe p = {};
        struct child *c;
        char text[64];

        spec.argv = SH("echo out; echo err >&2; exit 3");
        spec.output_max = 100;
        c = start(*state, &p, &spec);
        assert_true(child_running(c));
        assert_int_equal(loop_wait(*state, &p.done, WAIT_MS), 0);
        assert_false(child_running(c));
        assert_true(p.result.exited);
        assert_int_equal(p.result.code, 3);
        assert_string_equal(p.output, "out\nerr\n");
        assert_string_equal(child_result_format(&p.result, text), "exited with code 3");
        assert_int_equal(child_kill(c, SIGTERM), -ESRCH);
        child_free(c);
}

static void a_signal_is_told_from_an_exit(void **state)
{
        struct child_spec spec = CHILD_SPEC_INIT;
        struct probe p = {};
        struct child *c;
        char text[64];

        spec.argv = (const char *const[]){"sleep", "1000", NULL};
        c = start(*state, &p, &spec);
        assert_int_equal(child_kill(c, SIGTERM), 0);
        assert_int_equal(loop_wait(*state, &p.done, WAIT_MS), 0);
        assert_false(p.result.exited);
        assert_int_equal(p.result.code, SIGTERM);
        assert_string_equal(child_result_format(&p.result, text), "was killed by signal 15 (Terminated)");
        child_free(c);
}

static void a_time_limit_kills(void **state)
{
        struct child_spec spec = CHILD_SPEC_INIT;
        struct probe p = {};
        struct child *c;

        spec.argv = (const char *const[]){"sleep", "1000", NULL};
        spec.timeout_ms = 20;
        c = start(*state, &p, &spec);
        assert_int_equal(loop_wait(*state, &p.done, WAIT_MS), 0);
        assert_true(p.result.timed_out);
        assert_int_equal(p.result.code, SIGKILL);
        child_free(c);
}

static void a_missing_program_is_reported_by_name(void **state)
{
        _cleanup_error_ struct error *e = NULL;
        struct child_spec spec = CHILD_SPEC_INIT;
        struct child *c = NULL;
        struct probe p = {};

        spec.argv = (const char *const[]){"/no/such/program", NULL};
        assert_int_equal(child_start(*state, &spec, on_exit_of_child, &p, &c, &e), -ENOENT);
        assert_null(c);
        assert_non_null(strstr(e->message, "/no/such/program"));
        assert_non_null(e->hint);
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no zombie either */
        assert_int_equal(errno, ECHILD);
}

static void a_missing_control_group_is_reported(void **state)
{
        _cleanup_error_ struct error *e = NULL;
        struct child_spec spec = CHILD_SPEC_INIT;
        struct child *c = NULL;

        spec.argv = (const char *const[]){"true", NULL};
        spec.cgroup_procs = "/no/such/cgroup.procs";
        assert_int_equal(child_start(*state, &spec, on_exit_of_child, NULL, &c, &e), -ENOENT);
        assert_non_null(strstr(e->message, "/no/such/cgroup.procs"));
}

static void the_control_group_is_entered_before_the_program_runs(void **state)
{
        char path[] = "/tmp/drover-test-procs-XXXXXX";
        _cleanup_fd_ int fd = mkstemp(path); /* any file takes what is written to it */
        struct child_spec spec = CHILD_SPEC_INIT;
        struct probe p = {};
        char script[128];
        struct child *c;

        snprintf(script, sizeof(script), "cat %s", path);
        spec.argv = SH(script);
        spec.cgroup_procs = path;
        spec.output_max = 100;
        c = start(*state, &p, &spec);
        assert_int_equal(loop_wait(*state, &p.done, WAIT_MS), 0);
        assert_string_equal(p.output, "0");
        child_free(c);
        unlink(path);
}

static void only_the_named_descriptors_are_there(void **state)
{
        struct child_spec spec = CHILD_SPEC_INIT;
        int pipe_a[2], pipe_b[2], leak;
        struct probe p = {};
        struct child *c;

        assert_int_equal(pipe(pipe_a), 0);
        assert_int_equal(pipe(pipe_b), 0);
        leak = open("/dev/null", O_RDONLY); /* no CLOEXEC */
        /* Each target is the number of the other's source: a naive dup2() would lose one. */
        spec.fds = (const struct child_fd[]){
                {.fd = pipe_a[1], .target = pipe_b[1]}, {.fd = pipe_b[1], .target = pipe_a[1]}};
        spec.n_fds = 2;
        char script[256];
        snprintf(script, sizeof(script),
                "printf a >&%d; printf b >&%d; for n in %d %d %d; do [ ! -e /proc/$$/fd/$n ] || echo $n; "
                "done",
                pipe_b[1], pipe_a[1], leak, pipe_a[0], pipe_b[0]);
        spec.argv = SH(script);
        spec.output_max = 100;
        c = start(*state, &p, &spec);
        assert_int_equal(loop_wait(*state, &p.done, WAIT_MS), 0);
        child_free(c);
        char a = 0, b = 0;
        assert_int_equal(read(pipe_a[0], &a, 1), 1);
        assert_int_equal(read(pipe_b[0], &b, 1), 1);
        assert_int_equal(a, 'a');
        assert_int_equal(b, 'b');
        assert_string_equal(p.output, "");
        close(leak);
        for (int i = 0; i < 2; i++) {
                close(pipe_a[i]);
                close(pipe_b[i]);
        }
}

static void the_environment_is_ours_with_the_additions(void **state)
{
        struct child_spec spec = CHILD_SPEC_INIT;
        struct probe p = {};
        struct child *c;

        setenv("DROVER_TEST_A", "old", 1);
        setenv("DROVER_TEST_AB", "kept", 1);
        spec.argv = SH("echo $DROVER_TEST_A $DROVER_TEST_AB $DROVER_TEST_C; env | grep -c ^DROVER_TEST_A=");
        spec.env = (const char *const[]){"DROVER_TEST_A=new", "DROVER_TEST_C=more", NULL};
        spec.output_max = 100;
        c = start(*state, &p, &spec);
        assert_int_equal(loop_wait(*state, &p.done, WAIT_MS), 0);
        assert_string_equal(p.output, "new kept more\n1\n");
        child_free(c);
}

/* Signals 32 and 33 are glibc's own: nobody can change them, and who started us may have left them ignored. */
#define OF_GLIBC 0x180000000ull

static void signals_are_as_at_login(void **state)
{
        struct child_spec spec = CHILD_SPEC_INIT;
        struct probe p = {};
        unsigned long long blocked, ignored;
        sigset_t set, old;
        struct child *c;

        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigprocmask(SIG_BLOCK, &set, &old);
        signal(SIGUSR2, SIG_IGN);
        spec.argv = (const char *const[]){"grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status", NULL};
        spec.output_max = 200;
        c = start(*state, &p, &spec);
        assert_int_equal(loop_wait(*state, &p.done, WAIT_MS), 0);
        assert_int_equal(sscanf(p.output, "SigBlk: %llx SigIgn: %llx", &blocked, &ignored), 2);
        assert_int_equal(blocked, 0);
        assert_int_equal(ignored & ~OF_GLIBC, 0);
        child_free(c);
        signal(SIGUSR2, SIG_DFL);
        sigprocmask(SIG_SETMASK, &old, NULL);
}

static void stdin_and_output_can_be_given(void **state)
{
        char path[] = "/tmp/drover-test-child-XXXXXX";
        _cleanup_fd_ int file = mkstemp(path), in = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
        struct child_spec spec = CHILD_SPEC_INIT;
        _cleanup_free_ char *text = NULL;
        struct probe p = {};
        struct child *c;

        spec.argv = (const char *const[]){"cat", NULL};
        spec.stdin_fd = in;
        spec.output_fd = file;
        c = start(*state, &p, &spec);
        assert_int_equal(loop_wait(*state, &p.done, WAIT_MS), 0);
        assert_int_equal(file_read(path, 100, &text, NULL), 0);
        assert_string_equal(text, "test_child\n");
        assert_string_equal(p.output, "");
        child_free(c);
        unlink(path);
}

static void more_output_than_wanted_does_not_block_the_program(void **state)
{
        struct child_spec spec = CHILD_SPEC_INIT;
        struct probe p = {};
        struct child *c;

        spec.argv = SH("head -c 1000000 /dev/zero | tr '\\0' x; exit 5");
        spec.output_max = 10;
        c = start(*state, &p, &spec);
        assert_int_equal(loop_wait(*state, &p.done, WAIT_MS), 0);
        assert_int_equal(p.result.code, 5);
        assert_string_equal(p.output, "xxxxxxxxxx");
        child_free(c);
}

static void a_grandchild_with_the_pipe_does_not_delay_the_report(void **state)
{
        struct child_spec spec = CHILD_SPEC_INIT;
        struct probe p = {};
        struct child *c;
        int pid;

        spec.argv = SH("sleep 1000 & echo $!");
        spec.output_max = 100;
        c = start(*state, &p, &spec);
        assert_int_equal(loop_wait(*state, &p.done, WAIT_MS), 0);
        child_free(c);
        pid = (pid_t)strtol(p.output, NULL, 10);
        assert_true(pid > 1);
        assert_int_equal(kill(pid, SIGKILL), 0);
}

static void a_child_may_be_freed_in_its_handler(void **state)
{
        struct child_spec spec = CHILD_SPEC_INIT;
        struct probe p = {};

        spec.argv = (const char *const[]){"true", NULL};
        spec.output_max = 10;
        p.free_in_handler = start(*state, &p, &spec);
        assert_int_equal(loop_wait(*state, &p.done, WAIT_MS), 0);
        assert_int_equal(p.result.code, 0);
}

static void wait_until_gone(struct loop *loop, pid_t pid)
{
        for (int i = 0; i < WAIT_MS / 10 && kill(pid, 0) == 0; i++)
                assert_int_equal(loop_iterate(loop, 10), 0);
        assert_int_equal(kill(pid, 0), -1);
}

static void freeing_kills_and_leaves_no_zombie(void **state)
{
        struct child_spec spec = CHILD_SPEC_INIT;
        struct probe p = {};
        struct child *c;
        pid_t pid;

        spec.argv = (const char *const[]){"sleep", "1000", NULL};
        c = start(*state, &p, &spec);
        pid = child_pid(c);
        child_free(c);
        wait_until_gone(*state, pid);
        assert_int_equal(p.calls, 0);
}

static void an_outliving_child_runs_on_and_can_be_adopted(void **state)
{
        struct child_spec spec = CHILD_SPEC_INIT;
        struct child *c, *adopted = NULL;
        struct probe p = {}, later = {};
        uint64_t started;
        pid_t pid;

        spec.argv = (const char *const[]){"sleep", "1000", NULL};
        spec.outlive = spec.own_session = true;
        c = start(*state, &p, &spec);
        pid = child_pid(c);
        assert_int_equal(child_start_time(pid, &started), 0);
        assert_int_equal(getsid(pid), pid);
        child_free(c);
        assert_int_equal(kill(pid, 0), 0);
        assert_int_equal(child_adopt(*state, pid, started + 1, on_exit_of_child, &later, &adopted), -ESRCH);
        assert_int_equal(child_adopt(*state, pid, started, on_exit_of_child, &later, &adopted), 0);
        assert_int_equal(child_kill(adopted, SIGKILL), 0);
        assert_int_equal(loop_wait(*state, &later.done, WAIT_MS), 0);
        child_free(adopted);
        wait_until_gone(*state, pid);
}

static bool may_lower_nice(void)
{
        pid_t pid = fork();
        int status;

        if (pid == 0)
                _exit(setpriority(PRIO_PROCESS, 0, -10) < 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return status == 0;
}

static void a_preferred_child_has_its_nice_value_and_its_sessions(void **state)
{
        struct child_spec spec = CHILD_SPEC_INIT;
        struct probe p = {};
        struct child *c;

        if (!may_lower_nice())
                skip();
        spec.argv = SH("nice; cat /proc/self/autogroup 2>/dev/null || echo nice -10");
        spec.output_max = 100;
        spec.own_session = true;
        spec.nice = -10;
        c = start(*state, &p, &spec);
        assert_int_equal(loop_wait(*state, &p.done, WAIT_MS), 0);
        child_free(c);
        assert_non_null(strstr(p.output, "-10\n"));
        assert_non_null(strstr(p.output, "nice -10\n"));
}

static void a_process_that_is_not_ours_is_watched_too(void **state)
{
        struct child_spec spec = CHILD_SPEC_INIT;
        struct probe p = {}, later = {};
        struct child *c, *adopted = NULL;
        uint64_t started;
        char text[64];
        int pid;

        /* The middle process is gone at once: what it started belongs to init. */
        spec.argv = SH("sleep 1000 >/dev/null & echo $!");
        spec.output_max = 20;
        c = start(*state, &p, &spec);
        assert_int_equal(loop_wait(*state, &p.done, WAIT_MS), 0);
        child_free(c);
        pid = (pid_t)strtol(p.output, NULL, 10);
        assert_int_equal(child_start_time(pid, &started), 0);
        assert_int_equal(child_adopt(*state, pid, started, on_exit_of_child, &later, &adopted), 0);
        child_free(adopted);
        assert_int_equal(kill(pid, 0), 0); /* letting an adopted process go leaves it running */
        assert_int_equal(child_adopt(*state, pid, started, on_exit_of_child, &later, &adopted), 0);
        assert_int_equal(child_kill(adopted, SIGKILL), 0);
        assert_int_equal(loop_wait(*state, &later.done, WAIT_MS), 0);
        assert_int_equal(later.result.code, -1);
        assert_string_equal(child_result_format(&later.result, text), "ended");
        child_free(adopted);
}

static void a_process_that_is_gone_cannot_be_adopted(void **state)
{
        struct child *c = NULL;
        uint64_t started;
        pid_t pid = fork();

        if (pid == 0)
                _exit(0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_int_equal(child_start_time(pid, &started), -ESRCH);
        assert_int_equal(child_adopt(*state, pid, 1, on_exit_of_child, NULL, &c), -ESRCH);
}

/* The program that starts the child dies; PR_SET_PDEATHSIG must take the child along, or not. */
static void start_and_die(bool outlive, int report_fd)
{
        struct child_spec spec = CHILD_SPEC_INIT;
        struct loop *loop;
        struct child *c;
        pid_t pid = fork();

        if (pid > 0) {
                assert_int_equal(waitpid(pid, NULL, 0), pid);
                return;
        }
        spec.argv = (const char *const[]){"sleep", "1000", NULL};
        spec.outlive = outlive;
        if (loop_new(&loop) < 0 || child_start(loop, &spec, on_exit_of_child, NULL, &c, NULL) < 0)
                _exit(1);
        pid = child_pid(c);
        (void)!write(report_fd, &pid, sizeof(pid));
        _exit(0);
}

static void our_death_kills_an_ordinary_child_only(void **state)
{
        int ends[2];
        pid_t pid;

        assert_int_equal(pipe(ends), 0);
        start_and_die(false, ends[1]);
        assert_int_equal(read(ends[0], &pid, sizeof(pid)), sizeof(pid));
        for (uint64_t t; child_start_time(pid, &t) == 0;)
                assert_int_equal(loop_iterate(*state, 10), 0);
        start_and_die(true, ends[1]);
        assert_int_equal(read(ends[0], &pid, sizeof(pid)), sizeof(pid));
        assert_int_equal(kill(pid, 0), 0);
        assert_int_equal(kill(pid, SIGKILL), 0);
        close(ends[0]);
        close(ends[1]);
}

static void start_body(void *arg _unused_)
{
        _cleanup_(loop_freep) struct loop *loop = NULL;
        _cleanup_(child_freep) struct child *c = NULL;
        _cleanup_error_ struct error *e = NULL;
        struct child_spec spec = CHILD_SPEC_INIT;
        struct probe p = {};

        spec.argv = SH("echo hello");
        spec.output_max = 100;
        spec.timeout_ms = WAIT_MS;
        if (torture_failed(loop_new(&loop) < 0) ||
                torture_failed(child_start(loop, &spec, on_exit_of_child, &p, &c, &e) < 0))
                return;
        assert_int_equal(loop_wait(loop, &p.done, WAIT_MS), 0);
        if (!torture_injected())
                assert_string_equal(p.output, "hello\n");
}

static void starting_survives_failing_calls(void **state _unused_)
{
        torture_loop(start_body, NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, new_loop, free_loop)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(an_exit_code_and_the_output_are_reported),
                TEST(a_signal_is_told_from_an_exit),
                TEST(a_time_limit_kills),
                TEST(a_missing_program_is_reported_by_name),
                TEST(a_missing_control_group_is_reported),
                TEST(the_control_group_is_entered_before_the_program_runs),
                TEST(only_the_named_descriptors_are_there),
                TEST(the_environment_is_ours_with_the_additions),
                TEST(signals_are_as_at_login),
                TEST(stdin_and_output_can_be_given),
                TEST(more_output_than_wanted_does_not_block_the_program),
                TEST(a_grandchild_with_the_pipe_does_not_delay_the_report),
                TEST(a_child_may_be_freed_in_its_handler),
                TEST(freeing_kills_and_leaves_no_zombie),
                TEST(an_outliving_child_runs_on_and_can_be_adopted),
                TEST(a_preferred_child_has_its_nice_value_and_its_sessions),
                TEST(a_process_that_is_not_ours_is_watched_too),
                TEST(a_process_that_is_gone_cannot_be_adopted),
                TEST(our_death_kills_an_ordinary_child_only),
                TEST(starting_survives_failing_calls),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
