/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/data_paths.h"

/* A path counts as no faster than this when channels are counted: what its device can do says little about what is behind, and too many
 * connections on a slow long path keep seconds' worth of data on their way, in the end with the guest stopped. */
#define ASSUMED_BYTES_PER_S UINT64_C(62500000)
#define DEFAULT_CHANNELS 3
#define CHANNELS_A_PATH 2
/* What a channel's move must promise, and how busy the path must be that it leaves: a path that waits for something else
 * gains nothing. */
#define GAIN_TO_MOVE 1.25
#define BUSY_TO_LEAVE 0.5
/* A path that wrote less than this part of the time was not measured. */
#define BUSY_TO_MEASURE 0.1
#define NEW_SHARE 0.3 /* weight of a measurement against those before */

unsigned int data_paths_channels_on(const struct data_paths *paths, unsigned int path)
{
        unsigned int n = 0;

        for (unsigned int i = 0; i < paths->n_channels; i++)
                n += paths->path_of[i] == path;
        return n;
}

/* Of a path; the mean of those that are known for one that is not, 1 when none is. */
static double capacity_of(const struct data_paths *paths, unsigned int path)
{
        double sum = 0;
        unsigned int n = 0;

        if (paths->paths[path].bytes_per_s > 0)
                return paths->paths[path].bytes_per_s;
        for (unsigned int i = 0; i < paths->n_paths; i++) {
                sum += paths->paths[i].bytes_per_s;
                n += paths->paths[i].bytes_per_s > 0;
        }
        return n > 0 ? sum / n : 1;
}

/* The path that gets the next channel when they have `counts`; DATA_PATHS_MAX when all are down. */
static unsigned int next_path(const struct data_paths *paths, const unsigned int *counts)
{
        unsigned int best = DATA_PATHS_MAX;
        double best_share = 0;

        for (unsigned int i = 0; i < paths->n_paths; i++) {
                double share = capacity_of(paths, i) / (counts[i] + 1);

                if (paths->paths[i].up && share > best_share) {
                        best = i;
                        best_share = share;
                }
        }
        return best;
}

static void count_channels(const struct data_paths *paths, unsigned int ret_counts[static DATA_PATHS_MAX])
{
        for (unsigned int i = 0; i < paths->n_paths; i++)
                ret_counts[i] = data_paths_channels_on(paths, i);
}

void data_paths_add_channels(struct data_paths *paths, unsigned int n_channels)
{
        unsigned int counts[DATA_PATHS_MAX];

        count_channels(paths, counts);
        for (unsigned int i = paths->n_channels; i < n_channels; i++) {
                unsigned int path = next_path(paths, counts);

                paths->path_of[i] = (uint8_t)(path < DATA_PATHS_MAX ? path : i % paths->n_paths);
                counts[paths->path_of[i]]++;
        }
        paths->n_channels = MAX(paths->n_channels, n_channels);
}

unsigned int data_paths_pick(struct data_paths *paths, unsigned int channel)
{
        unsigned int counts[DATA_PATHS_MAX], path;

        count_channels(paths, counts);
        counts[paths->path_of[channel]]--;
        path = next_path(paths, counts);
        if (path == DATA_PATHS_MAX) {
                path = 0;
                for (unsigned int i = 1; i < paths->n_paths; i++)
                        if (paths->paths[i].tried_last < paths->paths[path].tried_last)
                                path = i;
        }
        paths->paths[path].tried_last = ++paths->n_tries;
        return path;
}

static void measure_path(struct data_path *path, uint64_t bytes, uint64_t write_us, uint64_t elapsed_us)
{
        uint64_t busy_us = MIN(write_us, elapsed_us);
        double rate;

        path->bytes += bytes;
        path->busy = elapsed_us > 0 ? (double)busy_us / (double)elapsed_us : 0;
        if (path->busy < BUSY_TO_MEASURE || bytes == 0)
                return;
        rate = (double)bytes * 1e6 / (double)busy_us;
        path->bytes_per_s =
                path->bytes_per_s > 0 ? path->bytes_per_s + (rate - path->bytes_per_s) * NEW_SHARE : rate;
}

/* The numbers are the mover's, which may say anything. */
static uint64_t growth(uint64_t before, uint64_t now)
{
        return now > before ? MIN(now - before, (uint64_t)1 << 48) : 0;
}

void data_paths_measure(struct data_paths *paths, const uint64_t *channel_bytes,
        const uint64_t *channel_write_us, uint64_t elapsed_us)
{
        uint64_t bytes[DATA_PATHS_MAX] = {0}, write_us[DATA_PATHS_MAX] = {0};

        for (unsigned int i = 0; i < paths->n_channels; i++) {
                bytes[paths->path_of[i]] += growth(paths->channel_bytes[i], channel_bytes[i]);
                write_us[paths->path_of[i]] += growth(paths->channel_write_us[i], channel_write_us[i]);
                paths->channel_bytes[i] = channel_bytes[i];
                paths->channel_write_us[i] = channel_write_us[i];
        }
        for (unsigned int i = 0; i < paths->n_paths; i++)
                measure_path(&paths->paths[i], bytes[i], write_us[i], elapsed_us);
}

/* What the slowest channel gets. */
static double smallest_share(
        const struct data_paths *paths, const unsigned int *counts, unsigned int *ret_path)
{
        double smallest = 0;

        *ret_path = DATA_PATHS_MAX;
        for (unsigned int i = 0; i < paths->n_paths; i++) {
                double share = counts[i] > 0 ? capacity_of(paths, i) / counts[i] : 0;

                if (counts[i] > 0 && (*ret_path == DATA_PATHS_MAX || share < smallest)) {
                        smallest = share;
                        *ret_path = i;
                }
        }
        return smallest;
}

bool data_paths_find_move(const struct data_paths *paths, unsigned int *ret_channel, unsigned int *ret_path)
{
        unsigned int counts[DATA_PATHS_MAX], from, to, ignored;
        double before;

        count_channels(paths, counts);
        before = smallest_share(paths, counts, &from);
        if (from == DATA_PATHS_MAX || (paths->paths[from].up && paths->paths[from].busy < BUSY_TO_LEAVE))
                return false;
        counts[from]--;
        to = next_path(paths, counts);
        if (to == DATA_PATHS_MAX || to == from)
                return false;
        counts[to]++;
        if (smallest_share(paths, counts, &ignored) < before * GAIN_TO_MOVE)
                return false;
        for (unsigned int i = 0; i < paths->n_channels; i++)
                if (paths->path_of[i] == from)
                        *ret_channel = i;
        *ret_path = to;
        return true;
}

unsigned int data_paths_find_returning(const struct data_paths *paths, unsigned int path)
{
        unsigned int counts[DATA_PATHS_MAX], most = 0, channel = 0;

        count_channels(paths, counts);
        for (unsigned int i = 1; i < paths->n_paths; i++)
                if (i != path && (most == path || counts[i] > counts[most]))
                        most = i;
        for (unsigned int i = 0; i < paths->n_channels; i++)
                if (paths->path_of[i] == most)
                        channel = i;
        return channel;
}

unsigned int data_paths_count_channels(const struct data_paths *paths, const uint64_t *device_bytes_per_s,
        uint64_t window_bytes, unsigned int max)
{
        unsigned int n = paths->n_paths == 1 ? DEFAULT_CHANNELS : CHANNELS_A_PATH * paths->n_paths;
        uint64_t windows = 0;

        for (unsigned int i = 0; i < paths->n_paths && window_bytes > 0; i++)
                windows += MIN(device_bytes_per_s[i], ASSUMED_BYTES_PER_S) * paths->paths[i].rtt_us /
                           1000000 / window_bytes;
        return (unsigned int)CLAMP(MAX((uint64_t)n, windows + 1), (uint64_t)1, (uint64_t)max);
}

json_t *data_paths_document(const struct data_paths *paths)
{
        json_t *list = json_array();

        for (unsigned int i = 0; list && i < paths->n_paths; i++) {
                const struct data_path *path = &paths->paths[i];
                char address[64];

                json_array_append_new(list,
                        json_pack("{s:s, s:s, s:i, s:b, s:I, s:s, s:i, s:I, s:I, s:i, s:b}", "address",
                                sock_address_format(&path->address, address), "device", path->device, "mtu",
                                (int)path->mtu, "mtu_probed", path->probed, "rtt_us",
                                (json_int_t)path->rtt_us, "congestion_control", path->congestion, "channels",
                                (int)data_paths_channels_on(paths, i), "bytes", (json_int_t)path->bytes,
                                "capacity_bps", (json_int_t)(path->bytes_per_s * 8), "lost",
                                (int)path->n_lost, "up", path->up));
        }
        return list;
}
