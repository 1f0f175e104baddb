/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/doc.h"
#include "base/torture.h"
#include "vmm/vm_config.h"

/* Documents in the tests are written with ' for ". */
static json_t *parse(const char *text)
{
        char copy[16384];
        json_t *json;

        assert_true(strlen(text) < sizeof(copy));
        memcpy(copy, text, strlen(text) + 1);
        for (char *c = copy; *c; c++)
                if (*c == '\'')
                        *c = '"';
        json = json_loads(copy, 0, NULL);
        assert_non_null(json);
        return json;
}

static struct vm_config *accept(const char *text)
{
        _cleanup_json_ json_t *json = parse(text);
        struct error *error = NULL;
        struct vm_config *config = NULL;

        if (vm_config_from_json(json, &config, &error) < 0)
                fail_msg("%s", error_message(error));
        return config;
}

/* The document is refused, and the message says `words`. */
static void refuse(const char *text, const char *words)
{
        _cleanup_json_ json_t *json = parse(text);
        _cleanup_error_ struct error *error = NULL;
        struct vm_config *config = NULL;

        assert_true(vm_config_from_json(json, &config, &error) < 0);
        assert_null(config);
        assert_int_equal(error->code, ERROR_BAD_DOCUMENT);
        if (!strstr(error_message(error), words))
                fail_msg("\"%s\" does not say \"%s\"", error_message(error), words);
}

#define VM(spec) "{'name': 'v', 'spec': {'memory_bytes': 16777216, 'datastore': 'd'" spec "}}"
#define EVERYTHING \
        "{'kind': 'vm', 'name': 'web1', 'uid': '6f1c2f6e-5a1b-4c3d-8e2f-0123456789ab', 'revision': 7, " \
        "'spec': {" \
        "'cpus': 2, 'memory_bytes': 1073741824, 'machine': 'pc', 'cpu_model': 'Nehalem,+aes', " \
        "'accelerator': 'tcg'," \
        "'firmware': 'uefi', 'datastore': 'shared', 'boot': {'kernel': {'datastore': 'shared', 'path': " \
        "'g/k'}," \
        "'initrd': {'datastore': 'shared', 'path': 'g/i'}, 'append': 'console=ttyS0'}," \
        "'disks': [{'name': 'disk0', 'datastore': 'shared', 'path': 'web1/disk0.raw', 'size_bytes': " \
        "1048576," \
        "'format': 'raw', 'bus': 'ide', 'read_only': false}], 'cdrom': {'datastore': 'iso', 'path': " \
        "'debian.iso'}," \
        "'nics': [{'port_group': 'default', 'mac': '52:54:00:12:34:56', 'model': 'rtl8139'}]," \
        "'rng': false, 'balloon': true, 'free_page_reporting': true, 'guest_agent': false, " \
        "'labels': {'tier': 'web'}}," \
        "'status': {'power': 'outgoing-done', 'host': 'host1', 'owner_epoch': 3, 'machine': " \
        "'pc-i440fx-7.2'," \
        "'cpu_model': 'Nehalem,+aes', 'accelerator': 'tcg', 'memory_effective_bytes': 1073750016," \
        "'qemu_version': '7.2.22', 'message': 'all is well'}}"

static void complete_document_survives_the_round_trip(void **state)
{
        _cleanup_(vm_config_freep) struct vm_config *config = accept(EVERYTHING);
        _cleanup_json_ json_t *before = parse(EVERYTHING), *after = vm_config_to_json(config);

        assert_true(json_equal(before, after));
}

static void defaults_are_filled_in(void **state)
{
        _cleanup_(vm_config_freep) struct vm_config *config =
                accept("{'name': 'v', 'spec': {'memory_bytes': 16777216, 'nics': [{'port_group': 'p'}],"
                       "'disks': [{'datastore': 'd1'}, {'datastore': 'd2', 'format': 'raw'}, {}]}}");

        assert_int_equal(config->cpus, 1);
        assert_string_equal(config->machine, "q35");
        assert_string_equal(config->cpu_model, "auto");
        assert_int_equal(config->accelerator, VM_ACCELERATOR_AUTO);
        assert_string_equal(config->datastore, "d1");
        assert_string_equal(config->disks[0].name, "disk0");
        assert_string_equal(config->disks[0].path, "v/disk0.qcow2");
        assert_int_equal(config->disks[0].bus, VM_BUS_VIRTIO);
        assert_string_equal(config->disks[1].datastore, "d2");
        assert_string_equal(config->disks[1].path, "v/disk1.raw");
        assert_string_equal(config->disks[2].datastore, "d1");
        assert_int_equal(config->nics[0].model, VM_NIC_VIRTIO);
        assert_string_equal(config->nics[0].mac, "");
        assert_true(config->rng && config->balloon && config->guest_agent);
        assert_false(config->has_status);
}

static void mac_addresses_are_made_lower_case(void **state)
{
        _cleanup_(vm_config_freep) struct vm_config *config =
                accept(VM(",'nics': [{'port_group': 'p', 'mac': '52:54:00:AB:CD:EF'}]"));

        assert_string_equal(config->nics[0].mac, "52:54:00:ab:cd:ef");
}

static void unknown_fields_are_refused_at_every_level(void **state)
{
        refuse("{'name': 'v', 'nam': 1, 'spec': {'memory_bytes': 16777216}}", "nam");
        refuse(VM(",'cpu': 2"), "spec.cpu");
        refuse(VM(",'boot': {'kern': {}}"), "spec.boot.kern");
        refuse(VM(",'boot': {'kernel': {'path': 'k', 'x': 1}}"), "spec.boot.kernel.x");
        refuse(VM(",'disks': [{}, {'size': 1}]"), "spec.disks[1].size");
        refuse(VM(",'nics': [{'port_group': 'p', 'vlan': 3}]"), "spec.nics[0].vlan");
        refuse("{'name': 'v', 'spec': {'memory_bytes': 16777216, 'datastore': 'd'}, 'status': {'x': 1}}",
                "status.x");
}

static void wrong_types_are_refused(void **state)
{
        refuse("[]", "object");
        refuse("{'name': 7, 'spec': {}}", "name");
        refuse("{'name': 'v', 'spec': []}", "spec");
        refuse(VM(",'cpus': '2'"), "spec.cpus");
        refuse(VM(",'disks': {}"), "spec.disks");
        refuse(VM(",'disks': [7]"), "spec.disks[0]");
        refuse(VM(",'nics': [[]]"), "spec.nics[0]");
        refuse(VM(",'rng': 1"), "spec.rng");
        refuse(VM(",'labels': {'a': 1}"), "spec.labels.a");
        refuse(VM(",'free_page_reporting': 1"), "spec.free_page_reporting");
        refuse(VM(",'balloon': false, 'free_page_reporting': true"), "needs the balloon");
}

static void what_is_needed_is_named(void **state)
{
        refuse("{'spec': {'memory_bytes': 16777216}}", "name");
        refuse("{'name': 'v'}", "spec");
        refuse("{'name': 'v', 'spec': {'datastore': 'd'}}", "spec.memory_bytes");
        refuse("{'name': 'v', 'spec': {'memory_bytes': 16777216}}", "spec.datastore");
        refuse(VM(",'nics': [{}]"), "spec.nics[0].port_group");
        refuse(VM(",'cdrom': {}"), "spec.cdrom.path");
        refuse(VM(",'boot': {'append': 'x'}"), "spec.boot.kernel");
}

static void numbers_out_of_range_are_refused(void **state)
{
        refuse(VM(",'cpus': 0"), "spec.cpus");
        refuse(VM(",'cpus': 256"), "spec.cpus");
        refuse("{'name': 'v', 'spec': {'datastore': 'd', 'memory_bytes': 16777217}}", "multiple of 4096");
        refuse("{'name': 'v', 'spec': {'datastore': 'd', 'memory_bytes': 4096}}", "spec.memory_bytes");
        refuse("{'name': 'v', 'spec': {'datastore': 'd', 'memory_bytes': -4096}}", "spec.memory_bytes");
        refuse("{'name': 'v', 'spec': {'datastore': 'd', 'memory_bytes': 17592186048512}}",
                "spec.memory_bytes");
        refuse(VM(",'disks': [{'size_bytes': 513}]"), "multiple of 512");
}

static void names_and_paths_that_could_escape_are_refused(void **state)
{
        refuse("{'name': '../x', 'spec': {'memory_bytes': 16777216}}", "name");
        refuse("{'name': 'a,b', 'spec': {'memory_bytes': 16777216}}", "name");
        refuse(VM(",'disks': [{'name': 'a b'}]"), "spec.disks[0].name");
        refuse(VM(",'disks': [{'path': '/etc/passwd'}]"), "spec.disks[0].path");
        refuse(VM(",'disks': [{'path': 'a/../../b'}]"), "spec.disks[0].path");
        refuse(VM(",'cdrom': {'path': '../x'}"), "spec.cdrom.path");
        refuse(VM(",'cdrom': {'path': 'x', 'datastore': '..'}"), "spec.cdrom.datastore");
        refuse("{'name': 'v', 'uid': 'x', 'spec': {'memory_bytes': 16777216}}", "uid");
}

static void options_cannot_be_smuggled_into_machine_or_cpu(void **state)
{
        refuse(VM(",'machine': 'q35,accel=kvm'"), "spec.machine");
        refuse(VM(",'machine': 'microvm'"), "spec.machine");
        refuse(VM(",'machine': 'pc-q35-'"), "spec.machine");
        refuse(VM(",'cpu_model': 'max,enforce'"), "spec.cpu_model");
        refuse(VM(",'cpu_model': 'max,+'"), "spec.cpu_model");
        refuse(VM(",'cpu_model': ''"), "spec.cpu_model");
        refuse(VM(",'cpu_model': 'max,'"), "spec.cpu_model");
        assert_true(vm_cpu_model_is_valid("Skylake-Server-v4,+pcid,-vmx"));
        assert_true(vm_machine_is_valid("pc-q35-10.0"));
}

static void duplicates_are_refused(void **state)
{
        refuse(VM(",'disks': [{'name': 'a'}, {'name': 'b'}, {'name': 'a', 'path': 'x'}]"),
                "spec.disks[0] and spec.disks[2] are both named a");
        refuse(VM(",'disks': [{'path': 'x'}, {'path': 'x'}]"), "both the image x on d");
        refuse(VM(",'nics': [{'port_group': 'p', 'mac': '52:54:00:00:00:0a'},"
                  "{'port_group': 'q', 'mac': '52:54:00:00:00:0A'}]"),
                "both have the MAC address 52:54:00:00:00:0a");
}

static void same_path_on_two_datastores_is_no_duplicate(void **state)
{
        _cleanup_(vm_config_freep) struct vm_config *config =
                accept(VM(",'disks': [{'path': 'x'}, {'path': 'x', 'datastore': 'e'}]"));

        assert_int_equal(config->n_disks, 2);
}

static void addresses_that_no_nic_can_have_are_refused(void **state)
{
        static const char *const macs[] = {"", "52:54:00:12:34", "52-54-00-12-34-56", "01:00:5e:00:00:01",
                "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "52:54:00:12:34:5g", "52:54:00:12:34:567"};
        char ret[VM_MAC_SIZE] = "untouched";

        for (size_t i = 0; i < ARRAY_SIZE(macs); i++)
                assert_false(vm_mac_normalise(macs[i], ret));
        assert_string_equal(ret, "untouched");
}

static void bus_has_to_go_with_the_machine(void **state)
{
        refuse(VM(",'disks': [{'bus': 'ide'}]"), "no IDE controller");
        refuse(VM(",'machine': 'pc-q35-7.2', 'disks': [{'bus': 'ide'}]"), "no IDE controller");
        vm_config_free(accept(VM(",'machine': 'pc', 'disks': [{'bus': 'ide'}]")));
        refuse(VM(",'disks': [{'bus': 'sata', 'read_only': true}]"), "read_only");
        refuse(VM(",'disks': [{'bus': 'usb'}]"), "spec.disks[0].bus");
}

static void controllers_take_no_more_than_they_have_ports(void **state)
{
        refuse(VM(",'machine': 'pc', 'cdrom': {'path': 'i'},"
                  "'disks': [{'bus': 'ide'}, {'bus': 'ide'}, {'bus': 'ide'}, {'bus': 'ide'}]"),
                "IDE controller takes 4");
        vm_config_free(
                accept(VM(",'machine': 'pc',"
                          "'disks': [{'bus': 'ide'}, {'bus': 'ide'}, {'bus': 'ide'}, {'bus': 'ide'}]")));
        refuse(VM(",'cdrom': {'path': 'i'}, 'disks': [{'bus': 'sata'}, {'bus': 'sata'}, {'bus': 'sata'},"
                  "{'bus': 'sata'}, {'bus': 'sata'}, {'bus': 'sata'}]"),
                "SATA controller takes 6");
}

static void too_many_disks_are_refused(void **state)
{
        _cleanup_json_ json_t *json = parse(VM(",'disks': []"));
        json_t *disks = json_object_get(json_object_get(json, "spec"), "disks");
        _cleanup_error_ struct error *error = NULL;
        struct vm_config *config = NULL;

        for (int i = 0; i < VM_DISKS_MAX + 1; i++)
                json_array_append_new(disks, json_object());
        assert_int_equal(vm_config_from_json(json, &config, &error), -EINVAL);
        json_array_remove(disks, 0);
        assert_int_equal(vm_config_from_json(json, &config, NULL), 0);
        vm_config_free(config);
}

static void status_with_an_unversioned_machine_is_refused(void **state)
{
        refuse("{'name': 'v', 'spec': {'memory_bytes': 16777216, 'datastore': 'd'}, 'status': {'machine': "
               "'q35'}}",
                "status.machine");
}

#ifdef DROVER_TORTURE
static void every_allocation_may_fail(void **state)
{
        _cleanup_json_ json_t *json = parse(EVERYTHING);

        for (uint64_t nth = 1;; nth++) {
                struct vm_config *config = NULL;
                json_t *back = NULL;
                int r;

                torture_arm(nth);
                r = vm_config_from_json(json, &config, NULL);
                if (r == 0)
                        back = vm_config_to_json(config);
                if (torture_count() < nth) {
                        torture_arm(0);
                        assert_non_null(back);
                        json_decref(back);
                        vm_config_free(config);
                        return;
                }
                torture_arm(0);
                assert_null(back);
                assert_true(r == 0 || !config);
                vm_config_free(config);
        }
}
#endif

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(complete_document_survives_the_round_trip),
                cmocka_unit_test(defaults_are_filled_in),
                cmocka_unit_test(mac_addresses_are_made_lower_case),
                cmocka_unit_test(unknown_fields_are_refused_at_every_level),
                cmocka_unit_test(wrong_types_are_refused),
                cmocka_unit_test(what_is_needed_is_named),
                cmocka_unit_test(numbers_out_of_range_are_refused),
                cmocka_unit_test(names_and_paths_that_could_escape_are_refused),
                cmocka_unit_test(options_cannot_be_smuggled_into_machine_or_cpu),
                cmocka_unit_test(duplicates_are_refused),
                cmocka_unit_test(same_path_on_two_datastores_is_no_duplicate),
                cmocka_unit_test(addresses_that_no_nic_can_have_are_refused),
                cmocka_unit_test(bus_has_to_go_with_the_machine),
                cmocka_unit_test(controllers_take_no_more_than_they_have_ports),
                cmocka_unit_test(too_many_disks_are_refused),
                cmocka_unit_test(status_with_an_unversioned_machine_is_refused),
#ifdef DROVER_TORTURE
                cmocka_unit_test(every_allocation_may_fail),
#endif
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
