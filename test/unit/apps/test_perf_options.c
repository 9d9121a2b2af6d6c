/* SPDX-License-Identifier: BSD-3-Clause */
/* The command line of perf: what is accepted, and that everything else ends with exit code 2. */
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "perf_options.h"
#include "unit.h"

#define MAX_ARGS 48

static int words(char *line, char **argv)
{
	int argc = 0;

	for (char *w = strtok(line, " "); w && argc < MAX_ARGS - 1; w = strtok(NULL, " "))
		argv[argc++] = w;
	argv[argc] = NULL;
	return argc;
}

static char line[512];

static void parse(struct perf_args *args, const char *text)
{
	char *argv[MAX_ARGS];

	snprintf(line, sizeof(line), "perf %s", text);
	perf_parse(words(line, argv), argv, args);
}

/* argp ends the process: look at it from outside. */
static int exit_code(const char *text)
{
	struct perf_args args;
	int status, null;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		null = open("/dev/null", O_WRONLY | O_CLOEXEC);
		dup2(null, STDERR_FILENO);
		dup2(null, STDOUT_FILENO);
		argp_err_exit_status = CLI_USAGE;
		parse(&args, text);
		_exit(100);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

static void test_defaults(void)
{
	struct perf_args args;

	parse(&args, "0000:01:00.0 --rw randread");
	CU_ASSERT_STRING_EQUAL(args.device, "0000:01:00.0");
	CU_ASSERT_EQUAL(args.config.rw, PERF_RANDREAD);
	CU_ASSERT_EQUAL(args.config.bs, 4096);
	CU_ASSERT_EQUAL(args.config.qd, 32);
	CU_ASSERT_EQUAL(args.config.queues, 1);
	CU_ASSERT_EQUAL(args.config.read_pct, 50);
	CU_ASSERT_EQUAL(args.config.blocks, 0);
	CU_ASSERT_EQUAL(args.seconds, 10);
	CU_ASSERT_EQUAL(args.policy, SVIO_NVME_REQUEUE);
	CU_ASSERT_FALSE(args.config.verify || args.common.json || args.force || args.wait_replug ||
			args.config.interrupts || args.log_series);
}

static void test_everything(void)
{
	struct perf_args args;

	parse(&args,
	      "--rw=randrw --bs 64k --qd 256 --queues 4 --time 3 --min-ios 77 --verify --mix 70 --range 0x100:2048 "
	      "--seed 9 --batch 16 --offset 512 --interrupt --policy fail --json --log-series dev");
	CU_ASSERT_STRING_EQUAL(args.device, "dev");
	CU_ASSERT_EQUAL(args.config.rw, PERF_RANDRW);
	CU_ASSERT_EQUAL(args.config.bs, 65536);
	CU_ASSERT_EQUAL(args.config.qd, 256);
	CU_ASSERT_EQUAL(args.config.queues, 4);
	CU_ASSERT_EQUAL(args.seconds, 3);
	CU_ASSERT_EQUAL(args.min_ios, 77);
	CU_ASSERT(args.config.verify && args.config.interrupts && args.common.json &&
		  args.log_series);
	CU_ASSERT_EQUAL(args.config.read_pct, 70);
	CU_ASSERT(args.config.lba == 0x100 && args.config.blocks == 2048);
	CU_ASSERT_EQUAL(args.config.seed, 9);
	CU_ASSERT_EQUAL(args.config.batch, 16);
	CU_ASSERT_EQUAL(args.config.offset, 512);
	CU_ASSERT_EQUAL(args.policy, SVIO_NVME_FAIL);
}

static void test_survival(void)
{
	struct perf_args args;

	parse(&args,
	      "dev --rw write --wait-replug=any --replug-timeout 5 --bind --disturb decode:10 "
	      "--disturb reset:2 --disturb controller:1 --force --print-ready GO");
	CU_ASSERT(args.wait_replug && args.bind && args.force);
	CU_ASSERT_STRING_EQUAL(args.replug_name, "any");
	CU_ASSERT_EQUAL(args.replug_timeout, 5);
	CU_ASSERT_EQUAL(args.disturbs, 3);
	CU_ASSERT(args.disturb[0].kind == PERF_DISTURB_DECODE && args.disturb[0].count == 10);
	CU_ASSERT(args.disturb[1].kind == PERF_DISTURB_RESET && args.disturb[1].count == 2);
	CU_ASSERT(args.disturb[2].kind == PERF_DISTURB_CONTROLLER && args.disturb[2].count == 1);
	CU_ASSERT_STRING_EQUAL(args.print_ready, "GO");
	parse(&args, "dev --rw write --wait-replug");
	CU_ASSERT(args.wait_replug && args.replug_name == NULL);
}

static void test_refused(void)
{
	static const char *const bad[] = {
		"",
		"dev",
		"--rw read",
		"dev --rw sideways",
		"dev dev2 --rw read",
		"dev --rw read --bs 1000",
		"dev --rw read --bs 0",
		"dev --rw read --bs 2M",
		"dev --rw read --bs -4k",
		"dev --rw read --qd 0",
		"dev --rw read --qd 70000",
		"dev --rw read --queues 0",
		"dev --rw read --queues 257",
		"dev --rw read --time 0",
		"dev --rw randrw --mix 101",
		"dev --rw read --offset 2",
		"dev --rw read --offset 4096",
		"dev --rw read --range 5",
		"dev --rw read --range 5:0",
		"dev --rw read --range 5:x",
		"dev --rw read --policy maybe",
		"dev --rw read --disturb decode",
		"dev --rw read --disturb decode:0",
		"dev --rw read --disturb storm:3",
		"dev --rw read --disturb reset:1 --disturb reset:1 --disturb reset:1 --disturb reset:1 --disturb reset:1",
		"dev --rw read --bind",
		"dev --rw read --migratable --by state --wait-replug",
		"dev --rw read --no-such-option",
	};

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(bad); i++)
		if (exit_code(bad[i]) != CLI_USAGE) {
			fprintf(stderr, "accepted: %s\n", bad[i]);
			CU_FAIL("a wrong command line was accepted");
		}
	CU_ASSERT_EQUAL(exit_code("--help"), 0);
	CU_ASSERT_EQUAL(exit_code("dev --rw read"), 100);
}

static void test_parts(void)
{
	struct perf_disturb_spec spec;
	uint64_t lba, blocks;
	uint32_t percent;
	enum perf_rw rw;

	for (int i = 0; i < PERF_RW_KINDS; i++) {
		CU_ASSERT_EQUAL(perf_parse_rw(perf_rw_name((enum perf_rw)i), &rw), 0);
		CU_ASSERT_EQUAL(rw, i);
	}
	CU_ASSERT_PTR_NULL(perf_rw_name(PERF_RW_KINDS));
	CU_ASSERT_FALSE(perf_writes(PERF_READ) || perf_writes(PERF_RANDREAD));
	CU_ASSERT(perf_writes(PERF_WRITE) && perf_writes(PERF_RANDWRITE) &&
		  perf_writes(PERF_RANDRW));
	CU_ASSERT_EQUAL(perf_parse_range("0:1", &lba, &blocks), 0);
	CU_ASSERT_EQUAL(perf_parse_range("18446744073709551616:1", &lba, &blocks), -ERANGE);
	CU_ASSERT_EQUAL(perf_parse_range(":1", &lba, &blocks), -EINVAL);
	CU_ASSERT_EQUAL(perf_parse_disturb("reset:1000001", &spec), -ERANGE);
	CU_ASSERT_STRING_EQUAL(perf_disturb_name(PERF_DISTURB_CONTROLLER), "controller");
	CU_ASSERT(perf_parse_ballast("1G", &lba, &percent) == 0 && lba == UINT64_C(1) << 30 && percent == 1);
	CU_ASSERT(perf_parse_ballast("64M:0", &lba, &percent) == 0 && lba == UINT64_C(64) << 20 && percent == 0);
	CU_ASSERT_EQUAL(perf_parse_ballast("64M:101", &lba, &percent), -ERANGE);
	CU_ASSERT_EQUAL(perf_parse_ballast("0", &lba, &percent), -EINVAL);
	CU_ASSERT_EQUAL(perf_parse_ballast(":1", &lba, &percent), -EINVAL);
}

static const struct unit_test tests[] = {
	{ "defaults", test_defaults },
	{ "every option of load and reports", test_everything },
	{ "every option of survival", test_survival },
	{ "wrong command lines exit with 2", test_refused },
	{ "values", test_parts },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("apps/perf_options", tests);
}
