/* SPDX-License-Identifier: Apache-2.0 */
#include "store_places.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"

#define BALLAST_BYTES (2u << 20)

struct postgresql_server store_place_server;
static struct folder server_folder;

static char *below(const struct folder *folder, const char *name)
{
        char *path = alloc_printf("%s/%s", folder->path, name);

        assert_non_null(path);
        return path;
}

/* --- Small file systems: mounted in a namespace of the test's own, so that nothing is left behind ------------------------- */

static bool private_mounts(void)
{
        return geteuid() == 0 && unshare(CLONE_NEWNS) == 0 &&
               mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static bool mount_small(const char *path, const char *size)
{
        assert_int_equal(mkdir(path, 0755), 0);
        if (mount("tmpfs", path, "tmpfs", 0, size) == 0)
                return true;
        assert_int_equal(rmdir(path), 0);
        return false;
}

static void write_ballast(const char *folder, size_t size_bytes)
{
        _cleanup_free_ char *path = alloc_printf("%s/ballast", folder);
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(posix_fallocate(fd, 0, (off_t)size_bytes), 0);
        close(fd);
}

static void make_room(const struct folder *folder)
{
        _cleanup_free_ char *path = below(folder, "small/ballast");

        assert_int_equal(unlink(path), 0);
}

/* --- SQLite -------------------------------------------------------------------------------------------------------------- */

static bool sqlite_begin(void)
{
        (void)private_mounts();
        return true;
}

static void nothing(void)
{
}

static void sqlite_where(const struct folder *folder, char ret[static 256])
{
        snprintf(ret, 256, "sqlite:%s/db/test.db", folder->path);
}

static void sqlite_clear(const struct folder *folder)
{
        _cleanup_free_ char *path = below(folder, "db");

        assert_int_equal(mkdir(path, 0700), 0);
}

static void sqlite_change(const struct folder *folder, const char *sql)
{
        _cleanup_free_ char *path = below(folder, "db/test.db"), *text = alloc_printf(sql, "");
        sqlite3 *db = NULL;

        assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
        sqlite3_close(db);
}

static void sqlite_set_version(const struct folder *folder, int version)
{
        _cleanup_free_ char *sql = alloc_printf("PRAGMA user_version = %d%%s", version);

        sqlite_change(folder, sql);
}

static bool sqlite_read_only(const struct folder *folder, bool on)
{
        _cleanup_free_ char *path = below(folder, "db");

        if (!on)
                return umount2(path, MNT_DETACH) == 0;
        return mount(path, path, NULL, MS_BIND, NULL) == 0 &&
               mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) == 0;
}

static bool sqlite_small(const struct folder *folder, char ret_where[static 256])
{
        _cleanup_free_ char *path = below(folder, "small");

        if (!mount_small(path, "size=6m"))
                return false;
        write_ballast(path, BALLAST_BYTES);
        snprintf(ret_where, 256, "sqlite:%s/test.db", path);
        return true;
}

static void sqlite_small_end(const struct folder *folder)
{
        _cleanup_free_ char *path = below(folder, "small");

        assert_int_equal(umount2(path, MNT_DETACH), 0);
}

const struct store_place store_place_sqlite = {
        .name = "store on SQLite",
        .begin = sqlite_begin,
        .end = nothing,
        .where = sqlite_where,
        .clear = sqlite_clear,
        .change = sqlite_change,
        .set_version = sqlite_set_version,
        .read_only = sqlite_read_only,
        .small = sqlite_small,
        .make_room = make_room,
        .small_end = sqlite_small_end,
};

/* --- PostgreSQL ---------------------------------------------------------------------------------------------------------- */

#define SMALL_PATH "small" /* in the server's folder: its processes saw the mount before they began */

static bool small_mounted;

static bool postgresql_begin(void)
{
        _cleanup_free_ char *small = NULL;

        (void)private_mounts();
        folder_make(&server_folder);
        small = below(&server_folder, SMALL_PATH);
        small_mounted = mount_small(small, "size=32m,mode=0777");
        if (postgresql_server_start(&store_place_server, server_folder.path))
                return true;
        folder_remove(&server_folder);
        return false;
}

static void postgresql_end(void)
{
        _cleanup_free_ char *small = below(&server_folder, SMALL_PATH);

        postgresql_server_stop(&store_place_server);
        if (small_mounted)
                assert_int_equal(umount2(small, MNT_DETACH), 0);
        folder_remove(&server_folder);
}

static void postgresql_where(const struct folder *folder, char ret[static 256])
{
        postgresql_server_url(&store_place_server, "drover", "drover", ret);
}

static void postgresql_change(const struct folder *folder, const char *sql)
{
        _cleanup_free_ char *text = alloc_printf(sql, "drover.");

        postgresql_server_sql(&store_place_server, "drover", text);
}

static void postgresql_clear(const struct folder *folder)
{
        postgresql_change(folder, "DROP SCHEMA IF EXISTS drover CASCADE");
}

static void postgresql_set_version(const struct folder *folder, int version)
{
        _cleanup_free_ char *sql = alloc_printf("UPDATE %%sstate SET version = %d", version);

        postgresql_change(folder, sql);
}

static bool postgresql_read_only(const struct folder *folder, bool on)
{
        postgresql_change(folder, on ? "ALTER ROLE drover SET default_transaction_read_only = on"
                                     : "ALTER ROLE drover RESET default_transaction_read_only");
        return true;
}

/* The ballast is made when the database is there: that needs most of the space. */
static bool postgresql_small(const struct folder *folder, char ret_where[static 256])
{
        _cleanup_free_ char *path = below(&server_folder, SMALL_PATH), *data = alloc_printf("%s/data", path),
                            *sql = alloc_printf("CREATE TABLESPACE small LOCATION '%s'", data);
        struct stat owner;

        if (!small_mounted)
                return false;
        assert_int_equal(mkdir(data, 0700), 0);
        assert_int_equal(stat(server_folder.path, &owner), 0);
        assert_int_equal(chown(data, owner.st_uid, owner.st_gid), 0);
        postgresql_server_sql(&store_place_server, "postgres", sql);
        postgresql_server_sql(
                &store_place_server, "postgres", "CREATE DATABASE small OWNER drover TABLESPACE small");
        write_ballast(path, 4 * BALLAST_BYTES);
        postgresql_server_url(&store_place_server, "drover", "small", ret_where);
        return true;
}

static void postgresql_make_room(const struct folder *folder)
{
        make_room(&server_folder);
}

static void postgresql_small_end(const struct folder *folder)
{
        postgresql_server_sql(&store_place_server, "postgres", "DROP DATABASE small");
        postgresql_server_sql(&store_place_server, "postgres", "DROP TABLESPACE small");
}

const struct store_place store_place_postgresql = {
        .name = "store on PostgreSQL",
        .begin = postgresql_begin,
        .end = postgresql_end,
        .where = postgresql_where,
        .clear = postgresql_clear,
        .change = postgresql_change,
        .set_version = postgresql_set_version,
        .read_only = postgresql_read_only,
        .small = postgresql_small,
        .make_room = postgresql_make_room,
        .small_end = postgresql_small_end,
};
