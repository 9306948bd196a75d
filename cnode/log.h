/* log.h - one line an event, the subject first: `conn a@host: closed: heartbeat missed`.
 *
 * Any thread; no GIL; never call it while holding the GIL or a lock of another module.
 * A line is written with one write(2), so lines never mix. No cookie is ever passed here.
 */
#ifndef PYNODE_LOG_H
#define PYNODE_LOG_H

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARNING, LOG_LEVEL_ERROR };

/* JOURNAL lines begin with the priority of sd-daemon(3), "<6>", and have no time: their reader adds
 * it. */
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON, LOG_FORMAT_JOURNAL };

/* Lines below level are dropped. path NULL is stderr. 0, or -1 with errno of open(2). */
int log_open(enum log_level level, enum log_format format, const char *path);

/* Opens the log's file again (after a rotation). Does nothing on stderr. */
void log_reopen(void);

void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A line that was asked for: on stderr, whatever the level and the file are. */
void log_stderr(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Our own bug, or no memory for a small struct: one line, then abort(3). */
_Noreturn void fatal(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
