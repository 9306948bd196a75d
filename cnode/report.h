/* report.h - the node's native state as lines on stderr, on SIGUSR1.
 *
 * The leader's. No GIL.
 */
#ifndef PYNODE_REPORT_H
#define PYNODE_REPORT_H

void report(void);

#endif
