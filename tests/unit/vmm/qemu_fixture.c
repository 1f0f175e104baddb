/* SPDX-License-Identifier: Apache-2.0 */
#include "qemu_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "io/file.h"
#include "vmm/guest_ram.h"

#define TAP_TARGET 20
#define OVMF_CODE "/usr/share/OVMF/OVMF_CODE_4M.fd"
#define OVMF_VARS "/usr/share/OVMF/OVMF_VARS_4M.fd"

const char *qemu_binary_under_test(bool incoming)
{
        const char *binary = getenv("DROVER_QEMU") ?: "qemu-system-x86_64";

        return incoming ? getenv("DROVER_QEMU_DESTINATION") ?: binary : binary;
}

char *qemu_test_folder(void)
{
        char *folder = alloc_printf("%s/drover-vmm-XXXXXX", getenv("TMPDIR") ?: "/tmp");

        assert_non_null(folder);
        assert_non_null(mkdtemp(folder));
        return folder;
}

void qemu_test_folder_free(char *folder)
{
        assert_int_equal(file_remove_tree(folder), 0);
        free(folder);
}

static void on_ready(void *userdata, unsigned int major, unsigned int minor, unsigned int micro)
{
        struct qemu_guest *guest = userdata;

        guest->ready = true;
}

static void on_event(void *userdata, const char *name, const json_t *data, int64_t unix_us)
{
        struct qemu_guest *guest = userdata;

        if (!strcmp(name, "RESUME"))
                guest->resumed = true;
        if (!strcmp(name, "STOP"))
                guest->stopped = true;
        if (!strcmp(name, "MIGRATION")) {
                const char *status = json_string_value(json_object_get(data, "status"));

                snprintf(guest->migration_status, sizeof(guest->migration_status), "%s", status);
                guest->migration_ended = !strcmp(status, "completed") || !strcmp(status, "failed") ||
                                         !strcmp(status, "cancelled");
        }
}

static void on_lost(void *userdata, const struct error *error)
{
        struct qemu_guest *guest = userdata;

        guest->lost = true;
}

static void on_exit_of_child(void *userdata, const struct child_result *result)
{
        struct qemu_guest *guest = userdata;
        char how[64];

        guest->exited = true;
        guest->failed = !result->exited || result->code;
        if (guest->failed)
                print_message("QEMU %s: %s\n", child_result_format(result, how), result->output);
}

static int make_tap(void)
{
        struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
        int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(ioctl(fd, TUNSETIFF, &request), 0);
        return fd;
}

static void make_raw(const char *path, uint64_t size)
{
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
        close(fd);
}

static void make_image(const struct vm_disk *disk, const char *path)
{
        _cleanup_free_ char *command = alloc_printf(
                "qemu-img create -q -f qcow2 '%s' %llu", path, (unsigned long long)disk->size_bytes);

        if (access(path, F_OK) == 0)
                return;
        if (disk->format == VM_FORMAT_RAW)
                make_raw(path, disk->size_bytes);
        else
                assert_int_equal(system(command), 0);
}

static void copy_file(const char *from, const char *to)
{
        _cleanup_free_ char *data = NULL;
        size_t len;

        if (access(to, F_OK) == 0)
                return;
        assert_int_equal(file_read(from, 1 << 20, &data, &len), 0);
        assert_int_equal(file_write_atomic(to, data, len, 0600), 0);
}

static struct vm_config *read_document(const char *text)
{
        _cleanup_free_ char *copy = alloc_strdup(text);
        _cleanup_json_ json_t *json = NULL;
        struct vm_config *config = NULL;
        struct error *error = NULL;

        assert_non_null(copy);
        for (char *c = copy; *c; c++)
                if (*c == '\'')
                        *c = '"';
        assert_int_equal(doc_parse(copy, strlen(copy), &json, NULL), 0);
        if (vm_config_from_json(json, &config, &error) < 0)
                fail_msg("%s", error_message(error));
        return config;
}

static void spawn(struct qemu_guest *guest, char **argv)
{
        struct child_fd fds[VM_NICS_MAX + 1] = {};
        struct child_spec spec = CHILD_SPEC_INIT;
        struct error *error = NULL;

        spec.argv = (const char *const *)argv;
        spec.fds = fds;
        for (size_t i = 0; i < guest->config->n_nics; i++)
                fds[spec.n_fds++] = (struct child_fd){.fd = guest->tap_fds[i], .target = TAP_TARGET + (int)i};
        spec.output_max = 64 << 10;
        if (child_start(guest->loop, &spec, on_exit_of_child, guest, &guest->child, &error) < 0)
                fail_msg("%s", error_message(error));
}

/* Paths of one process, or of a file that both sides of a migration share. */
static char *path_of(const char *folder, const char *name)
{
        char *path = alloc_printf("%s/%s", folder, name);

        assert_non_null(path);
        return path;
}

static void on_ram(void *userdata, const json_t *reply, const struct error *error)
{
        struct qemu_guest *guest = userdata;

        assert_null(error);
        assert_int_equal(guest_ram_read_reply(reply, &guest->memory_address, NULL), 0);
}

void qemu_guest_start(struct qemu_guest *guest, struct loop *loop, const char *folder, const char *name,
        const char *document, const char *machine, bool incoming)
{
        const struct qmp_callbacks callbacks = {
                .ready = on_ready, .event = on_event, .lost = on_lost, .userdata = guest};
        struct command_line_disk disks[VM_DISKS_MAX];
        struct command_line_nic nics[VM_NICS_MAX];
        _cleanup_(command_line_freep) char **argv = NULL;
        struct error *error = NULL;
        struct vm_config *config;

        *guest = (struct qemu_guest){.loop = loop, .config = config = read_document(document)};
        snprintf(guest->folder, sizeof(guest->folder), "%s/%s", folder, name);
        assert_int_equal(mkdir(guest->folder, 0700), 0);
        guest->memory_bytes = command_line_effective_memory(config->memory_bytes, VM_ACCELERATOR_TCG, 7);
        for (size_t i = 0; i < config->n_disks; i++) {
                disks[i] = (struct command_line_disk){.path = path_of(folder, config->disks[i].name)};
                make_image(&config->disks[i], disks[i].path);
        }
        for (size_t i = 0; i < config->n_nics; i++) {
                guest->tap_fds[i] = make_tap();
                nics[i] = (struct command_line_nic){.tap_fd = TAP_TARGET + (int)i, .vhost_fd = -1};
        }
        _cleanup_free_ char *cdrom = path_of(folder, "cdrom.iso"), *nvram = path_of(folder, "nvram.fd");
        _cleanup_free_ char *qmp = path_of(guest->folder, "qmp, 1.sock"),
                            *serial = path_of(guest->folder, "serial.sock"),
                            *log = path_of(guest->folder, "serial.log"),
                            *vnc = path_of(guest->folder, "vnc.sock"),
                            *agent = path_of(guest->folder, "agent.sock");
        const struct command_line_env env = {.qemu_binary = qemu_binary_under_test(incoming),
                .machine = machine,
                .accelerator = VM_ACCELERATOR_TCG,
                .cpu_model = "qemu64",
                .memory_bytes = guest->memory_bytes,
                .disks = disks,
                .n_disks = config->n_disks,
                .nics = nics,
                .n_nics = config->n_nics,
                .cdrom_path = cdrom,
                .ovmf_code_path = OVMF_CODE,
                .nvram_path = nvram,
                .qmp_socket = qmp,
                .serial_socket = serial,
                .serial_log = log,
                .vnc_socket = vnc,
                .guest_agent_socket = agent,
                .incoming = incoming,
                .sandbox = true};

        if (config->cdrom.path)
                make_raw(cdrom, 1 << 20);
        if (config->firmware == VM_FIRMWARE_UEFI)
                copy_file(OVMF_VARS, nvram);
        if (command_line_build(config, &env, &argv, &error) < 0)
                fail_msg("%s", error_message(error));
        for (size_t i = 0; i < config->n_disks; i++)
                free((char *)disks[i].path);
        spawn(guest, argv);
        assert_int_equal(qmp_connect(loop, qmp, QEMU_LIMIT_MS, &callbacks, &guest->qmp, NULL), 0);
        qemu_guest_wait(guest, &guest->ready);
        assert_int_equal(guest_ram_open(child_pid(guest->child), &guest->memory_fd, NULL), 0);
        assert_int_equal(guest_ram_ask(guest->qmp, QEMU_LIMIT_MS, on_ram, guest, NULL), 0);
        while (!guest->memory_address)
                assert_true(loop_iterate(loop, 100) >= 0);
}

void qemu_guest_wait(struct qemu_guest *guest, const bool *flag)
{
        uint64_t end = clock_now_ms(&clock_system) + QEMU_LIMIT_MS;

        while (!*flag) {
                assert_false(guest->exited);
                assert_true(clock_now_ms(&clock_system) < end);
                assert_true(loop_iterate(guest->loop, 100) >= 0);
        }
}

struct reply {
        bool came;
        json_t *result;
};

static void on_reply(void *userdata, const json_t *result, const struct error *error)
{
        struct reply *reply = userdata;

        if (error)
                print_message("%s\n", error_message(error));
        reply->result = result ? json_deep_copy(result) : NULL;
        reply->came = true;
}

json_t *qemu_guest_call(struct qemu_guest *guest, const char *command, json_t *arguments)
{
        struct reply reply = {0};

        assert_int_equal(
                qmp_command(guest->qmp, command, arguments, -1, QEMU_LIMIT_MS, on_reply, &reply, NULL, NULL),
                0);
        qemu_guest_wait(guest, &reply.came);
        assert_non_null(reply.result);
        return reply.result;
}

void qemu_guest_do(struct qemu_guest *guest, const char *command, json_t *arguments)
{
        json_decref(qemu_guest_call(guest, command, arguments));
}

void qemu_guest_assert_status(struct qemu_guest *guest, const char *status)
{
        _cleanup_json_ json_t *result = qemu_guest_call(guest, "query-status", NULL);

        assert_string_equal(json_string_value(json_object_get(result, "status")), status);
}

void qemu_guest_quit(struct qemu_guest *guest)
{
        qemu_guest_do(guest, "quit", NULL);
        assert_int_equal(loop_wait(guest->loop, &guest->exited, QEMU_LIMIT_MS), 0);
        assert_false(guest->failed);
}

void qemu_guest_wait_status(struct qemu_guest *guest, const char *status)
{
        uint64_t end = clock_now_ms(&clock_system) + QEMU_LIMIT_MS;
        bool reached = false;

        while (!reached) {
                _cleanup_json_ json_t *result = qemu_guest_call(guest, "query-status", NULL);

                reached = !strcmp(json_string_value(json_object_get(result, "status")), status);
                assert_true(clock_now_ms(&clock_system) < end);
        }
}

void qemu_guest_free(struct qemu_guest *guest)
{
        if (!guest->loop)
                return;
        qmp_free(guest->qmp);
        child_free(guest->child);
        for (size_t i = 0; i < guest->config->n_nics; i++)
                close(guest->tap_fds[i]);
        close(guest->memory_fd);
        vm_config_free(guest->config);
        *guest = (struct qemu_guest){0};
}
