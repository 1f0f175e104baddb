/* SPDX-License-Identifier: Apache-2.0 */

/* Numbered, checksummed records on the first disk.
 *
 * Record n lies in slot n % n_slots of the disk's start, is flushed before it counts, and every write is followed
 * by reading back a record chosen by chance. After a new boot the records of the life before are read: all slots must hold
 * what the highest number implies; only the one after it may be torn. So a write that the guest was told
 * is safe and that was lost on the way to another host is found at once, and after any crash. */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "workload.h"

enum {
        MAX_SLOTS = 1024,
        DEFAULT_RATE = 50,
        MAX_RATE = 10000,
};

struct record {
        uint64_t magic;
        uint64_t number;
        uint64_t written_ns;
        uint64_t checksum; /* of all the rest */
        uint64_t payload[PAGE_SIZE / 8 - 4];
};
_Static_assert(sizeof(struct record) == PAGE_SIZE, "a record is a page");

static const uint64_t record_magic = UINT64_C(0x64726f7665722032);
static const char *const devices[] = {"/dev/vda", "/dev/sda"};

static struct {
        pthread_mutex_t lock; /* over everything here */
        int fd;
        const char *device;
        char chosen[32]; /* by disk_choose() */
        bool stopped;
        uint64_t n_slots;
        uint64_t rate;
        uint64_t first;  /* lowest number that can be on the disk; 0: none yet */
        uint64_t last;   /* highest number whose write and flush succeeded */
        uint64_t before; /* the same of the life before this boot */
        uint64_t n_checked;
        uint64_t random;
        uint64_t slowest_ns;
        struct record *buffer; /* aligned for O_DIRECT */
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1, .rate = DEFAULT_RATE};

static uint64_t record_checksum(const struct record *record)
{
        uint64_t sum = mix64(record->magic) ^ mix64(record->number + 1) ^ mix64(record->written_ns + 2);

        for (size_t i = 0; i < sizeof(record->payload) / 8; i++)
                sum = (sum ^ record->payload[i]) * UINT64_C(0x100000001b3);
        return sum;
}

static bool record_valid(const struct record *record, uint64_t slot)
{
        return record->magic == record_magic && record->number % disk.n_slots == slot &&
               record->checksum == record_checksum(record);
}

static bool read_slot(uint64_t slot)
{
        ssize_t n = pread(disk.fd, disk.buffer, PAGE_SIZE, (off_t)(slot * PAGE_SIZE));

        if (n == PAGE_SIZE)
                return true;
        fault("disk %s: reading record slot %" PRIu64 " gave %s", disk.device, slot,
                n < 0 ? strerror(errno) : "too little");
        return false;
}

static void check_record(uint64_t number)
{
        uint64_t slot = number % disk.n_slots;

        if (!read_slot(slot))
                return;
        disk.n_checked++;
        if (!record_valid(disk.buffer, slot) || disk.buffer->number != number)
                fault("disk %s slot %" PRIu64 ": record %" PRIu64 " expected, found number %" PRIu64 " (%s)",
                        disk.device, slot, number, disk.buffer->number,
                        record_valid(disk.buffer, slot) ? "whole" : "damaged");
}

/* The lowest number that is still on the disk: the ring holds the last n_slots. */
static uint64_t lowest(void)
{
        return disk.last > disk.n_slots && disk.last - disk.n_slots + 1 > disk.first
                       ? disk.last - disk.n_slots + 1
                       : disk.first;
}

static void write_record(void)
{
        struct record *record = disk.buffer;
        uint64_t number = disk.last + 1, started_ns = monotonic_ns(), took_ns;

        *record = (struct record){.magic = record_magic, .number = number, .written_ns = started_ns};
        for (size_t i = 0; i < sizeof(record->payload) / 8; i++)
                record->payload[i] = i % 2 == 0 ? mix64(number + i) : number;
        record->checksum = record_checksum(record);
        if (pwrite(disk.fd, record, PAGE_SIZE, (off_t)(number % disk.n_slots * PAGE_SIZE)) != PAGE_SIZE ||
                fdatasync(disk.fd) < 0) {
                fault("disk %s: writing record %" PRIu64 ": %s", disk.device, number, strerror(errno));
                disk.rate = 0;
                return;
        }
        took_ns = monotonic_ns() - started_ns;
        if (took_ns > disk.slowest_ns)
                disk.slowest_ns = took_ns;
        disk.last = number;
        if (disk.first == 0)
                disk.first = number;
}

/* What a former life of this guest left on the disk. */
static void read_former_life(void)
{
        uint64_t n_valid = 0, highest = 0;

        for (uint64_t slot = 0; slot < disk.n_slots; slot++) {
                if (!read_slot(slot))
                        return;
                if (!record_valid(disk.buffer, slot))
                        continue;
                n_valid++;
                if (disk.buffer->number > highest)
                        highest = disk.buffer->number;
        }
        if (n_valid == 0)
                return;
        disk.before = disk.last = highest;
        disk.first = highest >= disk.n_slots ? highest - disk.n_slots + 1 : 1;
        for (uint64_t number = disk.first; number <= highest; number++) {
                /* The slot of the next write may hold half of a record that was never acknowledged. */
                if (number + disk.n_slots == highest + 1)
                        disk.first++;
                else
                        check_record(number);
        }
}

static void *disk_loop(void *unused)
{
        for (;;) {
                uint64_t rate, at_ns = monotonic_ns();

                pthread_mutex_lock(&disk.lock);
                rate = disk.stopped ? 0 : disk.rate;
                if (rate > 0) {
                        write_record();
                        disk.random = mix64(disk.random + 1);
                        check_record(lowest() + disk.random % (disk.last - lowest() + 1));
                }
                pthread_mutex_unlock(&disk.lock);
                sleep_until(at_ns + 1000000000 / (rate > 0 ? rate : 10));
        }
        return NULL;
}

const char *disk_choose(const char *path)
{
        if (path == NULL || strlen(path) >= sizeof(disk.chosen))
                return "device PATH or none";
        memcpy(disk.chosen, path, strlen(path) + 1);
        return NULL;
}

static void open_device(void)
{
        size_t n = disk.chosen[0] != '\0' ? 1 : sizeof(devices) / sizeof(devices[0]);

        for (size_t i = 0; i < n && disk.fd < 0; i++) {
                disk.device = disk.chosen[0] != '\0' ? disk.chosen : devices[i];
                disk.fd = open(disk.device, O_RDWR | O_DIRECT | O_CLOEXEC);
        }
}

void disk_start(void)
{
        uint64_t size_bytes;

        open_device();
        if (disk.fd < 0)
                return;
        if (ioctl(disk.fd, BLKGETSIZE64, &size_bytes) < 0 || size_bytes < 2 * PAGE_SIZE) {
                fault("disk %s has no room", disk.device);
                return;
        }
        disk.n_slots = size_bytes / PAGE_SIZE < MAX_SLOTS ? size_bytes / PAGE_SIZE : MAX_SLOTS;
        disk.buffer = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
        if (disk.buffer == NULL) {
                fault("no memory for the disk's buffer");
                return;
        }
        read_former_life();
        start_thread(disk_loop, NULL);
}

const char *disk_rate(const char *records_per_s)
{
        unsigned long value;
        char *end;

        if (records_per_s == NULL || *records_per_s < '0' || *records_per_s > '9')
                return "disk RECORDS_PER_S";
        value = strtoul(records_per_s, &end, 10);
        if (*end != '\0' || value > MAX_RATE)
                return "disk RECORDS_PER_S: at most 10000";
        pthread_mutex_lock(&disk.lock);
        disk.rate = value;
        pthread_mutex_unlock(&disk.lock);
        return NULL;
}

void disk_verify(void)
{
        uint64_t number, end;

        if (disk.buffer == NULL)
                return;
        pthread_mutex_lock(&disk.lock);
        number = lowest();
        end = disk.last;
        pthread_mutex_unlock(&disk.lock);
        for (; end > 0 && number <= end; number++) {
                pthread_mutex_lock(&disk.lock);
                if (number >= lowest())
                        check_record(number);
                pthread_mutex_unlock(&disk.lock);
        }
}

void disk_status(FILE *out)
{
        uint64_t size_bytes = 0;

        pthread_mutex_lock(&disk.lock);
        if (disk.fd >= 0 && ioctl(disk.fd, BLKGETSIZE64, &size_bytes) < 0)
                size_bytes = 0;
        fprintf(out,
                "\"disk\": \"%s\", \"disk_bytes\": %" PRIu64 ", \"records_written\": %" PRIu64
                ", \"records_before\": %" PRIu64 ", \"records_checked\": %" PRIu64
                ", \"slowest_write_ms\": %.1f, ",
                disk.fd < 0 ? "" : disk.device, size_bytes, disk.last, disk.before, disk.n_checked,
                (double)disk.slowest_ns / 1e6);
        pthread_mutex_unlock(&disk.lock);
}

void disk_stop(void)
{
        pthread_mutex_lock(&disk.lock);
        disk.stopped = true;
        if (disk.fd >= 0)
                fsync(disk.fd);
        pthread_mutex_unlock(&disk.lock);
}
