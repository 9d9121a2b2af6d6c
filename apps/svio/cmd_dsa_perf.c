/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio dsa perf: copies by the device, one at a time and many, beside memcpy() and beside what drivers did before SVA: map both
 * buffers for DMA, copy, unmap. Sizes by kinds of memory, one table.
 */
#include <inttypes.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "cmd_dsa.h"
#include "dsa_move.h"
#include "dsa_session.h"

#define MAX_SIZES 16
#define MAX_SIZE  (UINT64_C(1) << 30)
#define STACK_MAX (UINT64_C(64) << 20)
#define MS	  UINT64_C(1000000)

enum kind { KIND_MALLOC, KIND_STACK, KIND_FILE, KIND_HUGE, KIND_REGISTERED, KINDS };
static const char *const kind_names[KINDS] = { "malloc", "stack", "file", "huge", "registered" };

struct args {
	struct cli_device device;
	uint64_t sizes[MAX_SIZES];
	unsigned int num_sizes, kinds; /* bit mask */
	uint32_t depth, time_ms;
	bool no_map;
	struct dsa_move_args move;
	bool migratable, only_move; /* only_move: an option was given that means nothing without */
};

enum { KEY_MIGRATABLE = 256, KEY_VERIFY, KEY_QUEUES, KEY_BY, KEY_SEED };

static const struct argp_option options[] = {
	{ "sizes", 's', "LIST", 0, "Bytes of a copy, 64 to 1G (64,1k,4k,64k,1M,16M)", 0 },
	{ "memory", 'm', "LIST", 0, "malloc, stack, file, huge, registered (malloc,stack,file,huge)", 0 },
	{ "depth", 'q', "N", 0, "Copies in flight, for the column that is about throughput (32)", 0 },
	{ "time", 't', "MS", 0, "Milliseconds of each measurement (100)", 0 },
	{ "no-map", 'M', NULL, 0, "Leave out map-copy-unmap", 0 },
	{ "migratable", KEY_MIGRATABLE, "PATH", OPTION_ARG_OPTIONAL,
	  "Instead of measuring, run operations of all kinds and sizes up to the largest of --sizes, for --time (10000), in a process that "
	  "`svio migrate send` can move; PATH: of its control socket", 1 },
	{ "verify", KEY_VERIFY, NULL, 0, "With --migratable: check each operation's result, and memory around it", 1 },
	{ "queues", KEY_QUEUES, "N", 0, "With --migratable: work queues, 1 to 8 (1)", 1 },
	{ "by", KEY_BY, "WAY", 0, "With --migratable: the device moves by its 'driver' (default) or by its own 'state'", 1 },
	{ "seed", KEY_SEED, "N", 0, "With --migratable: of the sequence of operations (1)", 1 },
	{ 0 },
};

static uint64_t number(struct argp_state *state, const char *option, const char *text, uint64_t min, uint64_t max, bool size)
{
	uint64_t v = 0;
	int rc = size ? svio_parse_size(text, &v) : svio_parse_u64(text, UINT64_MAX, &v);

	if (rc || v < min || v > max)
		argp_error(state, "--%s %s: %" PRIu64 " to %" PRIu64 " is expected", option, text, min, max);
	return v;
}

static void parse_sizes(struct argp_state *state, struct args *args, char *list)
{
	args->num_sizes = 0;
	for (char *save, *one = strtok_r(list, ",", &save); one; one = strtok_r(NULL, ",", &save)) {
		if (args->num_sizes == MAX_SIZES)
			argp_error(state, "--sizes: at most %d", MAX_SIZES);
		args->sizes[args->num_sizes++] = number(state, "sizes", one, 64, MAX_SIZE, true);
	}
	if (!args->num_sizes)
		argp_error(state, "--sizes: which?");
}

static void parse_kinds(struct argp_state *state, struct args *args, char *list)
{
	args->kinds = 0;
	for (char *save, *one = strtok_r(list, ",", &save); one; one = strtok_r(NULL, ",", &save)) {
		unsigned int k;

		for (k = 0; k < KINDS && strcmp(one, kind_names[k]); k++)
			;
		if (k == KINDS)
			argp_error(state, "--memory %s: malloc, stack, file, huge or registered", one);
		args->kinds |= 1u << k;
	}
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &args->device;
		return 0;
	case 's':
		parse_sizes(state, args, arg);
		return 0;
	case 'm':
		parse_kinds(state, args, arg);
		return 0;
	case 'q':
		args->depth = (uint32_t)number(state, "depth", arg, 1, 64, false);
		return 0;
	case 't':
		args->time_ms = (uint32_t)number(state, "time", arg, 1, 86400000, false);
		return 0;
	case 'M':
		args->no_map = true;
		return 0;
	case KEY_MIGRATABLE:
		args->migratable = true;
		args->move.control = arg;
		return 0;
	case KEY_VERIFY:
		args->move.work.verify = 1;
		args->only_move = true;
		return 0;
	case KEY_QUEUES:
		args->move.work.queues = (uint32_t)number(state, "queues", arg, 1, DSA_WORK_QUEUES, false);
		args->only_move = true;
		return 0;
	case KEY_BY:
		if (strcmp(arg, "driver") != 0 && strcmp(arg, "state") != 0)
			argp_error(state, "--by %s: must be driver or state", arg);
		args->move.by_state = strcmp(arg, "state") == 0;
		args->only_move = true;
		return 0;
	case KEY_SEED:
		args->move.work.seed = number(state, "seed", arg, 0, UINT64_MAX, false);
		args->only_move = true;
		return 0;
	case ARGP_KEY_END:
		if (args->only_move && !args->migratable)
			argp_error(state, "--verify, --queues, --by and --seed are options of --migratable");
		if (!args->time_ms)
			args->time_ms = args->migratable ? 10000 : 100;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &cli_device_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "DEV",
	.doc = "Measure copies by a DMA engine, against memcpy() and against mapping, copying and unmapping for each copy.\v"
	       "Every measurement's last copy is compared with its source. What the bond's mode cannot reach (svio info DEV says why) shows "
	       "as \"-\". Times on a simulated device say how fast the simulation is.",
	.children = children,
};

/* ---- buffers --------------------------------------------------------------------------------------------- */

struct pair {
	enum kind kind;
	uint8_t *src, *dst;
	uint64_t len; /* of each, whole pages */
};

static void *map_memory(uint64_t len, int flags, int fd)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void *file_memory(uint64_t len)
{
	char path[] = "/tmp/svio-perf.XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);
	void *p = NULL;

	if (fd < 0)
		return NULL;
	unlink(path);
	if (posix_fallocate(fd, 0, (off_t)len) == 0)
		p = map_memory(len, MAP_SHARED, fd);
	close(fd);
	return p;
}

/* NULL buffers: there is no such memory here. Stack is the measuring thread's own. */
static void pair_open(struct pair *p, enum kind kind, uint64_t size, uint8_t *stack)
{
	uint64_t huge = UINT64_C(2) << 20;

	*p = (struct pair){ .kind = kind, .len = SVIO_ALIGN_UP(size, UINT64_C(4096)) };
	switch (kind) {
	case KIND_MALLOC:
		p->src = aligned_alloc(4096, p->len);
		p->dst = aligned_alloc(4096, p->len);
		break;
	case KIND_STACK:
		if (stack) {
			p->src = (uint8_t *)SVIO_ALIGN_UP((uintptr_t)stack, (uintptr_t)4096);
			p->dst = p->src + p->len;
		}
		break;
	case KIND_FILE:
		p->src = file_memory(p->len);
		p->dst = file_memory(p->len);
		break;
	case KIND_HUGE:
		p->len = SVIO_ALIGN_UP(size, huge);
		p->src = map_memory(p->len, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1);
		p->dst = p->src ? map_memory(p->len, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1) : NULL;
		break;
	default:
		p->src = svio_mem_alloc(p->len, 4096, -1);
		p->dst = svio_mem_alloc(p->len, 4096, -1);
		break;
	}
	if (p->src && p->dst)
		for (uint64_t i = 0; i < p->len; i += 8)
			*(uint64_t *)(void *)(p->src + i) = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

static void pair_close(struct pair *p)
{
	switch (p->kind) {
	case KIND_MALLOC:
		free(p->src);
		free(p->dst);
		break;
	case KIND_STACK:
		break;
	case KIND_REGISTERED:
		svio_mem_free(p->src);
		svio_mem_free(p->dst);
		break;
	default:
		if (p->src)
			munmap(p->src, p->len);
		if (p->dst)
			munmap(p->dst, p->len);
		break;
	}
}

/* ---- measuring -------------------------------------------------------------------------------------------- */

struct cell {
	bool measured;
	uint64_t copies, ns, bytes;
	char why[160]; /* not measured */
};

struct row {
	enum kind kind;
	uint64_t size;
	struct cell one, deep, cpu, mapped;
	bool no_memory;
};

struct perf {
	struct args args;
	struct dsa_session s;
	struct svio_ioas *map_ioas;	 /* for map-copy-unmap: the session's */
	struct svio_sva_bond *identity;
	struct svio_dsa_wq *identity_wq;
	char no_identity[160]; /* why there is none */
	struct row *rows;
	size_t num_rows;
	uint64_t wrong;
	int failed;
};

struct flight {
	uint32_t inflight;
	uint64_t done;
	struct svio_dsa_result bad;
};

static void landed(void *ctx, const struct svio_dsa_result *res)
{
	struct flight *f = ctx;

	f->inflight--;
	f->done++;
	if (res->status && !f->bad.status)
		f->bad = *res;
}

/* Many copies of the same range, `depth` in flight, for the time of a measurement. */
static int by_device(struct perf *p, struct svio_dsa_wq *wq, const struct pair *b, uint64_t size, uint32_t depth, struct cell *c)
{
	uint64_t start = svio_now_ns(), end = start + p->args.time_ms * MS, now = start;
	struct flight f = { 0 };
	int rc = 0;

	depth = SVIO_MIN(depth, svio_dsa_depth(wq));
	while (!rc && (now < end || !f.done) && !f.bad.status && !cli_interrupted()) {
		while (f.inflight < depth && !rc) {
			rc = svio_dsa_copy(wq, b->dst, b->src, size, landed, &f);
			if (rc == -EAGAIN)
				break;
			f.inflight += rc == 0;
		}
		rc = rc == -EAGAIN ? 0 : rc;
		dsa_poll(&p->s, wq);
		now = svio_now_ns();
	}
	while (f.inflight)
		dsa_poll(&p->s, wq);
	if (!rc && f.bad.status)
		rc = svio_fail(f.bad.status < 0 ? -f.bad.status : EIO, "%s", svio_dsa_status_text(f.bad.status));
	if (rc) {
		snprintf(c->why, sizeof(c->why), "%s", svio_last_error()[0] ? svio_last_error() : strerror(-rc));
		return rc;
	}
	*c = (struct cell){ .measured = true, .copies = f.done, .ns = svio_now_ns() - start, .bytes = f.done * size };
	return 0;
}

static void by_cpu(struct perf *p, const struct pair *b, uint64_t size, struct cell *c)
{
	uint64_t start = svio_now_ns(), end = start + p->args.time_ms * MS, n = 0, burst = 1 + 65536 / size;

	do {
		for (uint64_t i = 0; i < burst; i++) {
			memcpy(b->dst, b->src, size);
			__asm__ volatile("" ::"r"(b->dst) : "memory");
		}
		n += burst;
	} while (svio_now_ns() < end && !cli_interrupted());
	*c = (struct cell){ .measured = true, .copies = n, .ns = svio_now_ns() - start, .bytes = n * size };
}

/* As drivers did before: both buffers into the IOMMU's table, one copy, both out again. */
static int map_copy_unmap(struct perf *p, const struct pair *b, uint64_t size)
{
	uint64_t len = b->kind == KIND_HUGE ? b->len : SVIO_ALIGN_UP(size, UINT64_C(4096));
	int rc = svio_ioas_map(p->map_ioas, b->src, len, SVIO_DMA_READ, -1, 0, NULL);

	if (rc)
		return rc;
	rc = svio_ioas_map(p->map_ioas, b->dst, len, SVIO_DMA_READ | SVIO_DMA_WRITE, -1, 0, NULL);
	if (!rc) {
		rc = svio_dsa_run(p->identity_wq, &(struct svio_dsa_op){ .op = SVIO_DSA_COPY, .src = b->src, .dst = b->dst, .len = size }, NULL);
		if (rc)
			rc = svio_fail(rc < 0 ? -rc : EIO, "%s", svio_dsa_status_text(rc));
		svio_ioas_unmap(p->map_ioas, b->dst, len);
	}
	svio_ioas_unmap(p->map_ioas, b->src, len);
	return rc;
}

static int by_mapping(struct perf *p, const struct pair *b, uint64_t size, struct cell *c)
{
	uint64_t start = svio_now_ns(), end = start + p->args.time_ms * MS, n = 0;
	int rc;

	do {
		rc = map_copy_unmap(p, b, size);
		n++;
	} while (!rc && svio_now_ns() < end && !cli_interrupted());
	if (rc) {
		snprintf(c->why, sizeof(c->why), "%s", svio_last_error());
		return rc;
	}
	*c = (struct cell){ .measured = true, .copies = n, .ns = svio_now_ns() - start, .bytes = n * size };
	return 0;
}

static void verify(struct perf *p, const struct pair *b, uint64_t size, const struct cell *c)
{
	if (c->measured && memcmp(b->src, b->dst, size))
		p->wrong++;
	memset(b->dst, 0, size);
}

/* What cannot be measured stays "-" with its reason; what fails otherwise, too, and the command fails with it. */
static void measure(struct perf *p, struct row *r, const struct pair *b)
{
	bool reach = p->s.bond->mode == SVIO_SVA_NATIVE || b->kind == KIND_REGISTERED;

	memset(b->dst, 0, r->size);
	if (!reach) {
		snprintf(r->one.why, sizeof(r->one.why), "needs native SVA: %.120s", p->s.report.why);
		r->deep = r->one;
	} else {
		p->failed |= by_device(p, p->s.wq, b, r->size, 1, &r->one);
		verify(p, b, r->size, &r->one);
		p->failed |= by_device(p, p->s.wq, b, r->size, p->args.depth, &r->deep);
		verify(p, b, r->size, &r->deep);
	}
	by_cpu(p, b, r->size, &r->cpu);
	verify(p, b, r->size, &r->cpu);
	if (!p->identity_wq)
		snprintf(r->mapped.why, sizeof(r->mapped.why), "%s", p->no_identity);
	else if (b->kind == KIND_REGISTERED)
		snprintf(r->mapped.why, sizeof(r->mapped.why), "it is mapped already");
	else
		by_mapping(p, b, r->size, &r->mapped); /* file mappings may be refused by the kernel: no failure of ours */
	verify(p, b, r->size, &r->mapped);
}

static void measure_all(struct perf *p, uint8_t *stack, uint64_t stack_len)
{
	for (unsigned int i = 0; i < p->args.num_sizes; i++)
		for (unsigned int k = 0; k < KINDS; k++) {
			struct row *r = &p->rows[p->num_rows];
			struct pair b;

			if (!(p->args.kinds >> k & 1) || cli_interrupted() || svio_dsa_gone(p->s.dsa))
				continue;
			r->kind = (enum kind)k;
			r->size = p->args.sizes[i];
			cli_progress("%s, %" PRIu64 " bytes", kind_names[k], r->size);
			pair_open(&b, r->kind, r->size, 2 * r->size + 16384 <= stack_len ? stack : NULL);
			if (b.src && b.dst)
				measure(p, r, &b);
			else
				r->no_memory = true;
			pair_close(&b);
			p->num_rows++;
		}
	cli_progress_end();
}

/* In a thread with a stack that holds the largest buffers. */
static void *thread(void *ctx)
{
	struct perf *p = ctx;
	uint64_t len = 0;

	for (unsigned int i = 0; i < p->args.num_sizes; i++)
		if (p->args.sizes[i] <= STACK_MAX)
			len = SVIO_MAX(len, 2 * SVIO_ALIGN_UP(p->args.sizes[i], UINT64_C(4096)) + 16384);
	measure_all(p, p->args.kinds & 1u << KIND_STACK ? __builtin_alloca(len) : NULL, len);
	return NULL;
}

static int run_thread(struct perf *p)
{
	pthread_attr_t attr;
	pthread_t t;
	int rc;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 2 * STACK_MAX + (UINT64_C(2) << 20));
	rc = pthread_create(&t, &attr, thread, p);
	pthread_attr_destroy(&attr);
	if (rc)
		return svio_fail(rc, "no thread: %s", strerror(rc));
	pthread_join(t, NULL);
	return 0;
}

/* ---- reporting -------------------------------------------------------------------------------------------- */

static void rate_text(const struct cell *c, char *buf, size_t len)
{
	if (c->measured)
		snprintf(buf, len, "%.2f", (double)c->bytes / (double)c->ns);
	else
		snprintf(buf, len, "-");
}

static void time_text(const struct cell *c, char *buf, size_t len)
{
	if (c->measured)
		snprintf(buf, len, "%.2f", (double)c->ns / (double)c->copies / 1e3);
	else
		snprintf(buf, len, "-");
}

static int print_text(const struct perf *p)
{
	static const char *const headings[] = { ">SIZE", "MEMORY", ">DSA us", ">memcpy us", ">map+copy us", ">DSA GB/s", ">deep GB/s",
						">memcpy GB/s", ">map+copy GB/s" };
	struct cli_table *table = cli_table_new(headings, SVIO_ARRAY_SIZE(headings));

	printf("%s: %s: %s\n", svio_device_name(p->s.dev), svio_sva_mode_text(p->s.bond->mode), p->s.report.why);
	for (size_t i = 0; i < p->num_rows; i++) {
		const struct row *r = &p->rows[i];
		char size[CLI_SIZE_LEN], t[3][24], g[4][24];

		if (r->no_memory) {
			cli_table_row(table, (const char *const[]){ cli_size(r->size, size), kind_names[r->kind], NULL, NULL, NULL, NULL, NULL,
								    NULL, NULL });
			continue;
		}
		time_text(&r->one, t[0], sizeof(t[0]));
		time_text(&r->cpu, t[1], sizeof(t[1]));
		time_text(&r->mapped, t[2], sizeof(t[2]));
		rate_text(&r->one, g[0], sizeof(g[0]));
		rate_text(&r->deep, g[1], sizeof(g[1]));
		rate_text(&r->cpu, g[2], sizeof(g[2]));
		rate_text(&r->mapped, g[3], sizeof(g[3]));
		cli_table_row(table, (const char *const[]){ cli_size(r->size, size), kind_names[r->kind], t[0], t[1], t[2], g[0], g[1], g[2], g[3] });
	}
	cli_table_print(table, stdout);
	cli_table_free(table);
	printf("DSA: one copy at a time; deep: %" PRIu32 " in flight; map+copy: both buffers mapped for DMA, one copy, both unmapped\n",
	       SVIO_MIN(p->args.depth, svio_dsa_depth(p->s.wq)));
	return CLI_OK;
}

static struct json_object *cell_json(const struct cell *c)
{
	struct json_object *o;

	if (!c->measured && !c->why[0])
		return NULL;
	o = json_object_new_object();
	if (!c->measured) {
		cli_json_str(o, "not_measured", c->why);
		return o;
	}
	cli_json_u64(o, "copies", c->copies);
	cli_json_u64(o, "ns", c->ns);
	cli_json_u64(o, "bytes", c->bytes);
	return o;
}

static int print_json(const struct perf *p)
{
	struct json_object *doc = json_object_new_object(), *rows = json_object_new_array();
	struct svio_dsa_stats st;

	svio_dsa_get_stats(p->s.dsa, &st);
	dsa_session_json(&p->s, doc);
	cli_json_bool(doc, "ok", !p->wrong && !p->failed);
	cli_json_u64(doc, "wrong", p->wrong);
	cli_json_u64(doc, "depth", SVIO_MIN(p->args.depth, svio_dsa_depth(p->s.wq)));
	cli_json_u64(doc, "page_faults", st.page_faults);
	for (size_t i = 0; i < p->num_rows; i++) {
		const struct row *r = &p->rows[i];
		struct json_object *o = json_object_new_object();

		cli_json_u64(o, "size", r->size);
		cli_json_str(o, "memory", kind_names[r->kind]);
		cli_json_bool(o, "no_memory", r->no_memory);
		json_object_object_add(o, "dsa", cell_json(&r->one));
		json_object_object_add(o, "dsa_deep", cell_json(&r->deep));
		json_object_object_add(o, "memcpy", cell_json(&r->cpu));
		json_object_object_add(o, "map_copy_unmap", cell_json(&r->mapped));
		json_object_array_add(rows, o);
	}
	json_object_object_add(doc, "rows", rows);
	return cli_json_print(doc);
}

/* ---- the command ------------------------------------------------------------------------------------------- */

/* A second queue, for map-copy-unmap. Without it the column stays empty and says why. */
static void open_identity(struct perf *p)
{
	if (p->args.no_map)
		snprintf(p->no_identity, sizeof(p->no_identity), "--no-map");
	else if (p->s.info.wqs < 2)
		snprintf(p->no_identity, sizeof(p->no_identity), "the device has one queue");
	else if (svio_sva_bind(p->s.dev, p->s.ioas, SVIO_SVA_WANT_IDENTITY, &p->identity) ||
		 svio_dsa_wq_create(p->s.dsa, p->identity, NULL, &p->identity_wq))
		snprintf(p->no_identity, sizeof(p->no_identity), "%s", svio_last_error());
	p->map_ioas = p->s.ioas;
}

static int open_all(struct perf *p)
{
	uint64_t registered = UINT64_C(4) << 20;
	int rc;

	if (p->args.kinds & 1u << KIND_REGISTERED)
		for (unsigned int i = 0; i < p->args.num_sizes; i++)
			registered = SVIO_MAX(registered, 2 * p->args.sizes[i] + (UINT64_C(4) << 20));
	if (p->args.no_map && !(p->args.kinds & 1u << KIND_REGISTERED))
		registered = 0;
	rc = dsa_session_open(&p->s, p->args.device.name, registered, 2);
	if (rc == -EINVAL) /* a device with one queue */
		rc = dsa_session_open(&p->s, p->args.device.name, registered, 1);
	if (!rc)
		open_identity(p);
	return rc;
}

static int run_migratable(struct args *args)
{
	args->move.device = args->device.name;
	args->move.json = args->device.common.json;
	args->move.time_ms = args->time_ms;
	args->move.work.depth = args->depth;
	for (unsigned int i = 0; i < args->num_sizes; i++)
		args->move.work.max_len = SVIO_MAX(args->move.work.max_len, args->sizes[i]);
	args->move.work.max_len = SVIO_MIN(args->move.work.max_len, DSA_WORK_MAX);
	return dsa_move_run(&args->move);
}

int cmd_dsa_perf(int argc, char **argv)
{
	struct perf p = { .args = { .sizes = { 64, 1024, 4096, 65536, 1u << 20, 16u << 20 }, .num_sizes = 6, .kinds = 0xf, .depth = 32,
				    .move = { .work = { .queues = 1, .seed = 1 } } } };
	int rc;

	cli_parse(&argp, argc, argv, &p.args);
	if (p.args.migratable)
		return run_migratable(&p.args);
	cli_catch_signals();
	p.rows = cli_alloc((size_t)p.args.num_sizes * KINDS * sizeof(*p.rows));
	rc = open_all(&p);
	if (!rc)
		rc = run_thread(&p);
	if (rc) {
		rc = cli_fail(rc);
	} else {
		rc = p.args.device.common.json ? print_json(&p) : print_text(&p);
		if (p.wrong)
			rc = cli_error("%" PRIu64 " measurements ended with wrong data", p.wrong);
		else if (svio_dsa_gone(p.s.dsa))
			rc = cli_error("%s: the device is gone", p.args.device.name);
		else if (p.failed)
			rc = cli_fail(-EIO);
		else if (cli_interrupted())
			rc = cli_error("interrupted");
	}
	svio_dsa_wq_destroy(p.identity_wq);
	svio_sva_unbind(p.identity);
	dsa_session_close(&p.s);
	free(p.rows);
	return rc;
}
