/* SPDX-License-Identifier: Apache-2.0 */

/* Frames as a guest or anybody on its network may send them: the input is a series of them, each with its length (two bytes) in front. What is
 * taken from them stays in bounds, and only form that was checked leads to anything. */

#include <assert.h>
#include <string.h>

#include "base/alloc.h"
#include "fabric/guest_addresses.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct guest_addresses *a)
{
        struct guest_neighbour gateways[GUEST_GATEWAYS_MAX];
        size_t n = guest_addresses_gateways(a, gateways);

        assert(a->n_own <= GUEST_ADDRESSES_MAX && a->n_neighbours <= GUEST_NEIGHBOURS_MAX &&
                a->n_routers <= GUEST_GATEWAYS_MAX && n <= a->n_routers);
        for (size_t i = 0; i < a->n_own; i++)
                assert(ip_address_is_unicast(&a->own[i]));
        for (size_t i = 0; i < n; i++)
                assert(ip_address_is_unicast(&gateways[i].address) && mac_is_unicast(gateways[i].mac));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const uint8_t guest[MAC_SIZE] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
        struct guest_addresses addresses;

        guest_addresses_init(&addresses, guest);
        while (size >= 2) {
                size_t len = MIN((size_t)(data[0] << 8 | data[1]), size - 2);
                _cleanup_free_ uint8_t *copy = alloc_zero(len); /* of exactly this size, for the sanitizer */
                char text[IP_ADDRESS_STRING_SIZE];
                struct frame f;

                if (!copy)
                        return 0;
                memcpy(copy, data + 2, len);
                frame_parse(copy, len, &f);
                if (f.kind != FRAME_OTHER)
                        assert(len >= FRAME_HEADER_SIZE &&
                                strlen(ip_address_format(&f.sender, text)) < sizeof(text));
                guest_addresses_take(&addresses, &f);
                check(&addresses);
                data += 2 + len;
                size -= 2 + len;
        }
        return 0;
}
