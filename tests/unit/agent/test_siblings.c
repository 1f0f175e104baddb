/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/siblings.h"
#include "mover/page_claims.h"

#define SPACE (1024 * 1024)
#define PEER "6f1cb2a4-0d5e-4c8f-9a55-0c5b6a1f2e3d"

struct fixture {
        struct loop *loop;
        struct siblings *siblings;
};

static struct fixture set_up(uint64_t space)
{
        struct fixture f;

        assert_int_equal(loop_new(&f.loop), 0);
        assert_int_equal(siblings_new(f.loop, space, &f.siblings), 0);
        return f;
}

static void tear_down(struct fixture *f)
{
        siblings_free(f->siblings);
        loop_free(f->loop);
}

static ino_t file_of(int fd)
{
        struct stat st;

        assert_int_equal(fstat(fd, &st), 0);
        return st.st_ino;
}

static ino_t open_store(struct fixture *f, const char *tenant, char key[static SIBLING_KEY_HEX + 1])
{
        int fd = -1;

        assert_int_equal(siblings_open_store(f->siblings, tenant, &fd, key), 0);
        return file_of(fd);
}

static void test_each_tenant_has_a_store_and_a_key(void **state)
{
        struct fixture f = set_up(SPACE);
        char acme[SIBLING_KEY_HEX + 1], emca[SIBLING_KEY_HEX + 1], again[SIBLING_KEY_HEX + 1];
        ino_t first = open_store(&f, "acme", acme);

        assert_int_not_equal(open_store(&f, "emca", emca), first);
        assert_string_not_equal(acme, emca);
        assert_int_equal(strlen(acme), SIBLING_KEY_HEX);
        assert_int_equal(open_store(&f, "acme", again), first);
        assert_string_equal(again, acme);
        tear_down(&f);
}

static void test_without_tenant_or_space_nothing_is_shared(void **state)
{
        struct fixture f = set_up(SPACE), none = set_up(0);
        char key[SIBLING_KEY_HEX + 1];
        int fd;

        assert_int_equal(siblings_open_store(f.siblings, NULL, &fd, key), -EOPNOTSUPP);
        assert_int_equal(siblings_open_store(f.siblings, "", &fd, key), -EOPNOTSUPP);
        assert_int_equal(siblings_open_store(none.siblings, "acme", &fd, key), -EOPNOTSUPP);
        tear_down(&f);
        tear_down(&none);
}

/* A mover that cut the file short would end the others. */
static void test_no_mover_can_change_the_size(void **state)
{
        struct fixture f = set_up(SPACE);
        char key[SIBLING_KEY_HEX + 1];
        struct stat st;
        int fd;

        assert_int_equal(siblings_open_store(f.siblings, "acme", &fd, key), 0);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, SPACE);
        assert_int_equal(ftruncate(fd, 0), -1);
        assert_int_equal(ftruncate(fd, 2 * SPACE), -1);
        tear_down(&f);
}

static void test_claims_belong_to_a_host_and_a_key(void **state)
{
        struct fixture f = set_up(SPACE);
        struct stat st;
        int one, other;

        assert_int_equal(siblings_open_claims(f.siblings, PEER, "aa", &one), 0);
        assert_int_equal(siblings_open_claims(f.siblings, PEER, "bb", &other), 0);
        assert_int_not_equal(file_of(one), file_of(other));
        assert_int_equal(siblings_open_claims(f.siblings, PEER, "aa", &other), 0);
        assert_int_equal(file_of(one), file_of(other));
        assert_int_equal(fstat(one, &st), 0);
        assert_int_equal(st.st_size, PAGE_CLAIMS_BYTES);
        tear_down(&f);
}

/* The number of them is bounded; the one that was not asked for the longest goes. */
static void test_the_oldest_makes_room(void **state)
{
        struct fixture f = set_up(SPACE);
        char first[SIBLING_KEY_HEX + 1], used[SIBLING_KEY_HEX + 1], key[SIBLING_KEY_HEX + 1], name[16];

        (void)open_store(&f, "first", first);
        (void)open_store(&f, "used", used);
        for (unsigned int i = 0; i < 20; i++) {
                snprintf(name, sizeof(name), "tenant%u", i);
                (void)open_store(&f, name, key);
                (void)open_store(&f, "used", key);
                assert_string_equal(key, used);
        }
        (void)open_store(&f, "first", key);
        assert_string_not_equal(key, first);
        tear_down(&f);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_each_tenant_has_a_store_and_a_key),
                cmocka_unit_test(test_without_tenant_or_space_nothing_is_shared),
                cmocka_unit_test(test_no_mover_can_change_the_size),
                cmocka_unit_test(test_claims_belong_to_a_host_and_a_key),
                cmocka_unit_test(test_the_oldest_makes_room),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
