/* SPDX-License-Identifier: Apache-2.0 */
/* Golden test: golden/NAME.json (a VM document) gives golden/NAME.argv (an argument a line). After a wanted
 * change run the program with DROVER_UPDATE_GOLDEN=1 and look at the difference before committing it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"
#include "base/torture.h"
#include "io/file.h"
#include "vmm/command_line.h"

#define FILE_MAX (256 << 10)

static bool update;

struct fixture {
        struct vm_config *config;
        struct command_line_env env;
        struct command_line_disk disks[VM_DISKS_MAX];
        struct command_line_nic nics[VM_NICS_MAX];
        char paths[VM_DISKS_MAX][512];
};

/* A host as the agent of host1 might describe it. */
static void fill_env(struct fixture *f)
{
        const struct vm_config *config = f->config;

        for (size_t i = 0; i < config->n_disks; i++) {
                snprintf(f->paths[i], sizeof(f->paths[i]), "/datastores/%s/%s", config->disks[i].datastore,
                        config->disks[i].path);
                f->disks[i] = (struct command_line_disk){.path = f->paths[i], .direct = i % 2 == 0};
        }
        for (size_t i = 0; i < config->n_nics; i++)
                f->nics[i] =
                        (struct command_line_nic){.tap_fd = 20 + 2 * (int)i, .vhost_fd = i == 0 ? 21 : -1};
        f->env = (struct command_line_env){
                .qemu_binary = "/usr/bin/qemu-system-x86_64",
                .machine = vm_chipset_of(config->machine) == VM_CHIPSET_Q35 ? "pc-q35-7.2" : "pc-i440fx-7.2",
                .accelerator = VM_ACCELERATOR_TCG,
                .cpu_model = strcmp(config->cpu_model, "auto") ? config->cpu_model : "qemu64",
                .memory_bytes = command_line_effective_memory(config->memory_bytes, VM_ACCELERATOR_TCG, 7),
                .disks = f->disks,
                .n_disks = config->n_disks,
                .nics = f->nics,
                .n_nics = config->n_nics,
                .cdrom_path = "/datastores/shared/iso/a, b.iso",
                .kernel_path = "/datastores/shared/guests/vmlinuz",
                .initrd_path = "/datastores/shared/guests/initrd",
                .ovmf_code_path = "/usr/share/OVMF/OVMF_CODE_4M.fd",
                .nvram_path = "/datastores/shared/web1/nvram.fd",
                .qmp_socket = "/run/drover/vm/qmp.sock",
                .serial_socket = "/run/drover/vm/serial.sock",
                .serial_log = "/datastores/shared/a, b/serial.log",
                .vnc_socket = "/run/drover/vm/vnc.sock",
                .guest_agent_socket = "/run/drover/vm/agent.sock",
                .sandbox = true,
        };
}

static void load(struct fixture *f, const char *name)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s.json", GOLDEN_DIR, name);
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *json = NULL;
        struct error *error = NULL;
        size_t len;

        assert_int_equal(file_read(path, FILE_MAX, &text, &len), 0);
        assert_int_equal(doc_parse(text, len, &json, NULL), 0);
        if (vm_config_from_json(json, &f->config, &error) < 0)
                fail_msg("%s", error_message(error));
        fill_env(f);
}

static int setup(void **state)
{
        *state = calloc(1, sizeof(struct fixture));
        return *state ? 0 : -1;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        vm_config_free(f->config);
        free(f);
        return 0;
}

static char **build(struct fixture *f)
{
        struct error *error = NULL;
        char **argv = NULL;

        if (command_line_build(f->config, &f->env, &argv, &error) < 0)
                fail_msg("%s", error_message(error));
        return argv;
}

static char *join(char **argv, const char *only)
{
        struct buf text;

        buf_init(&text, FILE_MAX);
        for (; *argv; argv++) {
                if (!only)
                        assert_int_equal(buf_printf(&text, "%s\n", *argv), 0);
                else if (!strcmp(argv[0], only))
                        assert_int_equal(buf_printf(&text, "%s\n", argv[1]), 0);
        }
        return buf_take_string(&text);
}

static void check_golden(struct fixture *f, const char *name)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s.argv", GOLDEN_DIR, name);
        _cleanup_free_ char *got = NULL, *expected = NULL;
        _cleanup_(command_line_freep) char **argv = NULL;

        load(f, name);
        argv = build(f);
        got = join(argv, NULL);
        if (update)
                assert_int_equal(file_write_atomic(path, got, strlen(got), 0644), 0);
        assert_int_equal(file_read(path, FILE_MAX, &expected, NULL), 0);
        assert_string_equal(got, expected);
}

static void q35_with_everything(void **state)
{
        check_golden(*state, "q35-everything");
}

static void pc_with_legacy_buses(void **state)
{
        check_golden(*state, "pc-legacy");
}

static void q35_with_direct_kernel(void **state)
{
        check_golden(*state, "q35-direct-kernel");
}

static void destination_has_the_same_devices_on_another_host(void **state)
{
        _cleanup_(command_line_freep) char **source = NULL, **destination = NULL;
        _cleanup_free_ char *source_devices = NULL, *destination_devices = NULL;
        struct fixture *f = *state;

        load(f, "q35-everything");
        source = build(f);
        for (size_t i = 0; i < f->config->n_disks; i++)
                f->disks[i] = (struct command_line_disk){.path = "/mnt/other/disk", .direct = i % 2};
        f->nics[0].tap_fd = 33;
        f->nics[0].vhost_fd = -1;
        f->env.vnc_socket = NULL;
        f->env.incoming = true;
        destination = build(f);
        source_devices = join(source, "-device");
        destination_devices = join(destination, "-device");
        assert_string_equal(source_devices, destination_devices);
}

static void most_disks_and_nics_have_places_of_their_own(void **state)
{
        static const char *const machines[] = {"pc-q35-7.2", "pc-i440fx-7.2"};

        for (size_t m = 0; m < ARRAY_SIZE(machines); m++) {
                _cleanup_json_ json_t *disks = json_array(), *nics = json_array(), *json = NULL;
                _cleanup_(command_line_freep) char **argv = NULL;
                void *own = NULL;
                struct fixture *f;
                char mac[VM_MAC_SIZE];

                setup(&own);
                f = own;
                for (size_t i = 0; i < VM_DISKS_MAX; i++)
                        json_array_append_new(disks, json_object());
                for (size_t i = 0; i < VM_NICS_MAX; i++) {
                        snprintf(mac, sizeof(mac), "52:54:00:00:00:%02zx", i);
                        json_array_append_new(nics, json_pack("{s:s,s:s}", "port_group", "p", "mac", mac));
                }
                json = json_pack("{s:s,s:s,s:{s:I,s:s,s:s,s:O,s:O}}", "name", "big", "uid",
                        "6f1c2f6e-5a1b-4c3d-8e2f-0123456789ad", "spec", "memory_bytes", (json_int_t)1 << 30,
                        "machine", machines[m], "datastore", "d", "disks", disks, "nics", nics);
                assert_int_equal(vm_config_from_json(json, &f->config, NULL), 0);
                fill_env(f);
                argv = build(f);
                for (char **a = argv; *a; a++) {
                        const char *at = strstr(*a, "\"bus\":");

                        for (char **b = a + 1; at && *b; b++) /* "bus" and "addr" end each device */
                                assert_true(!strstr(*b, "\"bus\":") || strcmp(at, strstr(*b, "\"bus\":")));
                }
                teardown(&own);
        }
}

static void tcg_before_9_avoids_multiples_of_256_kib(void **state)
{
        assert_int_equal(command_line_effective_memory(1 << 20, VM_ACCELERATOR_TCG, 7), (1 << 20) + 8192);
        assert_int_equal(
                command_line_effective_memory((1 << 20) + 4096, VM_ACCELERATOR_TCG, 7), (1 << 20) + 4096);
        assert_int_equal(command_line_effective_memory(1 << 20, VM_ACCELERATOR_TCG, 9), 1 << 20);
        assert_int_equal(command_line_effective_memory(1 << 20, VM_ACCELERATOR_KVM, 7), 1 << 20);
}

static void nic_without_address_is_refused(void **state)
{
        struct fixture *f = *state;
        char **argv = NULL;

        load(f, "q35-everything");
        f->config->nics[1].mac[0] = 0;
        assert_int_equal(command_line_build(f->config, &f->env, &argv, NULL), -EINVAL);
        assert_null(argv);
}

static void recorded_machine_of_the_other_chipset_is_refused(void **state)
{
        _cleanup_error_ struct error *error = NULL;
        struct fixture *f = *state;
        char **argv = NULL;

        load(f, "q35-everything");
        f->env.machine = "pc-i440fx-7.2";
        assert_int_equal(command_line_build(f->config, &f->env, &argv, &error), -EINVAL);
        assert_int_equal(error->code, ERROR_BAD_DOCUMENT);
}

static void missing_path_is_refused(void **state)
{
        struct fixture *f = *state;
        char **argv = NULL;

        load(f, "q35-everything");
        f->env.nvram_path = NULL;
        assert_int_equal(command_line_build(f->config, &f->env, &argv, NULL), -EIO);
}

#ifdef DROVER_TORTURE
static void every_allocation_may_fail(void **state)
{
        struct fixture *f = *state;
        bool over = false;

        load(f, "q35-everything");
        for (uint64_t nth = 1; !over; nth++) {
                char **argv = NULL;
                int r;

                torture_arm(nth);
                r = command_line_build(f->config, &f->env, &argv, NULL);
                over = torture_count() < nth;
                torture_arm(0);
                assert_int_equal(r, over ? 0 : -ENOMEM);
                assert_true(!argv == !over);
                command_line_free(argv);
        }
}
#endif

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                CASE(q35_with_everything),
                CASE(pc_with_legacy_buses),
                CASE(q35_with_direct_kernel),
                CASE(destination_has_the_same_devices_on_another_host),
                CASE(most_disks_and_nics_have_places_of_their_own),
                CASE(tcg_before_9_avoids_multiples_of_256_kib),
                CASE(nic_without_address_is_refused),
                CASE(recorded_machine_of_the_other_chipset_is_refused),
                CASE(missing_path_is_refused),
#ifdef DROVER_TORTURE
                CASE(every_allocation_may_fail),
#endif
        };

        update = getenv("DROVER_UPDATE_GOLDEN") != NULL;
        return cmocka_run_group_tests(tests, NULL, NULL);
}
