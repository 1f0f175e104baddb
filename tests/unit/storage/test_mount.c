/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "storage/mount.h"

/* As the kernel writes it (proc(5), mountinfo). */
static const char mountinfo[] =
        "22 27 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n"
        "27 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n"
        "130 27 0:50 / /srv/safe rw,relatime shared:9 - nfs4 nas:/vms "
        "rw,vers=4.2,local_lock=none,addr=10.0.0.1\n"
        "131 27 0:51 / /srv/nolock rw,relatime - nfs nas:/vms rw,vers=3,nolock,local_lock=all,addr=10.0.0.1\n"
        "132 27 0:52 / /srv/flock rw,relatime - nfs nas:/vms rw,vers=3,local_lock=flock,addr=10.0.0.1\n"
        "133 27 0:53 / /srv/windows rw,relatime - cifs //nas/vms rw,vers=3.0,nobrl\n"
        "134 27 0:54 / /srv/ocfs2 rw,relatime - ocfs2 /dev/sdb rw,localflocks\n"
        "135 27 8:2 / /srv/local rw,relatime - ext4 /dev/nolock rw,nolock\n"
        "136 27 0:55 / /srv/odd rw - nfs\n";

static void locks_of_an_ordinary_mount_pass(void **state)
{
        assert_true(mount_locks_pass(mountinfo, 27));
        assert_true(mount_locks_pass(mountinfo, 130));
}

static void local_locks_do_not_pass(void **state)
{
        assert_false(mount_locks_pass(mountinfo, 131));
        assert_false(mount_locks_pass(mountinfo, 133));
        assert_false(mount_locks_pass(mountinfo, 134));
}

static void options_count_for_their_own_file_system_only(void **state)
{
        assert_true(mount_locks_pass(mountinfo, 132)); /* flock() is not what is used */
        assert_true(mount_locks_pass(mountinfo, 135)); /* nobody else opens a local disk */
}

static void what_is_not_understood_passes(void **state)
{
        assert_true(mount_locks_pass(mountinfo, 136));
        assert_true(mount_locks_pass(mountinfo, 99));
        assert_true(mount_locks_pass("", 1));
}

static void this_machines_own_mount_is_found(void **state)
{
        assert_true(mount_fd_locks_pass(STDIN_FILENO));
        assert_true(mount_fd_locks_pass(-1));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(locks_of_an_ordinary_mount_pass),
                cmocka_unit_test(local_locks_do_not_pass),
                cmocka_unit_test(options_count_for_their_own_file_system_only),
                cmocka_unit_test(what_is_not_understood_passes),
                cmocka_unit_test(this_machines_own_mount_is_found),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
