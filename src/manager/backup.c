/* SPDX-License-Identifier: Apache-2.0 */

/* The lines: a head with the store's counters, the files of the authority, each object, and an end with their number and a sum over
 * all lines before it: sum = SHA-256 of the sum before it (hexadecimal; at first empty) and the line. */

#include "manager/backup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "io/file.h"
#include "io/pki.h"
#include "manager/audit.h"
#include "manager/ca.h"
#include "manager/json.h"
#include "manager/version.h"

#define FORMAT "drover-backup"
#define FORMAT_VERSION 1
#define LINE_MAX_BYTES (STORE_DOCUMENT_MAX + 65536)
/* Clients may have seen revisions that were given out after the backup was made; none of them comes again. */
#define REVISION_GAP UINT64_C(1000000)

/* --- Sum ----------------------------------------------------------------------------------------------------------- */

struct sum {
        char hex[PKI_FINGERPRINT_SIZE];
};

static int sum_add(struct sum *sum, const char *line)
{
        _cleanup_free_ char *text = alloc_printf("%s%s", sum->hex, line);

        return text ? pki_sha256_hex(text, strlen(text), sum->hex) : -ENOMEM;
}

/* --- Writing ------------------------------------------------------------------------------------------------------- */

struct writer {
        FILE *file;
        struct sum sum;
        uint64_t n_objects;
        const struct config *config;
        const struct clock *clock;
        struct error **ret_error; /* of what the store does not tell of by itself */
};

static int write_line(struct writer *w, const char *line)
{
        int r = sum_add(&w->sum, line);

        if (r < 0)
                return r;
        return fputs(line, w->file) < 0 || fputc('\n', w->file) < 0 ? -EIO : 0;
}

/* Takes the document over. */
static int write_document(struct writer *w, json_t *doc)
{
        _cleanup_free_ char *line = doc ? doc_to_text(doc) : NULL;

        json_decref(doc);
        return line ? write_line(w, line) : -ENOMEM;
}

static int write_authority(struct writer *w)
{
        struct ca_files files = {};
        int r = ca_read_files(w->config->state_dir, &files, w->ret_error);

        if (r >= 0)
                r = write_document(w, json_pack("{s:{s:s, s:s, s:s}}", "authority", "ca.pem", files.ca_pem,
                                              "ca.key", files.ca_key, "addresses", files.addresses));
        ca_files_deinit(&files);
        return r;
}

static int write_head(void *userdata, const struct store_counters *counters)
{
        struct writer *w = userdata;
        char time[32];
        int r;

        r = write_document(
                w, json_pack("{s:s, s:i, s:s, s:s, s:s, s:I, s:I}", "format", FORMAT, "version",
                           FORMAT_VERSION, "created", text_format_time(clock_unix_ms(w->clock), time),
                           "program", DROVER_VERSION, "server", w->config->name, "revision",
                           (json_int_t)counters->revision, "term", (json_int_t)counters->term));
        return r < 0 ? r : write_authority(w);
}

static int write_object(void *userdata, const struct store_object *object)
{
        _cleanup_free_ char *line = alloc_printf(
                "{\"revision\":%llu,\"object\":%s}", (unsigned long long)object->revision, object->doc_text);
        struct writer *w = userdata;

        w->n_objects++;
        return line ? write_line(w, line) : -ENOMEM;
}

static int write_end(struct writer *w)
{
        json_t *end =
                json_pack("{s:{s:I, s:s}}", "end", "objects", (json_int_t)w->n_objects, "sum", w->sum.hex);
        int r = write_document(w, end);

        if (r < 0)
                return r;
        return fflush(w->file) || fsync(fileno(w->file)) < 0 ? -errno : 0;
}

int backup_write(struct store *store, const struct config *config, const struct clock *clock,
        const char *path, struct error **ret_error)
{
        struct writer w = {.config = config, .clock = clock, .ret_error = ret_error};
        _cleanup_fd_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        int r;

        if (fd < 0)
                return errno == EEXIST ? error_set(ret_error, ERROR_EXISTS, "Give the backup another name.",
                                                 "there is a file %s already", path)
                                       : error_from_errno(ret_error, errno, "cannot make %s", path);
        w.file = fdopen(fd, "w");
        if (!w.file)
                return error_from_errno(ret_error, errno, "cannot write %s", path);
        TAKE_FD(fd);
        r = store_dump(store,
                &(struct store_dump){.begin = write_head, .object = write_object, .userdata = &w}, ret_error);
        if (r >= 0)
                r = write_end(&w);
        if (fclose(w.file) && r >= 0)
                r = -errno;
        if (r >= 0)
                r = file_sync_parent(path);
        if (r < 0) {
                /* The store says what is wrong with it; the rest has to do with the file. */
                if (!ret_error || !*ret_error)
                        error_from_errno(ret_error, r, "cannot write %s", path);
                (void)unlink(path);
        }
        return r;
}

/* --- Reading ------------------------------------------------------------------------------------------------------- */

struct reader {
        FILE *file;
        const char *path;
        const struct clock *clock;
        struct sum sum;
        uint64_t line_number;
        char *line;
        size_t line_size;
        json_t *doc; /* of the line */
        char *text;  /* of the object in it */
        uint64_t n_objects;
        struct store_counters counters;
        json_t *head, *authority;
};

static void reader_deinit(struct reader *reader)
{
        if (reader->file)
                fclose(reader->file);
        free(reader->line);
        free(reader->text);
        json_decref(reader->doc);
        json_decref(reader->head);
        json_decref(reader->authority);
}

static int damaged(const struct reader *reader, struct error **ret_error, const char *what)
{
        return error_set(ret_error, ERROR_BAD_DOCUMENT, "Take another backup: nothing was changed.",
                "%s: line %llu: %s", reader->path, (unsigned long long)reader->line_number, what);
}

/* The next line as a document, in reader->doc. */
static int read_line(struct reader *reader, struct error **ret_error)
{
        ssize_t len = getline(&reader->line, &reader->line_size, reader->file);

        reader->line_number++;
        json_decref(TAKE_PTR(reader->doc));
        if (len < 0 || reader->line[len - 1] != '\n')
                return damaged(reader, ret_error, "the backup was cut off here");
        if (len > LINE_MAX_BYTES || (size_t)len != strlen(reader->line))
                return damaged(reader, ret_error, "this is no line of a backup");
        reader->line[len - 1] = '\0';
        if (doc_parse(reader->line, (size_t)len - 1, &reader->doc, NULL) < 0)
                return damaged(reader, ret_error, "this is no JSON document");
        return 0;
}

static int read_head(struct reader *reader, struct error **ret_error)
{
        json_int_t version;
        int r = read_line(reader, ret_error);

        if (r < 0)
                return r;
        if (strcmp(json_text(reader->doc, "format"), FORMAT))
                return damaged(reader, ret_error, "this is no backup of drover-manager");
        version = json_integer_value(json_object_get(reader->doc, "version"));
        if (version != FORMAT_VERSION)
                return error_set(ret_error, ERROR_NOT_SUPPORTED,
                        "Restore it with the drover-manager that made it, or a newer one.",
                        "%s has version %lld of the form and this program knows %d", reader->path,
                        (long long)version, FORMAT_VERSION);
        reader->counters.revision = (uint64_t)json_integer_value(json_object_get(reader->doc, "revision"));
        reader->counters.term = (uint64_t)json_integer_value(json_object_get(reader->doc, "term"));
        reader->head = json_incref(reader->doc);
        if (sum_add(&reader->sum, reader->line) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = read_line(reader, ret_error);
        if (r < 0)
                return r;
        reader->authority = json_incref(json_object_get(reader->doc, "authority"));
        if (!reader->authority)
                return damaged(reader, ret_error, "the certificate authority is missing");
        return sum_add(&reader->sum, reader->line) < 0
                       ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory")
                       : 0;
}

static int check_end(const struct reader *reader, const json_t *end, struct error **ret_error)
{
        if ((uint64_t)json_integer_value(json_object_get(end, "objects")) != reader->n_objects)
                return damaged(reader, ret_error, "objects are missing");
        if (strcmp(json_text(end, "sum"), reader->sum.hex))
                return damaged(
                        reader, ret_error, "the sum is not that of the lines before: the file was changed");
        return 0;
}

/* 1: an object, in reader->doc; 0: that was all, and it is whole. */
static int read_object(struct reader *reader, struct error **ret_error)
{
        const json_t *object, *end;
        int r = read_line(reader, ret_error);

        if (r < 0)
                return r;
        end = json_object_get(reader->doc, "end");
        if (end && fgetc(reader->file) != EOF)
                return damaged(reader, ret_error, "something follows the end");
        if (end)
                return check_end(reader, end, ret_error);
        object = json_object_get(reader->doc, "object");
        if (!*json_text(object, "kind") || !*json_text(object, "uid") || !*json_text(object, "name") ||
                json_revision(reader->doc) == 0)
                return damaged(reader, ret_error, "this is no object");
        reader->n_objects++;
        return sum_add(&reader->sum, reader->line) < 0
                       ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory")
                       : 1;
}

static int reader_open(struct reader *reader, const char *path, struct error **ret_error)
{
        *reader = (struct reader){.path = path, .clock = reader->clock};
        reader->file = fopen(path, "re");
        if (!reader->file)
                return error_from_errno(ret_error, errno, "cannot read %s", path);
        return read_head(reader, ret_error);
}

/* Reads all of it, for the sake of the errors. */
static int check_whole(const char *path, struct error **ret_error)
{
        _cleanup_(reader_deinit) struct reader reader = {};
        int r = reader_open(&reader, path, ret_error);

        while (r >= 0 && (r = read_object(&reader, ret_error)) > 0)
                ;
        return r;
}

/* --- Restoring ----------------------------------------------------------------------------------------------------- */

/* What was under way when the backup was made has ended since, one way or another; to take it up again would do it twice. */
static int end_task(const struct reader *reader, json_t *task)
{
        _cleanup_error_ struct error *error = NULL;
        json_t *status = json_status(task);
        char time[32];

        if (!status || json_is_string(json_object_get(status, "finished")))
                return 0;
        error_set(&error, ERROR_CANCELLED, "Look at the object: its hosts say what became of it.",
                "the task was under way when the backup was made that has been restored since");
        if (json_object_set_new(status, "error", error_to_json(error)) < 0 ||
                json_object_set_new(status, "state", json_string("failed")) < 0 ||
                json_object_set_new(status, "step", json_null()) < 0 ||
                json_object_set_new(status, "finished",
                        json_string(text_format_time(clock_unix_ms(reader->clock), time))) < 0)
                return -ENOMEM;
        return 0;
}

static int next_object(void *userdata, struct store_object *ret_object, struct error **ret_error)
{
        struct reader *reader = userdata;
        json_t *object;
        int r = read_object(reader, ret_error);

        if (r <= 0)
                return r;
        object = json_object_get(reader->doc, "object");
        if (!strcmp(json_text(object, "kind"), "task"))
                r = end_task(reader, object);
        free(TAKE_PTR(reader->text));
        reader->text = r >= 0 ? doc_to_text(object) : NULL;
        if (!reader->text)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *ret_object = (struct store_object){.kind = json_text(object, "kind"),
                .uid = json_text(object, "uid"),
                .name = json_text(object, "name"),
                .revision = json_revision(reader->doc),
                .doc_text = reader->text};
        return 1;
}

static int write_entry(
        struct store *store, const struct clock *clock, const json_t *head, struct error **ret_error)
{
        return audit_write(store, clock,
                &(struct audit_entry){.who = "local-administrator",
                        .action = "store.restore",
                        .result = "done",
                        .detail = (json_t *)head},
                ret_error);
}

int backup_restore(struct store *store, const struct config *config, const struct clock *clock,
        const char *path, const char *const *addresses, struct error **ret_error)
{
        _cleanup_(reader_deinit) struct reader reader = {.clock = clock};
        struct store_restore restore = {.next = next_object, .userdata = &reader};
        struct ca_files files;
        int r;

        r = check_whole(path, ret_error);
        if (r >= 0)
                r = reader_open(&reader, path, ret_error);
        if (r < 0)
                return r;
        files = (struct ca_files){.ca_pem = (char *)json_text(reader.authority, "ca.pem"),
                .ca_key = (char *)json_text(reader.authority, "ca.key"),
                .addresses = (char *)json_text(reader.authority, "addresses")};
        r = ca_restore(config->state_dir, &files, addresses, ret_error);
        /* Agents may have seen terms of leaders after the backup. Seconds since 1970 are later than any number of leaders. */
        restore.counters.revision = reader.counters.revision + REVISION_GAP;
        restore.counters.term =
                MAX(reader.counters.term, (uint64_t)MAX(clock_unix_ms(clock) / 1000, INT64_C(0)));
        if (r >= 0)
                r = store_restore(store, &restore, ret_error);
        return r < 0 ? r : write_entry(store, clock, reader.head, ret_error);
}
