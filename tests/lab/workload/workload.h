/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The program that runs as the only process of the workload guest. It gives a migration hard work and knows
 * at any time what its memory, disk, clock and connections must look like:
 *
 *   memory.c   fills memory with pages that can be derived from (page, version), changes them at a set rate,
 *              verifies them all the time
 *   disk.c     writes numbered, checksummed records to the first disk and reads them back
 *   clock.c    watches that time never runs backwards, and how long the guest was ever away
 *   server.c   TCP: port 7000 a counter that lives in the connection, port 7001 commands (see COMMANDS there)
 *   power.c    power button, power off, reboot, crash
 *   main.c     kernel command line, start
 *
 * Each module owns its state and its lock. The first fault found is kept and makes `verify` fail for ever:
 * a guest that was wrong once is wrong. */

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
        PAGE_SIZE = 4096,
        COUNTER_PORT = 7000,
        COMMAND_PORT = 7001,
};

/* main.c: the record of faults, and helpers */

/* Records a fault: printed on the console, counted, the first one kept. */
void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t fault_count(void);
/* For tests that harm the guest on purpose, several times in one life. */
void fault_forget(void);
/* Copies the text of the first fault ("" when there is none) to buffer. */
void fault_first(char *buffer, size_t size);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Starts a detached thread; a guest that cannot is of no use, so it ends. */
void start_thread(void *(*run)(void *), void *argument);
uint64_t monotonic_ns(void);
/* Sleeps until the monotonic time at_ns. */
void sleep_until(uint64_t at_ns);
/* A well mixed function of x (splitmix64's output step, Steele et al. 2014). */
uint64_t mix64(uint64_t x);

/* memory.c. Arguments are words as typed, NULL where absent; return NULL or what was wrong. */

void memory_start(void);
/* content: text, random, zero, same, mixed */
const char *memory_resize(const char *mebibytes, const char *content);
/* order: sequential, random, hot; style: line (64 bytes of a page change), page (all of it) */
const char *memory_dirty(
        const char *pages_per_s, const char *span_mebibytes, const char *order, const char *style);
/* Checks every page now. */
void memory_verify(void);
/* Writes the module's members of the status document to out, each followed by a comma. */
void memory_status(FILE *out);

/* disk.c */

void disk_start(void);
/* Before disk_start(): the device to use, "none" for none. Without this: the first of /dev/vda, /dev/sda. */
const char *disk_choose(const char *path);
const char *disk_rate(const char *records_per_s);
void disk_verify(void);
void disk_status(FILE *out);
/* Ends writing and flushes; for an orderly power off. */
void disk_stop(void);

/* clock.c */

void clock_start(void);
void clock_reset(void);
void clock_status(FILE *out);

/* server.c */

void server_start(void);

/* power.c */

void power_start(void);
_Noreturn void power_off(void);
_Noreturn void power_reboot(void);
void power_crash(void);
