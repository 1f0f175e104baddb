/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#define LINE_MAX_BYTES 4096

static const char *program_name = "drover";
static enum log_level max_level = LOG_LEVEL_INFO;
static bool to_journal;

static const struct {
        const char *word;
        int syslog;
} levels[] = {
        [LOG_LEVEL_ERROR] = {"error", 3},
        [LOG_LEVEL_WARNING] = {"warning", 4},
        [LOG_LEVEL_NOTICE] = {"notice", 5},
        [LOG_LEVEL_INFO] = {"info", 6},
        [LOG_LEVEL_DEBUG] = {"debug", 7},
};
static_assert(ARRAY_SIZE(levels) == LOG_LEVEL_DEBUG + 1, "every level has a row");

void log_init(const char *program, enum log_level level)
{
        program_name = program;
        max_level = level;
        to_journal = getenv("JOURNAL_STREAM") != NULL;
        /* gmtime_r() reads /etc/localtime at its first use (glibc, time/tzset.c): not later, in a sandbox. */
        tzset();
}

int log_level_from_string(const char *s, enum log_level *ret_level)
{
        for (size_t i = 0; i < ARRAY_SIZE(levels); i++)
                if (!strcmp(levels[i].word, s)) {
                        *ret_level = (enum log_level)i;
                        return 0;
                }
        return -EINVAL;
}

static int prefix(char *line, size_t size, enum log_level level)
{
        struct timespec ts;
        struct tm tm;
        char when[32];

        if (to_journal)
                return snprintf(line, size, "<%d>", levels[level].syslog);
        clock_gettime(CLOCK_REALTIME, &ts);
        gmtime_r(&ts.tv_sec, &tm);
        strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
        return snprintf(line, size, "%s.%03ldZ %s[%d] %s: ", when, ts.tv_nsec / 1000000, program_name,
                getpid(), levels[level].word);
}

void log_write(enum log_level level, const char *fmt, ...)
{
        char line[LINE_MAX_BYTES];
        int saved = errno, n, start;
        va_list ap;

        if (level > max_level)
                return;
        n = start = prefix(line, sizeof(line), level);
        va_start(ap, fmt);
        n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
        va_end(ap);
        n = MIN(n, (int)sizeof(line) - 2);
        for (int i = start; i < n; i++) /* text from peers must not forge lines or drive a terminal */
                if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
                        line[i] = ' ';
        line[n++] = '\n';
        if (write(STDERR_FILENO, line, (size_t)n) < 0)
                errno = saved; /* nowhere left to report to */
        errno = saved;
}
