/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/mac.h"

static void test_parse_and_format_round_trip(void **state)
{
        uint8_t mac[MAC_SIZE];
        char text[MAC_STRING_SIZE];

        assert_int_equal(mac_parse("52:54:00:AB:cd:09", mac), 0);
        assert_string_equal(mac_format(mac, text), "52:54:00:ab:cd:09");
        assert_int_equal(mac_parse("52-54-00-ab-cd-09", mac), 0);
        assert_string_equal(mac_format(mac, text), "52:54:00:ab:cd:09");
}

static void test_parse_refuses_what_is_no_mac(void **state)
{
        static const char *const bad[] = {"", "52:54:00:ab:cd", "52:54:00:ab:cd:0", "52:54:00:ab:cd:0g",
                "52:54:00:ab:cd:09 ", " 52:54:00:ab:cd:09", "52:54-00:ab:cd:09", "525400abcd09",
                "52:54:00:ab:cd:09:", "52.54.00.ab.cd.09", "+2:54:00:ab:cd:09"};
        uint8_t mac[MAC_SIZE] = {1, 2, 3, 4, 5, 6};

        assert_int_equal(mac_parse(NULL, mac), -EINVAL);
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
                assert_int_equal(mac_parse(bad[i], mac), -EINVAL);
        assert_memory_equal(mac, ((uint8_t[]){1, 2, 3, 4, 5, 6}), MAC_SIZE);
}

static void test_group_and_zero_addresses_are_not_for_a_nic(void **state)
{
        uint8_t mac[MAC_SIZE];

        assert_int_equal(mac_parse("00:00:00:00:00:00", mac), 0);
        assert_false(mac_is_unicast(mac));
        assert_int_equal(mac_parse("01:00:5e:00:00:01", mac), 0);
        assert_false(mac_is_unicast(mac));
        assert_int_equal(mac_parse("ff:ff:ff:ff:ff:ff", mac), 0);
        assert_false(mac_is_unicast(mac));
        assert_int_equal(mac_parse("52:54:00:00:00:01", mac), 0);
        assert_true(mac_is_unicast(mac));
        assert_true(mac_is_generated(mac));
        assert_int_equal(mac_parse("52:54:01:00:00:01", mac), 0);
        assert_false(mac_is_generated(mac));
}

struct taken {
        const char *const *macs; /* NULL-terminated; NULL: all are taken */
        size_t n_asked;
};

static bool is_taken(void *userdata, const char *mac)
{
        struct taken *taken = userdata;

        taken->n_asked++;
        for (size_t i = 0; taken->macs && taken->macs[i]; i++)
                if (!strcmp(taken->macs[i], mac))
                        return true;
        return !taken->macs;
}

static const char *next(uint32_t hint, const char *const *macs)
{
        static char text[MAC_STRING_SIZE];
        struct taken taken = {.macs = macs};
        uint8_t mac[MAC_SIZE];

        assert_int_equal(mac_next_free(hint, is_taken, &taken, mac), 0);
        return mac_format(mac, text);
}

static void test_next_free_skips_what_is_taken(void **state)
{
        static const char *const macs[] = {"52:54:00:00:00:06", "52:54:00:00:00:07", NULL};

        assert_string_equal(next(5, macs), "52:54:00:00:00:08");
}

static void test_next_free_goes_on_after_the_hint_and_wraps(void **state)
{
        static const char *const none[] = {NULL};
        static const char *const last[] = {"52:54:00:ff:ff:ff", NULL};

        assert_string_equal(next(0, none), "52:54:00:00:00:01");
        assert_string_equal(next(0x123456, none), "52:54:00:12:34:57");
        assert_string_equal(next(0xfffffe, none), "52:54:00:ff:ff:ff");
        assert_string_equal(next(0xfffffe, last), "52:54:00:00:00:01");
        assert_string_equal(next(0xffffffff, none), "52:54:00:00:00:01");
}

static void test_next_free_ends_when_all_are_taken(void **state)
{
        struct taken taken = {};
        uint8_t mac[MAC_SIZE];

        assert_int_equal(mac_next_free(77, is_taken, &taken, mac), -ENOSPC);
        assert_int_equal(taken.n_asked, 0xffffff);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_parse_and_format_round_trip),
                cmocka_unit_test(test_parse_refuses_what_is_no_mac),
                cmocka_unit_test(test_group_and_zero_addresses_are_not_for_a_nic),
                cmocka_unit_test(test_next_free_skips_what_is_taken),
                cmocka_unit_test(test_next_free_goes_on_after_the_hint_and_wraps),
                cmocka_unit_test(test_next_free_ends_when_all_are_taken),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
