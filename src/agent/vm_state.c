/* SPDX-License-Identifier: Apache-2.0 */

/* The runtime file RUNTIME-DIR/vms/UID.json: what an agent that starts again needs to find a VM's QEMU. It lives no
 * longer than the processes it names (a tmpfs). {"format": 1, "document": VM document with status, "pid": N (0: none),
 * "start_time": N, "n_resets": N, "taps": [NAME, ...], "suspend_paused": B, "restoring": POWER (restore_before; absent: not),
 * "restore_epoch": N, "restore_continuing": B (see vm.h)}. */

#include <errno.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/vm_job.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "io/file.h"

#define STATE_MAX_BYTES (1 << 20)

static char *state_path(const struct vm *vm)
{
        return alloc_printf("%s/vms/%s.json", vm->agent->config.runtime_dir, vm->uid);
}

static json_t *state_to_json(const struct vm *vm)
{
        _cleanup_json_ json_t *document = vm_document(vm);
        _cleanup_json_ json_t *taps = json_array();

        if (!document || !taps)
                return NULL;
        for (size_t i = 0; i < vm->n_taps; i++) {
                if (json_array_append_new(taps, json_string(vm->taps[i].name)) < 0)
                        return NULL;
        }
        return json_pack("{s:i, s:O, s:I, s:I, s:I, s:O, s:b, s:I, s:b, s:s*}", "format", 1, "document",
                document, "pid", (json_int_t)vm->pid, "start_time", (json_int_t)vm->start_time, "n_resets",
                (json_int_t)vm->n_resets, "taps", taps, "suspend_paused", vm->suspend_paused, "restore_epoch",
                (json_int_t)vm->restore_epoch, "restore_continuing", vm->restore_continuing, "restoring",
                vm->restoring ? vm_power_to_string(vm->restore_before) : NULL);
}

int vm_state_write(const struct vm *vm, struct error **ret_error)
{
        _cleanup_json_ json_t *state = state_to_json(vm);
        _cleanup_free_ char *path = state_path(vm);
        _cleanup_free_ char *text = state ? doc_to_text(state) : NULL;
        int r;

        if (!path || !text)
                return error_from_errno(ret_error, ENOMEM, "runtime file of VM %s", vm->name);
        r = file_write_atomic(path, text, strlen(text), 0600);
        return r < 0 ? error_from_errno(ret_error, r, "runtime file %s", path) : 0;
}

void vm_state_remove(const struct vm *vm)
{
        _cleanup_free_ char *path = state_path(vm);

        if (path)
                (void)unlink(path);
}

static int take_taps(struct vm *vm, const json_t *taps, struct error **ret_error)
{
        size_t i;
        json_t *tap;

        vm->taps = alloc_array(json_array_size(taps), sizeof(*vm->taps));
        vm->announces = alloc_array(json_array_size(taps), sizeof(*vm->announces));
        if (!vm->taps || !vm->announces)
                return error_from_errno(ret_error, ENOMEM, "runtime file");
        json_array_foreach (taps, i, tap) {
                const char *name = json_string_value(tap);

                if (!name || strlen(name) >= sizeof(vm->taps[i].name))
                        return error_set(
                                ret_error, ERROR_BAD_DOCUMENT, NULL, "runtime file: taps[%zu] is no name", i);
                memcpy(vm->taps[i].name, name, strlen(name) + 1);
                vm->n_taps++;
        }
        return 0;
}

static int parse_state(struct agent *agent, const json_t *state, struct vm **ret_vm, struct error **ret_error)
{
        _cleanup_(vm_config_freep) struct vm_config *config = NULL;
        json_t *document = NULL, *taps = NULL;
        uint64_t format, pid = 0, start_time = 0, n_resets = 0, restore_epoch = 0;
        bool suspend_paused = false, restore_continuing = false;
        enum vm_power before = VM_POWER_STOPPED;
        const char *restoring = NULL;
        struct vm *vm;
        int r = doc_need_u64(state, "state", "format", 1, 1, &format, ret_error);

        if (r == 0)
                r = doc_opt_object(state, "state", "document", &document, ret_error);
        if (r == 0)
                r = doc_need_u64(state, "state", "pid", 0, INT32_MAX, &pid, ret_error);
        if (r == 0)
                r = doc_need_u64(state, "state", "start_time", 0, INT64_MAX, &start_time, ret_error);
        if (r == 0)
                r = doc_need_u64(state, "state", "n_resets", 0, INT64_MAX, &n_resets, ret_error);
        if (r == 0)
                r = doc_opt_array(state, "state", "taps", VM_NICS_MAX, &taps, ret_error);
        if (r == 0)
                r = doc_opt_bool(state, "state", "suspend_paused", &suspend_paused, ret_error);
        if (r == 0)
                r = doc_opt_u64(state, "state", "restore_epoch", 0, INT64_MAX, &restore_epoch, ret_error);
        if (r == 0)
                r = doc_opt_bool(state, "state", "restore_continuing", &restore_continuing, ret_error);
        if (r == 0)
                r = doc_opt_string(state, "state", "restoring", 32, &restoring, ret_error);
        if (r < 0)
                return r;
        if (restoring && vm_power_from_string(restoring, &before) < 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "runtime file: restoring is no power");
        if (!document)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "runtime file: no document");
        r = vm_config_from_json(document, &config, ret_error);
        if (r < 0)
                return r;
        if (!config->uid || !config->has_status || vm_find(agent, config->uid))
                return error_set(
                        ret_error, ERROR_BAD_DOCUMENT, NULL, "runtime file: no VM, or one known already");
        r = vm_new(agent, config, &vm);
        if (r < 0)
                return error_from_errno(ret_error, r, "runtime file");
        TAKE_PTR(config);
        vm->pid = (pid_t)pid;
        vm->start_time = start_time;
        vm->n_resets = n_resets;
        vm->suspend_paused = suspend_paused;
        vm->restoring = restoring != NULL;
        vm->restore_before = before;
        vm->restore_epoch = restore_epoch;
        vm->restore_continuing = restore_continuing;
        r = take_taps(vm, taps, ret_error);
        if (r < 0) {
                vm_free(vm);
                return r;
        }
        *ret_vm = vm;
        return 0;
}

int vm_state_read(struct agent *agent, const char *path, struct vm **ret_vm, struct error **ret_error)
{
        _cleanup_json_ json_t *state = NULL;
        _cleanup_free_ char *text = NULL;
        size_t len;
        _cleanup_error_ struct error *error = NULL;
        int r = file_read(path, STATE_MAX_BYTES, &text, &len);

        if (r == -E2BIG || r == -EISDIR || r == -EINVAL)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "runtime file: %s", strerror(-r));
        if (r < 0)
                return error_from_errno(ret_error, r, "runtime file %s", path);
        r = doc_parse(text, len, &state, &error);
        if (r < 0)
                return error_set(ret_error,
                        error && error->code == ERROR_BAD_REQUEST ? ERROR_BAD_DOCUMENT : ERROR_NO_MEMORY,
                        NULL, "runtime file %s: %s", path, error_message(error));
        return parse_state(agent, state, ret_vm, ret_error);
}
