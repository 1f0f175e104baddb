/* SPDX-License-Identifier: Apache-2.0 */

/* The VM document: what is accepted has to survive being written and read again unchanged, and has to give a
 * command line on any host that knows its files. */

#include <assert.h>
#include <string.h>

#include "base/doc.h"
#include "vmm/command_line.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_round_trip(const struct vm_config *config)
{
        _cleanup_json_ json_t *once = vm_config_to_json(config), *twice = NULL;
        _cleanup_(vm_config_freep) struct vm_config *again = NULL;
        int r = vm_config_from_json(once, &again, NULL);

        assert(r == 0);
        twice = vm_config_to_json(again);
        assert(json_equal(once, twice));
}

static void check_command_line(const struct vm_config *config)
{
        struct command_line_disk disks[VM_DISKS_MAX];
        struct command_line_nic nics[VM_NICS_MAX];
        struct command_line_env env = {.qemu_binary = "/q",
                .machine = "pc-i440fx-7.2",
                .accelerator = VM_ACCELERATOR_TCG,
                .cpu_model = "qemu64",
                .memory_bytes = config->memory_bytes,
                .disks = disks,
                .n_disks = config->n_disks,
                .nics = nics,
                .n_nics = config->n_nics,
                .cdrom_path = "/c",
                .kernel_path = "/k",
                .initrd_path = "/i",
                .ovmf_code_path = "/o",
                .nvram_path = "/n",
                .qmp_socket = "/m",
                .serial_socket = "/s",
                .serial_log = "/l",
                .guest_agent_socket = "/g"};
        _cleanup_(command_line_freep) char **argv = NULL;
        bool complete = config->uid != NULL;
        int r;

        if (vm_chipset_of(config->machine) == VM_CHIPSET_Q35)
                env.machine = "pc-q35-7.2";
        for (size_t i = 0; i < config->n_disks; i++)
                disks[i] = (struct command_line_disk){.path = config->disks[i].path};
        for (size_t i = 0; i < config->n_nics; i++) {
                nics[i] = (struct command_line_nic){.tap_fd = 4, .vhost_fd = -1};
                complete = complete && *config->nics[i].mac;
        }
        r = command_line_build(config, &env, &argv, NULL);
        assert(!complete == (r < 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_(vm_config_freep) struct vm_config *config = NULL;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *json = NULL;

        if (doc_parse((const char *)data, size, &json, NULL) < 0)
                return 0;
        if (vm_config_from_json(json, &config, &error) < 0) {
                assert(error && error->message && !config);
                return 0;
        }
        check_round_trip(config);
        check_command_line(config);
        return 0;
}
