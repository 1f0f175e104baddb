/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/drives.h"

static void q35_has_six_sata_ports_and_no_ide(void **state)
{
        assert_int_equal(drives_check(&(struct drives){.machine = "q35", .n_sata = 6}, NULL), 0);
        assert_true(drives_check(&(struct drives){.machine = "q35", .n_sata = 7}, NULL) < 0);
        assert_true(drives_check(&(struct drives){.machine = "q35", .n_sata = 6, .cdrom = true}, NULL) < 0);
        assert_true(drives_check(&(struct drives){.machine = "pc-q35-7.2", .n_ide = 1}, NULL) < 0);
}

static void pc_has_four_ide_ports_and_the_cdrom_takes_one(void **state)
{
        assert_int_equal(drives_check(&(struct drives){.machine = "pc", .n_ide = 4}, NULL), 0);
        assert_true(drives_check(&(struct drives){.machine = "pc", .n_ide = 4, .cdrom = true}, NULL) < 0);
        assert_int_equal(
                drives_check(
                        &(struct drives){.machine = "pc-i440fx-9.0", .n_ide = 3, .n_sata = 6, .cdrom = true},
                        NULL),
                0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(q35_has_six_sata_ports_and_no_ide),
                cmocka_unit_test(pc_has_four_ide_ports_and_the_cdrom_takes_one),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
