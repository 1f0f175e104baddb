/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* From where a user has logged in before: whoever tries passwords elsewhere cannot keep them from logging in from there (OWASP: trusted
 * and untrusted clients are counted apart). In the store as "login-addresses", by the user's uid; removed with the user,
 * and when somebody else sets the password. */

#include "base/clock.h"
#include "manager/store.h"

#define LOGIN_ADDRESSES_MAX 16 /* of a user: one more takes the place of the one used the longest ago */
#define LOGIN_ADDRESS_DAYS 90  /* not used for so long, it counts no more */

/* `address`: as api_address_key() has it. False, too, when it cannot be found out. */
bool login_address_is_known(
        struct store *store, const struct clock *clock, const char *user_uid, const char *address);
/* Puts into the batch that the user has logged in from there; nothing when that was recorded within the last day. */
int login_address_note(struct store *store, const struct clock *clock, struct store_batch *batch,
        const char *user_uid, const char *address, struct error **ret_error);
void login_addresses_remove(struct store_batch *batch, const char *user_uid);
