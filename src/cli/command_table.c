/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/command_table.h"

#include "cli/access_options.h"
#include "cli/cli.h"
#include "cli/datastore_options.h"
#include "cli/image_options.h"
#include "cli/network_options.h"
#include "cli/pool_options.h"
#include "cli/vm_options.h"

#define END \
        { \
                0 \
        }
#define OPERAND(operand_name, collection) \
        { \
                .name = (operand_name), .kind = VALUE_NAME, .names_of = (collection) \
        }
#define TEXT_OPERAND(operand_name) \
        { \
                .name = (operand_name), .kind = VALUE_TEXT \
        }

const struct option_spec global_options[] = {
        {.name = "server",
                .letter = 's',
                .kind = VALUE_TEXT,
                .value = "URL",
                .help = "the manager, such as https://manager:8443, or several with commas between (also "
                        "DROVER_SERVER)"},
        {.name = "token",
                .letter = 't',
                .kind = VALUE_FILE,
                .value = "FILE",
                .help = "file that holds the API token (also DROVER_TOKEN: the token, or an absolute path)"},
        {.name = "ca",
                .kind = VALUE_FILE,
                .value = "FILE",
                .help = "certificate of the CA that the manager is trusted by (also DROVER_CA)"},
        {.name = "output",
                .letter = 'o',
                .kind = VALUE_CHOICE,
                .value = "table|json|yaml",
                .help = "json and yaml are the API's documents; default table"},
        {.name = "no-wait", .help = "start the task and print its name instead of waiting for its end"},
        {.name = "timeout",
                .kind = VALUE_DURATION,
                .value = "TIME",
                .help = "stop waiting after this long; the task goes on (exit status 6)"},
        {.name = "why",
                .kind = VALUE_TEXT,
                .value = "TEXT",
                .help = "reason, written into task and audit log"},
        {.name = "quiet", .letter = 'q', .help = "no progress on standard error"},
        {.name = "help", .letter = 'h', .help = "help on the command"},
        {.name = "version", .letter = 'V', .help = "version of this program"},
        END,
};

static const struct option_spec host_add_options[] = {
        {.name = "name",
                .kind = VALUE_NAME,
                .value = "NAME",
                .help = "what to call it; default: the address without its port"},
        {.name = "migration-address",
                .kind = VALUE_TEXT,
                .value = "ADDRESS,...",
                .help = "1 to 8 addresses for migration data, if not the same"},
        {.name = "label",
                .kind = VALUE_TEXT,
                .value = "KEY=VALUE",
                .repeat = true,
                .help = "a label, such as pool=east; may be repeated"},
        END,
};

static const struct option_spec host_confirm_down_options[] = {
        {.name = "yes", .help = "do not ask"},
        END,
};

/* Of what moves many; ends the list. */
#define MOVES_OPTIONS \
        {.name = "policy", \
                .kind = VALUE_TEXT, \
                .value = "STEPS", \
                .help = "what is tried when a migration fails; default other-host,wait"}, \
                {.name = "tries", \
                        .kind = VALUE_NUMBER, \
                        .value = "N", \
                        .min = 1, \
                        .max = 10, \
                        .help = "migrations of one virtual machine at most; default 3"}, \
                {.name = "priority", \
                        .kind = VALUE_CHOICE, \
                        .value = "low|normal|high|critical", \
                        .help = "of the migrations; default normal"}, \
                {.name = "max-pause", \
                        .kind = VALUE_DURATION, \
                        .value = "TIME", \
                        .min = 1, \
                        .max = 600000, \
                        .help = "bound on each pause; default 300ms"}, \
                {.name = "give-up", \
                        .kind = VALUE_DURATION, \
                        .value = "TIME", \
                        .min = 1000, \
                        .max = 604800000, \
                        .help = "end the whole after this long; default 4h"}, \
                END

static const struct option_spec host_maintenance_options[] = {
        {.name = "on", .help = "begin: close the host and move everything away"},
        {.name = "off", .help = "end: open the host"},
        {.name = "return", .help = "with --off: bring back what was moved away"},
        {.name = "dry-run", .help = "only say what would be done"},
        MOVES_OPTIONS,
};

static const struct option_spec host_remove_options[] = {
        {.name = "force", .help = "also with VMs on it, or when it is unreachable"},
        END,
};

static const struct option_spec task_list_options[] = {
        {.name = "active", .help = "only those that have not ended"},
        {.name = "object",
                .kind = VALUE_TEXT,
                .value = "KIND/NAME",
                .help = "only about this, such as vm/web1"},
        {.name = "action",
                .kind = VALUE_TEXT,
                .value = "ACTION",
                .help = "only this action, such as vm.migrate"},
        {.name = "limit",
                .kind = VALUE_NUMBER,
                .value = "N",
                .min = 1,
                .max = 1000,
                .help = "the newest N; default 50"},
        END,
};

static const struct option_spec schedule_create_options[] = {
        {.name = "calendar",
                .kind = VALUE_TEXT,
                .value = "EXPRESSION",
                .help = "runs that recur, such as 'Sat 22:00' (systemd.time(7))"},
        {.name = "at", .kind = VALUE_TEXT, .value = "TIME", .help = "one run, such as '2026-12-24 22:00'"},
        {.name = "time-zone",
                .kind = VALUE_TEXT,
                .value = "ZONE",
                .help = "such as Europe/Berlin; default UTC"},
        {.name = "window",
                .kind = VALUE_DURATION,
                .value = "TIME",
                .min = 1000,
                .max = 2592000000,
                .help = "what has not started so long after the due time does not start"},
        {.name = "missed",
                .kind = VALUE_CHOICE,
                .value = "skip|run-once",
                .help = "what becomes of runs while the manager was away; default skip"},
        {.name = "vm",
                .kind = VALUE_NAME,
                .value = "VM",
                .names_of = "vms",
                .repeat = true,
                .help = "migrate this virtual machine; may be repeated"},
        {.name = "label",
                .kind = VALUE_TEXT,
                .value = "KEY=VALUE",
                .help = "migrate those that have it then"},
        {.name = "to",
                .kind = VALUE_NAME,
                .value = "HOST",
                .names_of = "hosts",
                .help = "to this host; default: the best one for each"},
        {.name = "maintenance-on",
                .kind = VALUE_NAME,
                .value = "HOST",
                .names_of = "hosts",
                .help = "empty this host for maintenance"},
        {.name = "maintenance-off",
                .kind = VALUE_NAME,
                .value = "HOST",
                .names_of = "hosts",
                .help = "end its maintenance"},
        {.name = "return", .help = "with --maintenance-off: bring back what was moved away"},
        MOVES_OPTIONS,
};

static const struct option_spec schedule_next_options[] = {
        {.name = "count",
                .kind = VALUE_NUMBER,
                .value = "N",
                .min = 1,
                .max = 1000,
                .help = "how many; default 10"},
        END,
};

static const struct option_spec schedule_run_options[] = {
        {.name = "dry-run", .help = "only say what it would do now"},
        END,
};

static const struct option_spec affinity_add_options[] = {
        {.name = "type",
                .kind = VALUE_CHOICE,
                .value = "keep-together|keep-apart|run-on|keep-off",
                .required = true,
                .help = "on one host, on a host each, only on these hosts, or not on them"},
        {.name = "vm",
                .kind = VALUE_NAME,
                .value = "VM",
                .names_of = "vms",
                .repeat = true,
                .required = true,
                .help = "a virtual machine that it is about; may be repeated"},
        {.name = "host",
                .kind = VALUE_NAME,
                .value = "HOST",
                .names_of = "hosts",
                .repeat = true,
                .help = "a host of run-on or keep-off; may be repeated"},
        {.name = "should", .help = "only prefer what keeps it; default: what breaks it is refused"},
        END,
};

static const struct option_spec cluster_cpu_options[] = {
        {.name = "set",
                .kind = VALUE_TEXT,
                .value = "POLICY",
                .help = "none, auto, or a model: MODEL[,+FEATURE|,-FEATURE]..."},
        {.name = "plan", .kind = VALUE_TEXT, .value = "POLICY", .help = "only say what it would need"},
        END,
};

static const struct option_spec host_label_options[] = {
        {.name = "set",
                .kind = VALUE_TEXT,
                .value = "KEY=VALUE",
                .repeat = true,
                .help = "give it this label; may be repeated"},
        {.name = "remove",
                .kind = VALUE_NAME,
                .value = "KEY",
                .repeat = true,
                .help = "take this label away; may be repeated"},
        END,
};

static const struct option_spec api_options[] = {
        {.name = "data",
                .letter = 'd',
                .kind = VALUE_FILE,
                .value = "FILE",
                .help = "a JSON document to send; - is standard input"},
        {.name = "key",
                .kind = VALUE_TEXT,
                .value = "KEY",
                .help = "Idempotency-Key: with the same one again, nothing is done twice"},
        END,
};

static const struct option_spec events_options[] = {
        {.name = "kinds", .kind = VALUE_TEXT, .value = "KIND,...", .help = "only of these, such as vm,task"},
        {.name = "since",
                .kind = VALUE_NUMBER,
                .value = "REVISION",
                .max = INT64_MAX,
                .help = "start after this revision; default: now"},
        END,
};

#define WAITS \
        "Waits for the task and shows its progress on standard error; Ctrl-C detaches, and the task goes " \
        "on."

const struct command command_table[] = {
        {.words = "host list", .summary = "list the hosts", .run = command_host_list},
        {.words = "host show",
                .summary = "show a host",
                .operands = {OPERAND("HOST", "hosts")},
                .run = command_host_show},
        {.words = "host add",
                .summary = "add a host and print the command that enrols it",
                .details = "ADDRESS is where its agent listens, with the port if it is not 8444. The token "
                           "that is "
                           "printed works once and for one hour.",
                .operands = {TEXT_OPERAND("ADDRESS")},
                .options = host_add_options,
                .run = command_host_add},
        {.words = "host enrol-token",
                .summary = "make a new enrolment token; the old one ends",
                .operands = {OPERAND("HOST", "hosts")},
                .run = command_host_enrol_token},
        {.words = "host confirm-down",
                .summary = "state that an unreachable host is down, with all that ran there",
                .details =
                        "For a host that does not come back: you state that it is powered off, or that for "
                        "another reason none of its virtual machines can be running. They count as crashed "
                        "then and may be started on other hosts or deleted, and migrations from or to the "
                        "host are settled without it. That a host cannot be reached is not enough: a "
                        "virtual machine that still runs there could then run twice and destroy its "
                        "disks. The command is refused while the host's agent answers, and the statement is "
                        "withdrawn as soon as the agent answers again.\n\n"
                        "It asks before it does so; without a terminal it needs --yes.",
                .operands = {OPERAND("HOST", "hosts")},
                .options = host_confirm_down_options,
                .run = command_host_confirm_down},
        {.words = "host label",
                .summary = "set or remove labels of a host, such as pool=east",
                .operands = {OPERAND("HOST", "hosts")},
                .options = host_label_options,
                .run = command_host_label},
        {.words = "host maintenance",
                .summary = "empty a host for maintenance, or end its maintenance",
                .details = "With --on the host takes no virtual machine any more, and those that run there "
                           "move to the best hosts, large ones first, through the queue. For each there is "
                           "a bounded number of tries; after one that failed, and for what fits nowhere, "
                           "--policy says what is tried, as STEP[,STEP...] in that order: other-host takes "
                           "the next best host, wait[=TIME] waits until one fits (10m), suspend[=TIME] "
                           "writes its memory to its datastore and resumes it at once on the best host, or "
                           "where one fits within that time (1m), stop[=TIME] asks the guest to power off "
                           "(2m), and power-off cuts its power; none stands for no step. What is left then "
                           "stays, the report says why, and the exit status is 1; the host stays closed, "
                           "and --on again goes on with it. Virtual machines that are off stay where they "
                           "are. Cancelled, the host is open again.\n\n"
                           "--off opens the host and resumes what --on has suspended; with --return what "
                           "was moved away comes back, but for what was stopped.",
                .operands = {OPERAND("HOST", "hosts")},
                .options = host_maintenance_options,
                .run = command_host_maintenance},
        {.words = "host remove",
                .summary = "remove a host from the inventory",
                .operands = {OPERAND("HOST", "hosts")},
                .options = host_remove_options,
                .run = command_host_remove},

        {.words = "vm list",
                .summary = "list the virtual machines",
                .options = vm_list_options,
                .run = command_vm_list},
        {.words = "vm show",
                .summary = "show a virtual machine",
                .operands = {OPERAND("VM", "vms")},
                .run = command_vm_show},
        {.words = "vm create",
                .summary = "create a virtual machine",
                .details = "--disk and --net may be repeated. A disk is DATASTORE: followed by a path in it "
                           "or by the "
                           "size of a new image; formats are qcow2 (default) and raw, buses virtio "
                           "(default), scsi, "
                           "sata and ide. NIC models are virtio (default), e1000 and rtl8139; MACs are "
                           "handed out by "
                           "the manager unless given.\n\n" WAITS,
                .operands = {OPERAND("VM", NULL)},
                .options = vm_create_options,
                .run = command_vm_create},
        {.words = "vm start",
                .summary = "start a virtual machine",
                .details = WAITS,
                .operands = {OPERAND("VM", "vms")},
                .options = vm_start_options,
                .run = command_vm_start},
        {.words = "vm stop",
                .summary = "shut a virtual machine down",
                .details = WAITS,
                .operands = {OPERAND("VM", "vms")},
                .options = vm_stop_options,
                .run = command_vm_stop},
        {.words = "vm pause",
                .summary = "halt the virtual CPUs",
                .operands = {OPERAND("VM", "vms")},
                .run = command_vm_pause},
        {.words = "vm resume",
                .summary = "let a paused or suspended virtual machine run again",
                .details = WAITS,
                .operands = {OPERAND("VM", "vms")},
                .options = vm_resume_options,
                .run = command_vm_resume},
        {.words = "vm suspend",
                .summary = "write the memory to the datastore and free the host",
                .details = WAITS,
                .operands = {OPERAND("VM", "vms")},
                .options = vm_suspend_options,
                .run = command_vm_suspend},
        {.words = "vm delete",
                .summary = "delete a stopped virtual machine and its disks",
                .details = WAITS,
                .operands = {OPERAND("VM", "vms")},
                .run = command_vm_delete},
        {.words = "vm console",
                .summary = "print the end of the serial console's log",
                .operands = {OPERAND("VM", "vms")},
                .options = vm_console_options,
                .run = command_vm_console},
        {.words = "vm advise",
                .summary = "rank the hosts for a virtual machine, or the datastores for its disks",
                .details =
                        "Each host has a score from 0 to 100, by what is known of it now (memory, "
                        "processors, "
                        "pressure, network, storage, what the move would cost), and the reasons for it. "
                        "Hosts "
                        "that are not fit come last, with each check that failed. Nothing is moved; the "
                        "first "
                        "host is the one that 'vm migrate' takes without --to. Exit status 1 if no host "
                        "is fit.\n\n"
                        "With --disks the same of the datastores of the host where it is, by the room that "
                        "would stay free and is not promised, and by how quick they are; 'vm migrate "
                        "--to-datastore best' takes the first for each disk. Exit status 1 if some disk has "
                        "no fit datastore.",
                .operands = {OPERAND("VM", "vms")},
                .options = vm_advise_options,
                .run = command_vm_advise},
        {.words = "vm forecast",
                .summary = "say beforehand what a migration will take",
                .details = "Watches for some seconds how the guest changes its memory and what that is like, "
                           "without "
                           "disturbing it, tries for a moment what the path to each destination carries, and "
                           "says how "
                           "long a migration will take, for how long the guest will be paused and how much "
                           "will be "
                           "sent, each with a range, and whether it will end without slowing the guest down. "
                           "A migration that begins within ten minutes keeps the forecast beside its "
                           "outcome; --score "
                           "compares the two over all migrations that are remembered.",
                .operands = {{.name = "VM", .kind = VALUE_NAME, .names_of = "vms", .optional = true}},
                .options = vm_forecast_options,
                .run = command_vm_forecast},
        {.words = "vm migrate",
                .summary = "move a virtual machine to another host, or its disks",
                .details =
                        "Shows pass, rate, what remains and the dirty rate while it runs, and a report "
                        "at the end. With --check nothing is moved: each check is printed with its "
                        "cause and way out, and the exit status is 1 if one failed.\n\n"
                        "One that is off or suspended is given to the other host and stays off or "
                        "suspended: it is started or resumed there next, unless another host is named. "
                        "Nothing is copied, so its disks must be on datastores of both; the other "
                        "options are for one that runs.\n\n"
                        "--converge says what may be done for a guest that changes its memory faster "
                        "than it can be sent, as STEP[,STEP...] in the order in which they are tried: "
                        "wait[=TIME] waits for a quiet moment (without TIME as long as the load rises "
                        "and falls, 30s at most), pause=TIME doubles the bound on the pause again and "
                        "again up to TIME, throttle[=PERCENT] slows its processors down, more and more, "
                        "up to PERCENT of the time (99), and post-copy, which is done only where it is "
                        "named, and last, lets it go on at the destination before its memory is there. "
                        "The rest follows; if either host or the network between them fails meanwhile, "
                        "the guest is off, as after a power failure. When none helps, or with none, the "
                        "migration ends and the guest runs on where it is.\n\n"
                        "Ctrl-C detaches and the migration goes on; Ctrl-C again within two seconds "
                        "cancels it, and the guest stays where it is.\n\n"
                        "With --to and --to-datastore it takes its folder and its disks along to a datastore "
                        "of that host, which nobody else has to have; --give-up is 24h then. With "
                        "--to-datastore alone it stays on its host, and its disks go to another datastore of "
                        "that host, while it runs or is off, converted if --format says so; best chooses "
                        "one for each disk (see 'vm advise --disks'), and DISK=DATASTORE[,...] moves these "
                        "disks, each to its own. Only what is "
                        "allocated is copied. A running guest is stopped for a moment at the end; until then "
                        "everything can be cancelled, and whatever fails leaves the disks where they were. "
                        "The old images are removed. --max-pause bounds what remains then, --converge says "
                        "what is done when the guest writes too fast (throttle: its writes to these disks; "
                        "no post-copy). --rate-limit, --give-up (default 24h) and --priority apply.",
                .operands = {OPERAND("VM", "vms")},
                .options = vm_migrate_options,
                .run = command_vm_migrate},
        {.words = "vm disk resize",
                .summary = "make a disk larger, while its virtual machine runs or is off",
                .details = "SIZE is what it is to have, such as 40G. A guest sees the new size of a virtio "
                           "or SCSI disk at "
                           "once, of a SATA or IDE disk with its next start; partitions and file systems are "
                           "its own to grow. A disk cannot be made smaller.\n\n" WAITS,
                .operands = {OPERAND("VM", "vms"), OPERAND("DISK", NULL),
                        {.name = "SIZE", .kind = VALUE_SIZE}},
                .run = command_vm_disk_resize},
        {.words = "vm snapshot create",
                .summary = "keep what the disks of a virtual machine hold now",
                .details =
                        "Of all its disks at one moment, which have to be qcow2; of one that runs as after "
                        "a power failure, without what is in its memory.\n\n" WAITS,
                .operands = {OPERAND("VM", "vms"), OPERAND("SNAPSHOT", NULL)},
                .options = vm_snapshot_create_options,
                .run = command_vm_snapshot_create},
        {.words = "vm snapshot list",
                .summary = "list the snapshots of a virtual machine",
                .operands = {OPERAND("VM", "vms")},
                .run = command_vm_snapshot_list},
        {.words = "vm snapshot show",
                .summary = "show a snapshot",
                .operands = {OPERAND("VM", "vms"), OPERAND("SNAPSHOT", NULL)},
                .run = command_vm_snapshot_show},
        {.words = "vm snapshot revert",
                .summary = "put the disks of a virtual machine that is off back to a snapshot",
                .details =
                        "What they hold now is lost, unless another snapshot keeps it. Snapshots that were "
                        "made later stay.\n\n" WAITS,
                .operands = {OPERAND("VM", "vms"), OPERAND("SNAPSHOT", NULL)},
                .run = command_vm_snapshot_revert},
        {.words = "vm snapshot delete",
                .summary = "delete a snapshot; what the disks hold stays",
                .details = WAITS,
                .operands = {OPERAND("VM", "vms"), OPERAND("SNAPSHOT", NULL)},
                .options = vm_snapshot_delete_options,
                .run = command_vm_snapshot_delete},

        {.words = "vm import",
                .summary = "make a virtual machine of an appliance from another product",
                .details =
                        "APPLIANCE is DATASTORE:PATH, an OVA, or an OVF with its disks beside it, as VMware "
                        "and "
                        "VirtualBox export them. Processors, memory, firmware, disks and NICs become those "
                        "of "
                        "a new virtual machine, which is off; the appliance stays. What its manifest says of "
                        "checksums is compared. Its NICs get new MAC addresses, and model e1000 unless they "
                        "were virtio; its disks are on SATA, whose driver most guests have.",
                .operands = {TEXT_OPERAND("APPLIANCE")},
                .options = vm_import_options,
                .run = command_vm_import},
        {.words = "vm export",
                .summary = "write a virtual machine into an appliance for another product",
                .details =
                        "FILE is DATASTORE:PATH, a new .ova on a datastore of the host where the virtual "
                        "machine "
                        "is: a description (OVF), a manifest with the SHA-256 of each file, and its disks as "
                        "compressed vmdk. The virtual machine has to be off. Meanwhile there has to be room "
                        "for "
                        "the disks twice. The SHA-256 of the whole is printed and written beside it.",
                .operands = {OPERAND("VM", "vms"), TEXT_OPERAND("FILE")},
                .options = vm_export_options,
                .run = command_vm_export},
        {.words = "vm import-disk",
                .summary = "make a disk of an image",
                .details =
                        "IMAGE is DATASTORE:PATH, a file on a datastore of the host where the virtual "
                        "machine "
                        "is: raw, qcow2, vmdk, vhdx, vdi or vhd. It is converted into a new disk of the "
                        "virtual machine, which has to be off; the image stays. It is read by a process that "
                        "reaches no other file: an image that refers to another one (a backing file, a vmdk "
                        "of several files) is refused, and so is one that would unpack to more than there is "
                        "room for.",
                .operands = {OPERAND("VM", "vms"), TEXT_OPERAND("IMAGE")},
                .options = vm_import_disk_options,
                .run = command_vm_import_disk},
        {.words = "vm export-disk",
                .summary = "write a disk into an image",
                .details =
                        "FILE is DATASTORE:PATH, a new file on a datastore of the host where the virtual "
                        "machine is; what its name ends in says the format: .raw, .qcow2, .vmdk, .vhdx, .vdi "
                        "or .vhd. The virtual machine has to be off. Its SHA-256 is printed and written "
                        "beside it, as FILE.sha256.",
                .operands = {OPERAND("VM", "vms"), OPERAND("DISK", NULL), TEXT_OPERAND("FILE")},
                .options = vm_export_disk_options,
                .run = command_vm_export_disk},

        {.words = "task list",
                .summary = "list tasks, newest first",
                .options = task_list_options,
                .run = command_task_list},
        {.words = "task show",
                .summary = "show a task",
                .operands = {OPERAND("TASK", "tasks")},
                .run = command_task_show},
        {.words = "task watch",
                .summary = "follow a task to its end",
                .operands = {OPERAND("TASK", "tasks")},
                .run = command_task_watch},
        {.words = "task cancel",
                .summary = "ask a task to stop and undo what it did",
                .operands = {OPERAND("TASK", "tasks")},
                .run = command_task_cancel},

        {.words = "queue show",
                .summary = "show what migrations hold, and what those that wait are waiting for",
                .run = command_queue_show},
        {.words = "queue drain",
                .summary = "start no migration any more; those under way go on",
                .run = command_queue_drain},
        {.words = "queue resume", .summary = "start migrations again", .run = command_queue_resume},

        {.words = "schedule list",
                .summary = "list the schedules, with their next runs",
                .run = command_schedule_list},
        {.words = "schedule show",
                .summary = "show a schedule, and how its last runs ended",
                .operands = {OPERAND("SCHEDULE", "schedules")},
                .run = command_schedule_show},
        {.words = "schedule create",
                .summary = "migrate virtual machines, or empty a host, at a time or at recurring times",
                .details = "EXPRESSION is as in systemd.time(7): [WEEKDAYS] [YEAR-MONTH-DAY] "
                           "[HOUR:MINUTE[:SECOND]] [ZONE], such as "
                           "'Mon..Fri 22:00', '*-*-01 03:30 Europe/Berlin', '*:0/15' or hourly. Where the "
                           "clocks change, a time that "
                           "is left out comes at the end of the gap, and one that comes twice counts the "
                           "first time; an "
                           "expression for every hour keeps to elapsed time.\n\n"
                           "A run that could not begin within a minute of its time is missed: it is left "
                           "out, or with "
                           "--missed run-once the latest one is made up for as soon as possible, while its "
                           "window is open. One that is due while the last one goes on is left "
                           "out. No due time is run twice, also when the clock is set back.",
                .operands = {OPERAND("NAME", NULL)},
                .options = schedule_create_options,
                .run = command_schedule_create},
        {.words = "schedule next",
                .summary = "show when the next runs of a schedule begin",
                .operands = {OPERAND("SCHEDULE", "schedules")},
                .options = schedule_next_options,
                .run = command_schedule_next},
        {.words = "schedule run",
                .summary = "run a schedule now, beside its due times",
                .operands = {OPERAND("SCHEDULE", "schedules")},
                .options = schedule_run_options,
                .run = command_schedule_run},
        {.words = "schedule pause",
                .summary = "let no further run of a schedule begin",
                .operands = {OPERAND("SCHEDULE", "schedules")},
                .run = command_schedule_pause},
        {.words = "schedule resume",
                .summary = "let runs begin again; what was due meanwhile is not made up for",
                .operands = {OPERAND("SCHEDULE", "schedules")},
                .run = command_schedule_resume},
        {.words = "schedule delete",
                .summary = "delete a schedule; a run that has begun goes on",
                .operands = {OPERAND("SCHEDULE", "schedules")},
                .run = command_schedule_delete},

        {.words = "datastore list",
                .summary = "list the datastores: room, what is promised of it, how quick they are",
                .details = "PROMISED is what all disks there may come to take, LATENCY of a small write "
                           "until it "
                           "is safe. What a local datastore has is summed up over its hosts.",
                .run = command_datastore_list},
        {.words = "datastore show",
                .summary = "show a datastore, and what each host says about it",
                .operands = {OPERAND("DATASTORE", "datastores")},
                .run = command_datastore_show},
        {.words = "datastore add",
                .summary = "make a folder of the hosts a datastore",
                .operands = {OPERAND("NAME", NULL), TEXT_OPERAND("PATH")},
                .options = datastore_add_options,
                .run = command_datastore_add},
        {.words = "datastore set",
                .summary = "change how much of a datastore may be promised",
                .details =
                        "Images are thin: disks may be promised more than there is. With --overcommit 1.5 up "
                        "to one and a half times the capacity; what would go beyond is refused "
                        "(datastore-limit), be it created or moved there. What is there stays.",
                .operands = {OPERAND("DATASTORE", "datastores")},
                .options = datastore_set_options,
                .run = command_datastore_set},
        {.words = "datastore maintenance",
                .summary = "move all disks away from a datastore, or end that",
                .details =
                        "With --on the datastore takes no new disk any more, and the disks there move to the "
                        "best other datastores of the hosts where their virtual machines are, large ones "
                        "first, through the queue, while these run or are off. For each virtual machine "
                        "there is a bounded number of tries; after one that failed the next best datastore "
                        "is taken, and for what fits nowhere --wait waits. The task ends with one report: "
                        "moved, files-stay (what cannot be moved by this: its folder, a CD-ROM, what is "
                        "read-only), or stays, and why; then the exit status is 1, the datastore stays "
                        "closed, and --on again goes on with it. Cancelled, it is open again, and what has "
                        "moved stays where it is. --off opens it; nothing moves back.",
                .operands = {OPERAND("DATASTORE", "datastores")},
                .options = datastore_maintenance_options,
                .run = command_datastore_maintenance},
        {.words = "datastore remove",
                .summary = "forget a datastore; its files stay",
                .operands = {OPERAND("DATASTORE", "datastores")},
                .run = command_datastore_remove},

        {.words = "network list", .summary = "list switches and port groups", .run = command_network_list},
        {.words = "network switch list",
                .summary = "list the virtual switches",
                .run = command_network_switch_list},
        {.words = "network switch add",
                .summary = "make a virtual switch on all hosts",
                .operands = {OPERAND("NAME", NULL)},
                .options = switch_add_options,
                .run = command_network_switch_add},
        {.words = "network switch show",
                .summary = "show a switch: version, drift and message of each host",
                .operands = {OPERAND("SWITCH", "switches")},
                .run = command_network_switch_show},
        {.words = "network switch set",
                .summary = "change a virtual switch",
                .details = "A change of a standard switch is applied at once. One of a distributed switch "
                           "makes a "
                           "new version, which hosts get by `drover network switch upgrade`.",
                .operands = {OPERAND("SWITCH", "switches")},
                .options = switch_set_options,
                .run = command_network_switch_set},
        {.words = "network switch upgrade",
                .summary = "give hosts a version of a distributed switch",
                .details = "Hosts are changed one after the other; the first one that refuses ends it, and "
                           "those "
                           "behind it keep their version. Hosts that cannot be reached are left out.",
                .operands = {OPERAND("SWITCH", "switches")},
                .options = switch_upgrade_options,
                .run = command_network_switch_upgrade},
        {.words = "network switch remove",
                .summary = "remove a virtual switch",
                .operands = {OPERAND("SWITCH", "switches")},
                .run = command_network_switch_remove},
        {.words = "network port-group list",
                .summary = "list the port groups",
                .run = command_network_port_group_list},
        {.words = "network port-group add",
                .summary = "make a port group on a switch",
                .operands = {OPERAND("NAME", NULL)},
                .options = port_group_add_options,
                .run = command_network_port_group_add},
        {.words = "network port-group remove",
                .summary = "remove a port group",
                .operands = {OPERAND("PORTGROUP", "port-groups")},
                .run = command_network_port_group_remove},

        {.words = "affinity list", .summary = "list the affinity rules", .run = command_affinity_list},
        {.words = "affinity show",
                .summary = "show an affinity rule, and what breaks it now",
                .operands = {OPERAND("RULE", "affinity-rules")},
                .run = command_affinity_show},
        {.words = "affinity add",
                .summary = "keep virtual machines together, apart, on or off hosts",
                .details =
                        "Starts and moves that would break the rule are refused, and hosts that keep it are "
                        "chosen; with --should it only counts in the choice. What runs already is not moved. "
                        "A "
                        "rule that cannot be kept together with those that must be is refused, and they are "
                        "named.",
                .operands = {OPERAND("NAME", NULL)},
                .options = affinity_add_options,
                .run = command_affinity_add},
        {.words = "affinity remove",
                .summary = "remove an affinity rule",
                .operands = {OPERAND("RULE", "affinity-rules")},
                .run = command_affinity_remove},

        {.words = "pool list",
                .summary = "list the resource pools, with what they use and may use",
                .run = command_pool_list},
        {.words = "pool show",
                .summary = "show a resource pool, and what is used of it now",
                .operands = {OPERAND("POOL", "pools")},
                .run = command_pool_show},
        {.words = "pool create",
                .summary = "limit what the virtual machines with the label pool=NAME use together",
                .details = "A virtual machine of the pool is started only where it fits in: those count that "
                           "run, are paused or are being started. What runs already is not touched, and may "
                           "always move. Memory that is reserved is kept free on the hosts, all taken "
                           "together, for the pool's own; other virtual machines are not started with it.",
                .operands = {OPERAND("NAME", NULL)},
                .options = pool_create_options,
                .run = command_pool_create},
        {.words = "pool set",
                .summary = "change limits and reservation of a resource pool",
                .details = "What is not named stays as it is. A limit below what is used already keeps "
                           "others from being started.",
                .operands = {OPERAND("POOL", "pools")},
                .options = pool_set_options,
                .run = command_pool_set},
        {.words = "pool delete",
                .summary = "remove a resource pool; its virtual machines keep their label and have no limits",
                .operands = {OPERAND("POOL", "pools")},
                .run = command_pool_delete},

        {.words = "cluster cpu",
                .summary = "show or set the CPU model that virtual machines get, so that they can move to "
                           "any host",
                .details = "With the policy auto that is the best model that all hosts offer, with none "
                           "(default) "
                           "what each host gives by itself. It is shown which hosts lower it and by which "
                           "features, "
                           "and which running virtual machines have features beyond it. A virtual machine "
                           "whose own "
                           "model is auto gets it at its next start; one that runs keeps what it has. A "
                           "model that "
                           "some host does not offer is refused, and the missing features are named.",
                .options = cluster_cpu_options,
                .run = command_cluster_cpu},

        {.words = "login",
                .summary = "begin a session with the manager as a user",
                .details =
                        "The session is kept in ~/.config/drover/session and used by later commands that are "
                        "given no token. It ends after 12 hours, after half an hour without a command, and "
                        "by "
                        "'drover logout'.",
                .operands = {OPERAND("USER", NULL)},
                .options = login_options,
                .run = command_login},
        {.words = "logout", .summary = "end the session", .run = command_logout},
        {.words = "whoami",
                .summary = "show as whom the manager sees this caller, and what it may do",
                .run = command_whoami},

        {.words = "user list", .summary = "list the users", .run = command_user_list},
        {.words = "user show",
                .summary = "show a user, with roles and scopes",
                .operands = {OPERAND("USER", "users")},
                .run = command_user_show},
        {.words = "user create",
                .summary = "make a user; 'user password' lets them log in",
                .operands = {OPERAND("USER", NULL)},
                .options = user_create_options,
                .run = command_user_create},
        {.words = "user grant",
                .summary = "give a user a role, everywhere or within a scope",
                .details = "A scope reaches the virtual machines, and the hosts, that have all labels it "
                           "names. A role "
                           "given within a scope does nothing for what is neither, such as datastores: give "
                           "another "
                           "role without a scope for those. Nobody can give more than they have.",
                .operands = {OPERAND("USER", "users"), OPERAND("ROLE", "roles")},
                .options = scope_options,
                .run = command_user_grant},
        {.words = "user revoke",
                .summary = "take a role from a user, in whatever scope",
                .operands = {OPERAND("USER", "users"), OPERAND("ROLE", "roles")},
                .run = command_user_revoke},
        {.words = "user disable",
                .summary = "let a user, their sessions and tokens do nothing",
                .operands = {OPERAND("USER", "users")},
                .run = command_user_disable},
        {.words = "user enable",
                .summary = "take 'user disable' back",
                .operands = {OPERAND("USER", "users")},
                .run = command_user_enable},
        {.words = "user password",
                .summary = "set a user's password; without USER one's own",
                .details = "Ends the user's other sessions.",
                .operands = {{.name = "USER", .kind = VALUE_NAME, .names_of = "users", .optional = true}},
                .options = user_password_options,
                .run = command_user_password},
        {.words = "user delete",
                .summary = "remove a user with their tokens and sessions",
                .operands = {OPERAND("USER", "users")},
                .run = command_user_delete},

        {.words = "role list", .summary = "list the roles", .run = command_role_list},
        {.words = "role show",
                .summary = "show a role",
                .operands = {OPERAND("ROLE", "roles")},
                .run = command_role_show},
        {.words = "role permissions",
                .summary = "list the permissions that a role can give",
                .run = command_role_permissions},
        {.words = "role create",
                .summary = "make a role of permissions",
                .operands = {OPERAND("ROLE", NULL)},
                .options = role_options,
                .run = command_role_create},
        {.words = "role set",
                .summary = "change the permissions of a role",
                .operands = {OPERAND("ROLE", "roles")},
                .options = role_options,
                .run = command_role_set},
        {.words = "role delete",
                .summary = "remove a role that nobody has",
                .operands = {OPERAND("ROLE", "roles")},
                .run = command_role_delete},

        {.words = "token list", .summary = "list the API tokens", .run = command_token_list},
        {.words = "token create",
                .summary = "make an API token and print it, this once",
                .operands = {OPERAND("NAME", NULL)},
                .options = token_create_options,
                .run = command_token_create},
        {.words = "token revoke",
                .summary = "end an API token",
                .operands = {OPERAND("NAME", "tokens")},
                .run = command_token_revoke},

        {.words = "audit list",
                .summary = "list who did what, newest first",
                .options = audit_list_options,
                .run = command_audit_list},
        {.words = "audit verify",
                .summary = "check the audit log's hash chain",
                .details =
                        "Exit status 1 when an entry was changed or removed. Keep the hash that is printed "
                        "elsewhere: only with it the removal of the newest entries can be noticed.",
                .run = command_audit_verify},

        {.words = "audit export",
                .summary = "print the audit log as JSON lines, oldest first",
                .details = "A line is the text that its hash is of, with \"hash\" added: docs/access.md "
                           "has how to check them without a manager.",
                .options = audit_export_options,
                .run = command_audit_export},

        {.words = "api",
                .summary = "call the API: GET, POST, PUT or DELETE, and a path such as /vms",
                .details = "Prints the answer as it came, JSON indented. The API is described by "
                           "'drover api GET /api/openapi.json'.",
                .operands = {TEXT_OPERAND("METHOD"), TEXT_OPERAND("PATH")},
                .options = api_options,
                .run = command_api},
        {.words = "events",
                .summary = "print each change of an object as it happens, until Ctrl-C",
                .options = events_options,
                .run = command_events},
        {.words = "version",
                .summary = "print the versions of this program and of the manager",
                .run = command_version},
        {.words = "completion",
                .summary = "print the completion script of a shell",
                .details = "SHELL is bash, zsh or fish; for bash: source <(drover completion bash).",
                .operands = {TEXT_OPERAND("SHELL")},
                .run = command_completion,
                .offline = true},
        {.words = "help",
                .summary = "help on a command or on a group of them",
                .operands = {{.name = "WORD", .optional = true}, {.name = "WORD", .optional = true},
                        {.name = "WORD", .optional = true}},
                .run = command_help,
                .offline = true},
        {.words = "man",
                .summary = "print the manual page",
                .run = command_man,
                .hidden = true,
                .offline = true},
        {.words = "names",
                .summary = "print the names in a collection, for completion",
                .operands = {TEXT_OPERAND("COLLECTION")},
                .run = command_names,
                .hidden = true},
};
const size_t n_command_table = ARRAY_SIZE(command_table);

enum exit_status exit_status_of(const struct error *error)
{
        switch (error ? error->code : ERROR_INTERNAL) {
        case ERROR_BAD_REQUEST:
                return EXIT_STATUS_USAGE;
        case ERROR_NOT_FOUND:
                return EXIT_STATUS_NOT_FOUND;
        case ERROR_UNAUTHENTICATED:
        case ERROR_DENIED:
                return EXIT_STATUS_DENIED;
        case ERROR_EXISTS:
        case ERROR_CONFLICT:
        case ERROR_BUSY:
        case ERROR_LOCKED:
        case ERROR_REVISION_MISMATCH:
        case ERROR_STALE_EPOCH:
        case ERROR_OWNER_ELSEWHERE:
        case ERROR_OWNER_UNKNOWN:
                return EXIT_STATUS_CONFLICT;
        case ERROR_TIMED_OUT:
                return EXIT_STATUS_TIMED_OUT;
        default:
                return EXIT_STATUS_FAILED;
        }
}
