/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/vm_spec.h"

#include <errno.h>

#include "base/doc.h"
#include "capture.h"

typedef int (*read_fn)(const char *, json_t **, struct error **);

static int read_kernel(const char *text, json_t **ret, struct error **ret_error)
{
        return vm_spec_file("kernel", text, ret, ret_error);
}

static void test_options_become_items_of_the_document(void **state)
{
        static const struct {
                read_fn read;
                const char *text;
                const char *expected;
        } cases[] = {
                {vm_spec_disk, "shared:10G", "{\"datastore\":\"shared\",\"size_bytes\":10737418240}"},
                {vm_spec_disk, "shared:web1/a.raw,format=raw,bus=scsi,read-only",
                        "{\"bus\":\"scsi\",\"datastore\":\"shared\",\"format\":\"raw\",\"path\":\"web1/"
                        "a.raw\","
                        "\"read_only\":true}"},
                {vm_spec_disk, "shared:new.qcow2,size=1M,name=root",
                        "{\"datastore\":\"shared\",\"name\":\"root\",\"path\":\"new.qcow2\",\"size_bytes\":"
                        "1048576}"},
                {vm_spec_nic, "default", "{\"port_group\":\"default\"}"},
                {vm_spec_nic, "lan,mac=52:54:00:12:34:56,model=e1000",
                        "{\"mac\":\"52:54:00:12:34:56\",\"model\":\"e1000\",\"port_group\":\"lan\"}"},
                {read_kernel, "shared:guests/vmlinuz",
                        "{\"datastore\":\"shared\",\"path\":\"guests/vmlinuz\"}"},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_json_ json_t *json = NULL;
                _cleanup_free_ char *text = NULL;

                assert_int_equal(cases[i].read(cases[i].text, &json, NULL), 0);
                text = doc_to_canonical_text(json);
                assert_string_equal(text, cases[i].expected);
        }
}

static void test_bad_options_are_refused_by_name(void **state)
{
        static const struct {
                read_fn read;
                const char *text;
                const char *message;
        } cases[] = {
                {vm_spec_disk, "10G", "--disk: '10G' names no datastore"},
                {vm_spec_disk, "shared:", "--disk: 'shared:' names no datastore"},
                {vm_spec_disk, "a/b:10G", "'a/b' is not a datastore's name"},
                {vm_spec_disk, "shared:../etc/passwd", "'../etc/passwd' is neither a size nor a path"},
                {vm_spec_disk, "shared:/dev/sda", "'/dev/sda' is neither"},
                {vm_spec_disk, "shared:1G,format=vmdk", "format is one of raw|qcow2, not 'vmdk'"},
                {vm_spec_disk, "shared:1G,format", "'format' needs a value"},
                {vm_spec_disk, "shared:1G,bus=virtio,bus=ide", "'bus' is given twice"},
                {vm_spec_disk, "shared:1G,size=2G", "'size' is given twice"},
                {vm_spec_disk, "shared:a,read-only=no", "'read-only' takes no value"},
                {vm_spec_disk, "shared:a,cache=none", "'cache' is not known here"},
                {vm_spec_disk, "shared:a,", "'' is not known here"},
                {vm_spec_nic, "", "'' is not a port group's name"},
                {vm_spec_nic, "lan,mac=52:54:00:12:34", "'52:54:00:12:34' is not a MAC"},
                {vm_spec_nic, "lan,mac=52:54:00:12:34:5g", "is not a MAC"},
                {vm_spec_nic, "lan,model=rtl", "model is one of virtio|e1000|rtl8139"},
                {read_kernel, "vmlinuz", "--kernel: 'vmlinuz' names no datastore"},
                {read_kernel, "shared:a/../b", "--kernel: 'a/../b' is not a path"},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_error_ struct error *error = NULL;
                json_t *json = NULL;

                assert_int_equal(cases[i].read(cases[i].text, &json, &error), -EINVAL);
                assert_null(json);
                assert_contains(error->message, cases[i].message);
                assert_non_null(error->hint);
        }
}

static int request(const char *const *argv, int argc, json_t **ret, struct error **ret_error)
{
        struct arguments arguments;
        int r = arguments_parse(&arguments, argc, argv, ret_error);

        return r < 0 ? r : vm_spec_request(&arguments, ret, ret_error);
}

static void test_create_makes_the_whole_document(void **state)
{
        static const char *argv[] = {"drover", "vm", "create", "web1", "--memory", "1G", "--cpus", "2",
                "--disk", "shared:1G", "--net", "default", "--kernel", "shared:k", "--append",
                "console=ttyS0", "--cdrom", "shared:a.iso", "--label", "tier=web", "--firmware", "uefi",
                "--host", "host1", "--start", NULL};
        _cleanup_json_ json_t *json = NULL;
        _cleanup_free_ char *text = NULL;

        assert_int_equal(request(argv, ARRAY_SIZE(argv) - 1, &json, NULL), 0);
        text = doc_to_canonical_text(json);
        assert_string_equal(text, "{\"host\":\"host1\",\"name\":\"web1\",\"spec\":{\"boot\":{\"append\":"
                                  "\"console=ttyS0\",\"kernel\":"
                                  "{\"datastore\":\"shared\",\"path\":\"k\"}},\"cdrom\":{\"datastore\":"
                                  "\"shared\",\"path\":\"a.iso\"},"
                                  "\"cpus\":2,\"disks\":[{\"datastore\":\"shared\",\"size_bytes\":1073741824}"
                                  "],\"firmware\":\"uefi\","
                                  "\"labels\":{\"tier\":\"web\"},\"memory_bytes\":1073741824,\"nics\":[{"
                                  "\"port_group\":\"default\"}]},"
                                  "\"start\":true}");
}

static void test_create_refuses_what_cannot_be_meant(void **state)
{
        static const struct {
                const char *option;
                const char *value;
                const char *message;
        } cases[] = {
                {"--append", "quiet", "--append is for a kernel"},
                {"--initrd", "shared:i", "--initrd is for a kernel"},
                {"--label", "tier", "--label: 'tier' is not a label"},
                {"--label", "a b=c", "--label: 'a b' is not a name"},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const char *argv[] = {"drover", "vm", "create", "web1", "--memory", "1G", cases[i].option,
                        cases[i].value, NULL};
                _cleanup_error_ struct error *error = NULL;
                json_t *json = NULL;

                assert_int_equal(request(argv, ARRAY_SIZE(argv) - 1, &json, &error), -EINVAL);
                assert_null(json);
                assert_contains(error->message, cases[i].message);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_options_become_items_of_the_document),
                cmocka_unit_test(test_bad_options_are_refused_by_name),
                cmocka_unit_test(test_create_makes_the_whole_document),
                cmocka_unit_test(test_create_refuses_what_cannot_be_meant),
        };

        return cmocka_run_group_tests_name("cli-vm-spec", tests, NULL, NULL);
}
