/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* For tests that need a folder: a fresh one under the build's temporary folder, removed at the end. */

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/file.h"
#include "storage/datastore.h"

struct scratch {
        char path[64];  /* absolute; outside of "store" anything may be planted */
        char store[80]; /* PATH/store */
        struct datastore *datastore;
        struct loop *loop;
        bool mounted;
};

static inline int scratch_set_up(void **state)
{
        struct scratch *s = test_calloc(1, sizeof(*s));

        snprintf(s->path, sizeof(s->path), "/tmp/drover-test-XXXXXX");
        assert_non_null(mkdtemp(s->path));
        snprintf(s->store, sizeof(s->store), "%s/store", s->path);
        assert_int_equal(mkdir(s->store, 0755), 0);
        assert_int_equal(datastore_open("shared", s->store, NULL, &s->datastore, NULL), 0);
        assert_int_equal(loop_new(&s->loop), 0);
        *state = s;
        return 0;
}

static inline int scratch_tear_down(void **state)
{
        struct scratch *s = *state;

        datastore_free(s->datastore);
        loop_free(s->loop);
        if (s->mounted)
                assert_int_equal(umount2(s->store, MNT_DETACH), 0);
        assert_int_equal(file_remove_tree(s->path), 0);
        test_free(s);
        return 0;
}

/* Puts a file system of this size under the datastore, in a mount namespace of this process alone. */
static inline void scratch_make_small(struct scratch *s, const char *options)
{
        datastore_free(TAKE_PTR(s->datastore));
        if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
                mount("drover-test", s->store, "tmpfs", 0, options) < 0)
                skip();
        s->mounted = true;
        assert_int_equal(datastore_open("shared", s->store, NULL, &s->datastore, NULL), 0);
}

static inline void scratch_write(const struct scratch *s, const char *path, const char *text)
{
        char full[256];

        snprintf(full, sizeof(full), "%s/%s", s->path, path);
        assert_int_equal(file_write_atomic(full, text, strlen(text), 0644), 0);
}

static inline bool scratch_exists(const struct scratch *s, const char *path)
{
        char full[256];
        struct stat st;

        snprintf(full, sizeof(full), "%s/%s", s->path, path);
        return !lstat(full, &st);
}

static inline void scratch_link(const struct scratch *s, const char *target, const char *path)
{
        char full[256];

        snprintf(full, sizeof(full), "%s/%s", s->path, path);
        assert_int_equal(symlink(target, full), 0);
}

static inline void scratch_make_dir(const struct scratch *s, const char *path)
{
        char full[256];

        snprintf(full, sizeof(full), "%s/%s", s->path, path);
        assert_int_equal(mkdir(full, 0755), 0);
}

/* Fails the test, with the message, unless the error has this code and words. */
static inline void assert_error(struct error *error, enum error_code code, const char *words)
{
        assert_non_null(error);
        if (error->code != code || !strstr(error_message(error), words))
                fail_msg("unexpected error %s: %s", error_code_to_string(error->code), error_message(error));
}

#define SCRATCH_TEST(name) cmocka_unit_test_setup_teardown(name, scratch_set_up, scratch_tear_down)
