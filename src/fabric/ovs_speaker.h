/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Sends frames into a bridge of Open vSwitch as if they came out of a guest's tap: in the VLAN of its port, to all but that port, and the
 * bridge learns their sender there. Nobody but the guest's QEMU can write to the tap itself, and what is sent at another port is learned there.
 *
 * It is OpenFlow 1.0's packet-out (OpenFlow Switch Specification 1.0.0, section 5.3.6) with the action NORMAL, over the socket that ovs-vswitchd offers for
 * each bridge, BRIDGE.mgmt beside its database's. Nothing is waited for: what does not get through is as lost as a frame may be. */

#include "base/macros.h"

#include <stddef.h>
#include <stdint.h>

struct ovs_speaker;

/* port: OpenFlow's number of the tap, 1 to 65279. -ENOENT or another errno of connecting: there is no such bridge, or no ovs-vswitchd. */
int ovs_speaker_new(const char *db_path, const char *bridge, uint16_t port, struct ovs_speaker **ret_speaker);
/* Accepts NULL. */
void ovs_speaker_free(struct ovs_speaker *speaker);
DEFINE_CLEANUP(struct ovs_speaker *, ovs_speaker_free)

/* An Ethernet frame without checksum, at most OVS_SPEAKER_FRAME_MAX bytes. 0 or a negative errno. -EAGAIN: ovs-vswitchd reads nothing just now; the frame,
 * or the rest of it, goes before the next one, or the next one is lost. */
#define OVS_SPEAKER_FRAME_MAX 1514
int ovs_speaker_say(struct ovs_speaker *speaker, const void *frame, size_t len);
