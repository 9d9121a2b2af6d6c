/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who may reach this process's memory, where Yama is active (Linux, Documentation/admin-guide/LSM/Yama.rst).
 *
 * With kernel.yama.ptrace_scope=1, the default of some distributions, an unprivileged process reaches the memory of its own
 * descendants only, and of processes that have named it by prctl(PR_SET_PTRACER). A process names one other at a time (with that
 * one's descendants), and cannot ask whom it has named: so here the rooms agree about it. An application that names somebody
 * itself loses that by the calls below.
 *
 * Threads: any. After fork() a child has named nobody.
 */
#ifndef SVIO_PTRACER_H
#define SVIO_PTRACER_H

#include <sys/types.h>

/* kernel.yama.ptrace_scope: 0 (also without Yama), 1, 2 (CAP_SYS_PTRACE only), 3 (nobody). */
int svio__ptracer_scope(void);

/*
 * Let `pid`, as this process sees it, reach this process's memory; counted. 0 also where nothing needs to be done, or would help
 * (scopes 0, 2 and 3). -EBUSY: another one is let in already. -ESRCH: there is no such process.
 */
int svio__ptracer_allow(pid_t pid);
/* Undo one svio__ptracer_allow() that returned 0. */
void svio__ptracer_revoke(pid_t pid);

/* For a moment let `pid` in, instead of whoever was; one thread at a time. */
void svio__ptracer_borrow(pid_t pid);
void svio__ptracer_return(void);

#endif
