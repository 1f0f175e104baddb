/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The ways from this host to a migration's destination, one for each of its addresses, and which channel is on which. No I/O.
 *
 * A page belongs to one channel for good (docs/protocol.md), so all channels carry the same share of the guest's memory: what
 * counts is the slowest one. Channels are given to paths by the method of D'Hondt: the next goes to where capacity / (channels +
 * 1) is largest, which makes the smallest share as large as it can be. */

#include <jansson.h>

#include "io/sock.h"

#define DATA_PATHS_MAX 8
#define DATA_CHANNELS_MAX 64

struct data_path {
        struct sock_address address;
        char device[IFNAMSIZ]; /* "": not known */
        bool bound;            /* connections go through that one, whatever the routes say */
        unsigned int mtu;      /* that passes, or the kernel's idea of it; 0: not known */
        bool probed;           /* the former */
        bool up;               /* false: connections cannot be made, or stood still */
        uint64_t rtt_us;
        char congestion
                [SOCK_CONGESTION_SIZE]; /* how it is controlled on the newest connection; "": not known */
        double bytes_per_s;             /* capacity, estimated; 0: not known */
        double busy;                    /* part of the time that its channels wrote, of late; 0 to 1 */
        uint64_t bytes;                 /* sent */
        unsigned int n_lost;
        uint64_t return_at_ms, return_delay_ms; /* when a path that stood still is tried again */
        uint64_t tried_last;                    /* number of the attempt */
};

struct data_paths {
        struct data_path paths[DATA_PATHS_MAX];
        unsigned int n_paths;
        unsigned int n_channels;
        uint8_t path_of[DATA_CHANNELS_MAX];
        uint64_t n_tries;
        uint64_t channel_bytes[DATA_CHANNELS_MAX], channel_write_us[DATA_CHANNELS_MAX]; /* as last told */
};

/* Gives channels up to n_channels a path each; those that have one keep it. */
void data_paths_add_channels(struct data_paths *paths, unsigned int n_channels);
/* Where a channel's next connection should go; the attempt is noted. While all paths are down, each in turn. */
unsigned int data_paths_pick(struct data_paths *paths, unsigned int channel);
/* Takes in what each channel sent and how long it took in all, elapsed_us after the last time. */
void data_paths_measure(struct data_paths *paths, const uint64_t *channel_bytes,
        const uint64_t *channel_write_us, uint64_t elapsed_us);
/* A channel whose move to another path that is up would bring at least a quarter more; false: none. */
bool data_paths_find_move(const struct data_paths *paths, unsigned int *ret_channel, unsigned int *ret_path);
/* A channel that would be on `path`, which is down, if it was up. */
unsigned int data_paths_find_returning(const struct data_paths *paths, unsigned int path);
unsigned int data_paths_channels_on(const struct data_paths *paths, unsigned int path);
/* So many channels that each one's window (bytes) suffices to fill the paths, whose devices carry device_bytes_per_s (0: not known)
 * each, 500 Mbit/s at most: rate times round trip, at least the usual number. 1 to `max`. */
unsigned int data_paths_count_channels(const struct data_paths *paths, const uint64_t *device_bytes_per_s,
        uint64_t window_bytes, unsigned int max);
/* For the record: [{address, device, mtu, mtu_probed, rtt_us, congestion_control, channels, bytes, capacity_bps, lost, up}]; the caller's. */
json_t *data_paths_document(const struct data_paths *paths);
