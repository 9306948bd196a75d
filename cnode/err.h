/* err.h - what went wrong, as one line of text and an exit code.
 *
 * Plain C functions answer 0, or -1 with a struct err filled by whoever knows most.
 * Any thread; no GIL.
 */
#ifndef PYNODE_ERR_H
#define PYNODE_ERR_H

struct err {
    int code;       /* one of sysexits.h; what the program exits with if nobody mends it */
    char text[400]; /* one line, the subject first, no newline */
};

/* Fills e and answers -1, so that a caller can say: return err_set(e, EX_CONFIG, "..."). */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
