/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent/config.h"
#include "agent/enrol.h"

static char path[] = "/tmp/drover-configXXXXXX";

static int load(const char *text, struct agent_config *ret, struct error **ret_error)
{
        FILE *f = fopen(path, "we");

        assert_non_null(f);
        assert_true(fputs(text, f) >= 0);
        assert_int_equal(fclose(f), 0);
        return agent_config_load(path, false, ret, ret_error);
}

static void refused(const char *text, const char *words)
{
        struct agent_config config = {0};
        struct error *error = NULL;

        assert_true(load(text, &config, &error) < 0);
        assert_non_null(strstr(error_message(error), words));
        assert_null(config.name);
        error_free(error);
}

static void test_values_replace_defaults(void **state)
{
        struct agent_config config;

        assert_int_equal(
                load("[agent]\nname = h7\nlisten = 192.0.2.1:9000\nstate-dir=/srv/state\nlog-level = debug\n",
                        &config, NULL),
                0);
        assert_string_equal(config.name, "h7");
        assert_string_equal(config.listen, "192.0.2.1:9000");
        assert_string_equal(config.state_dir, "/srv/state");
        assert_string_equal(config.runtime_dir, "/run/drover-agent");
        assert_null(config.migration_address);
        assert_int_equal(config.log_level, LOG_LEVEL_DEBUG);
        agent_config_deinit(&config);
}

static void test_missing_file_is_fine_only_if_optional(void **state)
{
        struct agent_config config;

        assert_int_equal(agent_config_load("/nonexistent/agent.conf", true, &config, NULL), 0);
        assert_string_equal(config.listen, "0.0.0.0:8444");
        agent_config_deinit(&config);
        assert_int_equal(agent_config_load("/nonexistent/agent.conf", false, &config, NULL), -ENOENT);
}

static void test_unknown_key_is_named_with_its_line(void **state)
{
        refused("[agent]\nname = a\nnmae = b\n", "line 3: unknown key 'nmae'");
}

static void test_unknown_section_is_refused(void **state)
{
        refused("[manager]\nname = a\n", "unknown section [manager]");
}

static void test_bad_values_are_refused(void **state)
{
        refused("[agent]\nname = a b\n", "name 'a b'");
        refused("[agent]\nstate-dir = relative\n", "absolute path");
        refused("[agent]\naccelerator = hvf\n", "auto, kvm or tcg");
        refused("[agent]\nlog-level = loud\n", "log-level");
        refused("[agent]\nlisten =\n", "has no value");
}

static void test_line_without_equals_sign_is_refused(void **state)
{
        refused("[agent]\nnonsense\n", "line 2");
}

#define FINGERPRINT "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static void test_token_is_split(void **state)
{
        char token[] = "drv1." FINGERPRINT ".s3cret";
        const char *fingerprint, *secret;

        assert_int_equal(enrol_parse_token(token, &fingerprint, &secret, NULL), 0);
        assert_string_equal(fingerprint, FINGERPRINT);
        assert_string_equal(secret, "s3cret");
}

static void test_malformed_tokens_are_refused(void **state)
{
        static const char *const bad[] = {"", "drv1.", "drv2." FINGERPRINT ".x", "drv1." FINGERPRINT,
                "drv1." FINGERPRINT ".", "drv1.00.x", "drv1.zz" FINGERPRINT ".x"};

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                const char *fingerprint, *secret;
                char token[128];

                (void)snprintf(token, sizeof(token), "%s", bad[i]);
                assert_int_equal(enrol_parse_token(token, &fingerprint, &secret, NULL), -EINVAL);
        }
}

static int make_file(void **state)
{
        int fd = mkstemp(path);

        return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
        return unlink(path);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_values_replace_defaults),
                cmocka_unit_test(test_missing_file_is_fine_only_if_optional),
                cmocka_unit_test(test_unknown_key_is_named_with_its_line),
                cmocka_unit_test(test_unknown_section_is_refused),
                cmocka_unit_test(test_bad_values_are_refused),
                cmocka_unit_test(test_line_without_equals_sign_is_refused),
                cmocka_unit_test(test_token_is_split),
                cmocka_unit_test(test_malformed_tokens_are_refused),
        };

        return cmocka_run_group_tests(tests, make_file, remove_file);
}
