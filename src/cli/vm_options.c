/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/vm_options.h"

#define PATIENCE_OPTION(max_ms, help_text) \
        { \
                .name = "patience", .kind = VALUE_DURATION, .value = "TIME", .min = 1000, .max = (max_ms), \
                .help = (help_text) \
        }
#define MEMORY_MAX_BYTES (16ULL << 40)

const struct option_spec vm_list_options[] = {
        {.name = "host",
                .kind = VALUE_NAME,
                .value = "HOST",
                .names_of = "hosts",
                .help = "only those on this host"},
        {.name = "power",
                .kind = VALUE_CHOICE,
                .value = "stopped|starting|running|paused|suspending|suspended|incoming|outgoing-done|"
                         "crashed|unknown",
                .help = "only those in this state"},
        {0},
};

const struct option_spec vm_create_options[] = {
        {.name = "cpus",
                .kind = VALUE_NUMBER,
                .value = "N",
                .min = 1,
                .max = 255,
                .help = "virtual CPUs; default 1"},
        {.name = "memory",
                .kind = VALUE_SIZE,
                .value = "SIZE",
                .min = 16 << 20,
                .max = MEMORY_MAX_BYTES,
                .required = true,
                .help = "memory, such as 4G"},
        {.name = "disk",
                .kind = VALUE_TEXT,
                .repeat = true,
                .value = "DATASTORE:PATH|SIZE[,format=F][,bus=B][,name=N][,size=S][,read-only]",
                .help = "an existing image, or a new one of this size; may be repeated"},
        {.name = "net",
                .kind = VALUE_TEXT,
                .repeat = true,
                .value = "PORTGROUP[,mac=M][,model=M]",
                .help = "a NIC on this port group; may be repeated"},
        {.name = "kernel",
                .kind = VALUE_TEXT,
                .value = "DATASTORE:PATH",
                .help = "boot this kernel directly"},
        {.name = "initrd",
                .kind = VALUE_TEXT,
                .value = "DATASTORE:PATH",
                .help = "with this initial RAM disk"},
        {.name = "append", .kind = VALUE_TEXT, .value = "ARGS", .help = "and this kernel command line"},
        {.name = "cdrom", .kind = VALUE_TEXT, .value = "DATASTORE:PATH", .help = "image in the CD-ROM drive"},
        {.name = "firmware", .kind = VALUE_CHOICE, .value = "bios|uefi", .help = "default bios"},
        {.name = "machine",
                .kind = VALUE_NAME,
                .value = "TYPE",
                .help = "q35 (default), pc, or a versioned type such as pc-q35-7.2"},
        {.name = "cpu-model", .kind = VALUE_TEXT, .value = "MODEL", .help = "QEMU's name; default auto"},
        {.name = "accelerator", .kind = VALUE_CHOICE, .value = "auto|kvm|tcg", .help = "default auto"},
        {.name = "keep-free-pages",
                .help = "what the guest frees stays its own; without it, it goes back to the host and is not "
                        "migrated"},
        {.name = "datastore",
                .kind = VALUE_NAME,
                .value = "NAME",
                .names_of = "datastores",
                .help = "where its folder is; default: where its first disk is"},
        {.name = "label",
                .kind = VALUE_TEXT,
                .value = "KEY=VALUE",
                .repeat = true,
                .help = "a label; may be repeated"},
        {.name = "host",
                .kind = VALUE_NAME,
                .value = "HOST",
                .names_of = "hosts",
                .help = "create it there; default: the best one"},
        {.name = "start", .help = "start it afterwards"},
        {0},
};

const struct option_spec vm_start_options[] = {
        {.name = "host",
                .kind = VALUE_NAME,
                .value = "HOST",
                .names_of = "hosts",
                .help = "start it there; default: where it was, else the best one"},
        {.name = "discard-state",
                .help = "also if it is suspended: from its disks, as after a power failure; what was in its "
                        "memory is lost"},
        {0},
};

const struct option_spec vm_resume_options[] = {
        {.name = "host",
                .kind = VALUE_NAME,
                .value = "HOST",
                .names_of = "hosts",
                .help = "of one that is suspended: resume it there; default: where it was, else the best "
                        "one"},
        PATIENCE_OPTION(
                86400000, "how long reading its memory may take, then it stays suspended; default a day"),
        {0},
};

const struct option_spec vm_suspend_options[] = {
        PATIENCE_OPTION(86400000, "how long writing its memory may take, then it runs on; default 1h"),
        {0},
};

const struct option_spec vm_snapshot_create_options[] = {
        {.name = "description", .kind = VALUE_TEXT, .value = "TEXT", .help = "what it is for"},
        {0},
};

const struct option_spec vm_snapshot_delete_options[] = {
        {.name = "accept-mixed-disks",
                .help = "also one whose reverting did not end well: the disks stay as they are, some perhaps "
                        "reverted and others not, and can be started"},
        {0},
};

const struct option_spec vm_stop_options[] = {
        {.name = "force", .help = "cut the power instead of pressing the power button"},
        PATIENCE_OPTION(3600000, "how long the guest may take to power off; default 2m"),
        {0},
};

const struct option_spec vm_console_options[] = {
        {.name = "tail",
                .kind = VALUE_SIZE,
                .value = "SIZE",
                .min = 1,
                .max = 1 << 20,
                .help = "how much of the end; default 4K"},
        {0},
};

const struct option_spec vm_advise_options[] = {
        {.name = "limit",
                .kind = VALUE_NUMBER,
                .value = "N",
                .min = 1,
                .max = 100000,
                .help = "the best N; default 20"},
        {.name = "all", .help = "all hosts"},
        {.name = "disks", .help = "rank the datastores of its host for each of its disks instead"},
        {0},
};

const struct option_spec vm_forecast_options[] = {
        {.name = "to",
                .kind = VALUE_NAME,
                .value = "HOST",
                .names_of = "hosts",
                .help = "only to this host; default: all that can take it"},
        {.name = "max-pause",
                .kind = VALUE_DURATION,
                .value = "TIME",
                .min = 1,
                .max = 600000,
                .help = "bound on the pause, to which long round trips add; default 300ms"},
        {.name = "rate-limit", .kind = VALUE_RATE, .value = "RATE", .help = "such as 500mbit; default none"},
        {.name = "verify", .help = "with the comparison of the guest's memory on both sides"},
        {.name = "score", .help = "how good the forecasts of past migrations were; without VM"},
        {0},
};

const struct option_spec vm_migrate_options[] = {
        {.name = "to",
                .kind = VALUE_NAME,
                .value = "HOST",
                .names_of = "hosts",
                .help = "destination; default: the best one"},
        {.name = "to-datastore",
                .kind = VALUE_TEXT,
                .value = "DATASTORE|best|DISK=DATASTORE[,...]",
                .names_of = "datastores",
                .help = "move its disks there; without --to it stays on its host, running or off"},
        {.name = "format",
                .kind = VALUE_CHOICE,
                .value = "raw|qcow2",
                .help = "with --to-datastore alone: convert the disks; default: as they are"},
        {.name = "disk",
                .kind = VALUE_TEXT,
                .value = "NAME",
                .repeat = true,
                .help = "with --to-datastore alone: only this disk; may be repeated"},
        {.name = "max-pause",
                .kind = VALUE_DURATION,
                .value = "TIME",
                .min = 1,
                .max = 600000,
                .help = "bound on the pause, to which long round trips add; default 300ms"},
        {.name = "converge",
                .kind = VALUE_TEXT,
                .value = "STEPS",
                .help = "help for a guest that changes too fast; default wait,throttle"},
        {.name = "check", .help = "only check, and rank the destinations"},
        {.name = "priority",
                .kind = VALUE_CHOICE,
                .value = "low|normal|high|critical",
                .help = "place in the queue, and part of links and processors; default normal"},
        {.name = "verify", .help = "compare the guest's memory on both sides (lengthens the pause)"},
        {.name = "no-verify",
                .help = "do not, even where that is the default: emulation before QEMU 9.0, which loses "
                        "changes"},
        {.name = "no-network-proof",
                .help = "do not try the destination's network before the guest is paused"},
        {.name = "accept",
                .kind = VALUE_TEXT,
                .value = "CODE[,CODE...]",
                .help = "go on although these checks of the network fail, such as network-gateway"},
        {.name = "codec", .kind = VALUE_CHOICE, .value = "auto|none|lz4|zstd", .help = "default auto"},
        {.name = "channels",
                .kind = VALUE_NUMBER,
                .value = "N",
                .min = 0,
                .max = 64,
                .help = "number of connections; default 0: automatic"},
        {.name = "rate-limit", .kind = VALUE_RATE, .value = "RATE", .help = "such as 500mbit; default none"},
        {.name = "min-bandwidth",
                .kind = VALUE_RATE,
                .value = "RATE",
                .help = "wait until both hosts' links can promise this much, and keep others from it"},
        {.name = "give-up",
                .kind = VALUE_DURATION,
                .value = "TIME",
                .max = 604800000,
                .help = "cancel the migration after this long; default 1h"},
        {0},
};
