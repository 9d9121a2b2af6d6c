/* SPDX-License-Identifier: BSD-3-Clause */
/* One thread: order, changes from callbacks, failure, stop, what is left behind. */
#include <signal.h>
#include <string.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "poll_priv.h"
#include "unit.h"

static char trace[256];
static struct svio_loop *loop;

/* A poller that leaves its letter in the trace, and does what its test wants. */
struct p {
	struct svio_poller poller;
	char letter;
	int ret;
	void (*act)(struct p *self);
	struct p *other;
	int err, stops;
};

static int poll_p(void *ctx)
{
	struct p *p = ctx;
	size_t n = strlen(trace);

	if (n < sizeof(trace) - 1)
		trace[n] = p->letter;
	if (p->act)
		p->act(p);
	return p->ret;
}

static void stopped_p(void *ctx, int err)
{
	struct p *p = ctx;

	p->err = err;
	p->stops++;
}

static void init_p(struct p *p, char letter)
{
	memset(p, 0, sizeof(*p));
	p->letter = letter;
	p->poller = (struct svio_poller){
		.name = "p",
		.poll = poll_p,
		.ctx = p,
		.irq_fd = -1,
		.stopped = stopped_p,
	};
}

static void add(struct p *p)
{
	CU_ASSERT_EQUAL(svio_poller_add(loop, &p->poller), 0);
}

static void once(const char *expect)
{
	memset(trace, 0, sizeof(trace));
	svio_loop_once(loop);
	CU_ASSERT_STRING_EQUAL(trace, expect);
}

static void begin(void)
{
	memset(trace, 0, sizeof(trace));
	CU_ASSERT_EQUAL_FATAL(svio_loop_create(NULL, &loop), 0);
}

static void end(void)
{
	svio_loop_destroy(loop);
	loop = NULL;
}

static void test_order(void)
{
	struct svio_loop_stats st;
	struct p a, b, c;
	int fds = unit_count_fds();

	begin();
	init_p(&a, 'a');
	init_p(&b, 'b');
	init_p(&c, 'c');
	once("");
	add(&a);
	add(&b);
	add(&c);
	once("abc");
	CU_ASSERT_EQUAL(svio_poller_remove(loop, &b.poller), 0);
	once("ac");
	add(&b);
	once("acb");
	a.ret = 3;
	c.ret = 4;
	CU_ASSERT_EQUAL(svio_loop_once(loop), 7);
	a.ret = c.ret = 0x7fffffff;
	CU_ASSERT_EQUAL(svio_loop_once(loop), 0x7fffffff); /* no overflow */
	svio_loop_get_stats(loop, &st);
	CU_ASSERT_EQUAL(st.rounds, 6);
	CU_ASSERT_EQUAL(st.busy_rounds, 2);
	CU_ASSERT_EQUAL(st.sleeps, 0);
	end(); /* with pollers in it */
	svio_loop_destroy(NULL);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	CU_ASSERT_EQUAL(a.stops, 0);
}

static void test_errors(void)
{
	struct p a;

	begin();
	init_p(&a, 'a');
	CU_ASSERT_EQUAL(svio_poller_remove(loop, &a.poller), -ENOENT);
	add(&a);
	CU_ASSERT_EQUAL(svio_poller_add(loop, &a.poller), -EEXIST);
	once("a"); /* once */
	CU_ASSERT_EQUAL(svio_poller_remove(loop, &a.poller), 0);
	CU_ASSERT_EQUAL(svio_poller_remove(loop, &a.poller), -ENOENT);
	a.poller.poll = NULL;
	CU_ASSERT_EQUAL(svio_poller_add(loop, &a.poller), -EINVAL);
	init_p(&a, 'a');
	a.poller.irq_fd = 1000000; /* no such fd */
	CU_ASSERT_EQUAL(svio_poller_add(loop, &a.poller), -EBADF);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "1000000"));
	once("");
	end();
}

static void act_remove_self(struct p *p)
{
	CU_ASSERT_EQUAL(svio_poller_remove(loop, &p->poller), 0);
	CU_ASSERT_EQUAL(svio_poller_remove(loop, &p->poller), -ENOENT);
}

static void act_remove_other(struct p *p)
{
	if (p->other) {
		CU_ASSERT_EQUAL(svio_poller_remove(loop, &p->other->poller), 0);
		memset(p->other, 0xee, sizeof(*p->other)); /* it is the caller's memory again */
		p->other = NULL;
	}
}

static void act_add_other(struct p *p)
{
	if (p->other)
		CU_ASSERT_EQUAL(svio_poller_add(loop, &p->other->poller), 0);
	p->other = NULL;
}

static void test_callbacks(void)
{
	struct p a, b, c;

	begin();
	init_p(&a, 'a');
	init_p(&b, 'b');
	init_p(&c, 'c');
	add(&a);
	add(&b);
	add(&c);
	b.act = act_remove_self;
	once("abc");
	once("ac");
	/* A later one, in this round already */
	a.act = act_remove_other;
	a.other = &c;
	once("a");
	once("a");
	/* An earlier one */
	init_p(&b, 'b');
	add(&b);
	b.act = act_remove_other;
	b.other = &a;
	once("ab");
	once("b");
	/* Added: from the next round on */
	init_p(&a, 'a');
	b.act = act_add_other;
	b.other = &a;
	once("b");
	once("ba");
	/* Added and removed within one callback */
	end();
}

static void act_add_remove(struct p *p)
{
	add(p->other);
	CU_ASSERT_EQUAL(svio_poller_remove(loop, &p->other->poller), 0);
}

/* So many that the arrays grow inside a callback, while the round runs over the old ones. */
static struct p crowd[100];

static void act_add_crowd(struct p *p)
{
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(crowd); i++) {
		init_p(&crowd[i], '.');
		add(&crowd[i]);
	}
	p->act = NULL;
}

static void act_remove_crowd(struct p *p)
{
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(crowd); i++)
		CU_ASSERT_EQUAL(svio_poller_remove(loop, &crowd[i].poller), 0);
	p->act = NULL;
}

static void test_crowd(void)
{
	char all[128] = "ab";
	struct p a, b, c;

	begin();
	init_p(&a, 'a');
	init_p(&b, 'b');
	init_p(&c, 'c');
	add(&a);
	add(&b);
	a.act = act_add_remove;
	a.other = &c;
	once("ab");
	once("ab");
	a.act = act_add_crowd;
	once("ab");
	memset(all + 2, '.', SVIO_ARRAY_SIZE(crowd));
	once(all);
	a.act = act_remove_crowd;
	once("ab");
	once("ab");
	end();
}

static void act_fail_removed(struct p *p)
{
	CU_ASSERT_EQUAL(svio_poller_remove(loop, &p->poller), 0);
	p->ret = -EIO;
}

static void test_failure(void)
{
	struct p a, b, c;

	begin();
	init_p(&a, 'a');
	init_p(&b, 'b');
	init_p(&c, 'c');
	add(&a);
	add(&b);
	add(&c);
	b.ret = -ENODEV;
	c.ret = 2;
	CU_ASSERT_EQUAL(svio_loop_once(loop),
			2); /* the error counts for nothing, the round goes on */
	CU_ASSERT_EQUAL(b.stops, 1);
	CU_ASSERT_EQUAL(b.err, -ENODEV);
	once("ac");
	CU_ASSERT_EQUAL(svio_poller_remove(loop, &b.poller), -ENOENT);
	/* One that removed itself and failed is not told: it is nobody's any more. */
	a.act = act_fail_removed;
	once("ac");
	once("c");
	CU_ASSERT_EQUAL(a.stops, 0);
	c.ret = -EIO;
	c.poller.stopped = NULL;
	once("c");
	once("");
	end();
}

static void act_countdown(struct p *p)
{
	if (--p->err == 0)
		svio_loop_stop(loop);
}

static void act_nested(struct p *p)
{
	CU_ASSERT_EQUAL(svio_loop_once(loop), -EBUSY);
	CU_ASSERT_EQUAL(svio_loop_run(loop), -EBUSY);
	p->act = act_remove_self;
}

static void on_alarm(int sig)
{
	(void)sig;
	svio_loop_stop(loop);
}

static void test_run(void)
{
	struct svio_loop_stats st, st2;
	sigset_t bus, saved;
	struct p a, b;

	begin();
	CU_ASSERT_EQUAL(svio_loop_run(loop), 0); /* no pollers: at its end at once */
	init_p(&a, 'a');
	add(&a);
	a.act = act_countdown;
	a.err = 10;
	CU_ASSERT_EQUAL(svio_loop_run(loop), 0);
	svio_loop_get_stats(loop, &st);
	CU_ASSERT_EQUAL(st.rounds, 10);
	/* A stop before the run is not lost, and is used up. */
	svio_loop_stop(loop);
	CU_ASSERT_EQUAL(svio_loop_run(loop), 0);
	svio_loop_get_stats(loop, &st2);
	CU_ASSERT_EQUAL(st2.rounds, st.rounds);
	/* Until there are no pollers left. */
	a.act = act_nested;
	init_p(&b, 'b');
	add(&b);
	b.ret = -EIO;
	CU_ASSERT_EQUAL(svio_loop_run(loop), 0);
	CU_ASSERT_EQUAL(b.stops, 1);
	/* From a signal handler; with a mask that is the caller's again afterwards. */
	init_p(&a, 'a');
	add(&a);
	signal(SIGALRM, on_alarm);
	sigemptyset(&bus);
	sigaddset(&bus, SIGBUS);
	pthread_sigmask(SIG_BLOCK, &bus, &saved);
	alarm(1);
	CU_ASSERT_EQUAL(svio_loop_run(loop), 0);
	pthread_sigmask(SIG_SETMASK, &saved, &bus);
	CU_ASSERT_EQUAL(sigismember(&bus, SIGBUS), 1);
	signal(SIGALRM, SIG_DFL);
	end();
}

static const struct unit_test tests[] = {
	{ "pollers run in the order they were added", test_order },
	{ "errors", test_errors },
	{ "add and remove in callbacks", test_callbacks },
	{ "growing in callbacks", test_crowd },
	{ "a poller that fails is removed and told", test_failure },
	{ "run and stop", test_run },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("poll/loop", tests);
}
