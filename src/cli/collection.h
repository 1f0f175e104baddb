/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Lists of the API, all pages of them, and single documents. */

#include "cli/cli.h"
#include "cli/output.h"

/* GET path (with its query) to the last page, or until `limit` items (0: no limit) are there. *ret_list is a document
 * like that of one page, with all items; the caller owns it. */
int collection_get(
        struct cli *cli, const char *path, uint64_t limit, json_t **ret_list, struct error **ret_error);

/* The same, printed: items as a table, or the list document. */
int collection_print(struct cli *cli, const char *path, uint64_t limit, const struct output_column *columns,
        struct error **ret_error);

/* GET COLLECTION/NAME, printed. `collection` is "/vms". */
int collection_show(struct cli *cli, const char *collection, const char *name, struct error **ret_error);

/* GET COLLECTION/NAMEsuffixNUMBER, the number being the option's, or else `number`: ("/vms", "web1", "/console?tail=", "tail"). *ret_answer
 * is the caller's. */
int collection_get_some(struct cli *cli, const struct arguments *arguments, const char *collection,
        const char *suffix, const char *option, uint64_t number, json_t **ret_answer,
        struct error **ret_error);

/* METHOD COLLECTION/NAMEsuffix as a task: ("POST", "/vms", "web1", "/start"). `body` is taken over. */
int collection_act(struct cli *cli, const char *method, const char *collection, const char *name,
        const char *suffix, json_t *body, struct error **ret_error);
