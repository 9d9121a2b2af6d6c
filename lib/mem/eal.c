/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * EAL, started small: 16 MiB of ordinary memory for its own tables, no PCI scan, no shared configuration, no telemetry
 * socket. Everything else lives in our arenas.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>
#include "mem_priv.h"

#define EAL_MAX_ARGS 64

static bool eal_ours;	       /* we started it; it stays until the process ends */
static FILE *eal_log;	       /* EAL keeps it as long as it lives */
static char eal_last_err[256]; /* why rte_eal_init() failed, in its own words */

/* EAL's log lines become ours. stdio calls this with whole lines, since the stream is line buffered. */
static ssize_t eal_log_write(void *cookie, const char *buf, size_t len)
{
	int level = rte_log_cur_msg_loglevel();
	enum svio_log_level ours = level <= (int)RTE_LOG_ERR	   ? SVIO_LOG_ERR
				   : level == (int)RTE_LOG_WARNING ? SVIO_LOG_WARN
								   : SVIO_LOG_DEBUG;
	size_t n = len;

	(void)cookie;
	while (n && (buf[n - 1] == '\n' || buf[n - 1] == '\r'))
		n--;
	if (n == 0)
		return (ssize_t)len;
	if (ours == SVIO_LOG_ERR)
		snprintf(eal_last_err, sizeof(eal_last_err), "%.*s", (int)SVIO_MIN(n, sizeof(eal_last_err)), buf);
	svio_log(ours, "%.*s", (int)n, buf);
	return (ssize_t)len;
}

static int eal_redirect_log(void)
{
	const cookie_io_functions_t io = { .write = eal_log_write };

	/* An application that chose a stream keeps it. */
	if (eal_log || rte_log_get_stream() != stderr)
		return 0;
	eal_log = fopencookie(NULL, "w", io);
	if (!eal_log)
		return svio_fail(ENOMEM, "EAL's log: out of memory");
	setvbuf(eal_log, NULL, _IOLBF, 1024);
	if (rte_openlog_stream(eal_log)) {
		fclose(eal_log);
		eal_log = NULL;
	}
	return 0;
}

/*
 * Before EAL runs the IOVA mode is "don't care"; rte_eal_init() decides it. Asking this way is silent, whereas a
 * second rte_eal_init() complains on stderr.
 */
static bool eal_running(void)
{
	return rte_eal_iova_mode() != RTE_IOVA_DC;
}

int svio__mem_eal_start(const struct svio_mem_opts *opts)
{
	/* EAL reorders argv and keeps pointers into it. */
	static char prefix[48], lcores[256];
	static char *argv[EAL_MAX_ARGS + 1];
	cpu_set_t before;
	bool pinned = false;
	int argc = 0, rc, cpu;

	if (eal_running()) {
		if (!eal_ours)
			svio_log_info("EAL is the application's: using it as it is");
		return 0;
	}
	rc = eal_redirect_log();
	if (rc)
		return rc;

	argv[argc++] = (char *)"svio";
	argv[argc++] = (char *)"--no-huge";
	argv[argc++] = (char *)"--no-shconf";
	argv[argc++] = (char *)"--no-pci";
	argv[argc++] = (char *)"--no-telemetry";
	argv[argc++] = (char *)"-m";
	argv[argc++] = (char *)"16";
	snprintf(prefix, sizeof(prefix), "--file-prefix=svio-%d", (int)getpid());
	argv[argc++] = prefix;
	if (opts->lcores) {
		if (snprintf(lcores, sizeof(lcores), "%s", opts->lcores) >= (int)sizeof(lcores))
			return svio_fail(EINVAL, "lcore list is too long: %s", opts->lcores);
		argv[argc++] = (char *)"-l";
	} else {
		/* --lcores maps lcore 0 to any CPU, also one beyond RTE_MAX_LCORE. */
		cpu = sched_getcpu();
		snprintf(lcores, sizeof(lcores), "--lcores=0@%d", cpu < 0 ? 0 : cpu);
		/* EAL pins its caller to the main lcore. Nobody asked for that here. */
		pinned = pthread_getaffinity_np(pthread_self(), sizeof(before), &before) == 0;
	}
	argv[argc++] = lcores;
	for (const char *const *a = opts->eal_args; a && *a; a++) {
		if (argc == EAL_MAX_ARGS)
			return svio_fail(E2BIG, "more than %d EAL arguments", EAL_MAX_ARGS);
		argv[argc++] = (char *)(uintptr_t)*a;
	}
	argv[argc] = NULL;

	eal_last_err[0] = '\0';
	if (rte_eal_init(argc, argv) < 0) {
		int err = rte_errno > 0 ? rte_errno : EIO;

		if (err == EALREADY)
			return svio_fail(EALREADY,
					 "EAL was started in this process before and failed or was cleaned up; it cannot start twice: restart the process");
		return svio_fail(err, "EAL does not start: %s%s(lcores %s): check opts.lcores and opts.eal_args",
				 eal_last_err, eal_last_err[0] ? " " : "",
				 opts->lcores ? opts->lcores : "of the caller");
	}
	eal_ours = true;
	if (pinned)
		pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
	/* EAL made a run-time directory for sockets that it does not open; with telemetry asked for, it is in use and stays. */
	rmdir(rte_eal_get_runtime_dir());
	return 0;
}
