/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A server that sleeps, shadow doorbells (Doorbell Buffer Config), and a completion queue that is full: the client frees its entries by
 * a store to its own memory, which wakes nobody, and rings only when the controller's mark says so (NVMe 1.4 §5.7, §7.13). A
 * server that has not moved its mark before it sleeps waits for ever, and so does the client.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/pci_regs.h>
#include "cases.h"

#define RAM_IOVA   UINT64_C(0x300000000)
#define RAM_BYTES  (4u << 20)
#define DB_PAGES   (2 * QN_PAGE) /* at the end of it: shadow doorbells and event indexes */
#define SQ_ENTRIES 64u
#define CQ_ENTRIES 8u
#define COMMANDS   60u

/* State and voluntary context switches (proc(5)). */
static bool sleeps(const struct qk *k, unsigned long *switches)
{
	char path[64], text[256], state = '?';
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", k->server);
	f = fopen(path, "re");
	qk_need(f != NULL, "%s", path);
	while (fgets(text, sizeof(text), f)) {
		sscanf(text, "State: %c", &state);
		sscanf(text, "voluntary_ctxt_switches: %lu", switches);
	}
	fclose(f);
	return state == 'S';
}

/* Asleep, and it stays so: it has done what it had to do, and waits for a message. */
static bool asleep(const struct qk *k)
{
	uint64_t since = qk_now();
	unsigned long before = 0, after = 1;
	unsigned int still = 0;

	while (still < 20 && !qk_late(since)) {
		bool now = sleeps(k, &after);

		still = now && after == before ? still + 1 : 0;
		before = after;
		sched_yield();
	}
	return still >= 20;
}

/* Completions that lie there: 0 … all. */
static uint32_t ready(const struct qn_queue *q)
{
	uint32_t n = 0;

	while (n < CQ_ENTRIES - 1 && qn_ready(q, n))
		n++;
	return n;
}

enum how { ONE_BY_ONE, TOGETHER, AT_ONCE };

/* COMMANDS at once into a completion queue of 7. Reads are the fast path, flushes the other one. */
static const char *round_of(struct qn *n, struct qn_queue *q, enum how how, uint64_t iova, uint64_t *seen)
{
	uint64_t since = qk_now();
	uint32_t left = COMMANDS;

	*seen = 0;
	for (uint32_t i = 0; i < COMMANDS; i++) {
		struct nvme_cmd cmd = { .opcode = NVME_IO_FLUSH, .nsid = svio_cpu_to_le32(1) };

		if (i % 3)
			qn_rw_cmd(n, &cmd, false, i, iova, 512, NULL, 0);
		qn_submit(q, &cmd);
	}
	qn_ring(n, q);
	while (left) {
		uint32_t have = ready(q), want = SVIO_MIN(left, CQ_ENTRIES - 1);

		if (qk_late(since))
			return "a completion queue was emptied, and the controller sleeps on";
		/* AT_ONCE takes what there is, as often as it can; the others wait until the server can do no more. */
		if (!have || (how != AT_ONCE && have < want)) {
			sched_yield();
			continue;
		}
		if (how != AT_ONCE && !asleep(n->k))
			return "the server never sleeps";
		for (uint32_t i = 0; i < have; i++)
			if (svio_le16_to_cpu(q->cq[(q->head + i) % CQ_ENTRIES].status) & (uint16_t)~NVME_CQE_PHASE)
				return "a command fails";
		if (how == ONE_BY_ONE)
			have = 1;
		qn_free(n, q, have);
		left -= have;
		*seen += have;
	}
	return NULL;
}

static void rounds(struct qn *n, const char *mode, uint64_t iova)
{
	static const char *const what[] = { "one by one", "all together", "as soon as they come, 2,000 rounds" };
	uint64_t seen = 0;

	for (enum how how = ONE_BY_ONE; how <= AT_ONCE; how++) {
		uint64_t rung = n->rung, total = 0;
		const char *bad = NULL;

		for (unsigned int i = 0; i < (how == AT_ONCE ? 2000 : 5) && !bad; i++) {
			bad = round_of(n, &n->io[0], how, iova, &seen);
			total += seen;
		}
		qk_check(!bad && n->rung > rung && n->rung - rung < total,
			 "a sleeping server, shadow doorbells, %s, a full completion queue freed %s: %llu messages for %llu completions%s%s", mode,
			 what[how], (unsigned long long)(n->rung - rung), (unsigned long long)total, bad ? ": " : "", bad ? bad : "");
		if (bad)
			return;
	}
}

void case_sleep(const char *path)
{
	const uint64_t main_bytes = RAM_BYTES - DB_PAGES;
	uint64_t bar_off, iova, before;
	const char *bad = NULL;
	struct qk k;
	struct qn n;
	void *mem;
	int fd;

	qk_connect(&k, path);
	qk_need(qk_version(&k, 1, NULL) == 0, "VERSION");
	qk_need(doorbell_area(&k, &bar_off) < 0, "a server that sleeps offers no doorbells for mapping");
	qk_config_set(&k, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	fd = ram_fd(RAM_BYTES, F_SEAL_SHRINK, &mem);
	qk_need(qk_map(&k, RAM_IOVA, main_bytes, 0, QK_MAP_RW, fd) == 0 &&
		qk_map(&k, RAM_IOVA + main_bytes, DB_PAGES, main_bytes, QK_MAP_RW, fd) == 0, "memory is mapped");
	qn_init(&n, &k, mem, RAM_IOVA, main_bytes, -1, 0);
	qn_alloc(&n, QN_PAGE, &iova);
	/* The model follows the host's head for INTx too: only with MSI-X is it the sleeping that makes it move its mark. */
	for (int msix = 1; msix >= 0; msix--) {
		uint32_t flags = SVIO_VFU_IRQ_ACTION_TRIGGER | (msix ? SVIO_VFU_IRQ_DATA_EVENTFD : SVIO_VFU_IRQ_DATA_NONE);

		qk_need(qk_irqs(&k, flags, SVIO_VFU_IRQ_MSIX, 0, msix ? 1 : 0, NULL, 0) == 0, "MSI-X is switched on or off");
		qk_need(qn_enable(&n), "the controller is enabled");
		qn_identify(&n);
		qk_need(svio_le16_to_cpu(n.id.oacs) & NVME_OACS_DBBUF, "Doorbell Buffer Config is offered");
		qk_need(qn_shadow(&n, (uint8_t *)mem + main_bytes, RAM_IOVA + main_bytes) == 0, "Doorbell Buffer Config");
		qn_create(&n, 0, SQ_ENTRIES, CQ_ENTRIES, 0);
		rounds(&n, msix ? "MSI-X" : "INTx", iova);
	}
	/* Their memory goes: the doorbells move back into the BAR, with the values that they had. */
	before = n.rung;
	qk_need(qk_unmap(&k, RAM_IOVA + main_bytes, DB_PAGES, -1) == 0, "the shadows' memory is unmapped");
	n.shadow = n.eventidx = NULL;
	memset((uint8_t *)mem + main_bytes, 0xff, DB_PAGES);
	for (unsigned int i = 0; i < 5 && !bad; i++)
		bad = round_of(&n, &n.io[0], TOGETHER, iova, &bar_off);
	qk_check(!bad && n.rung == before, "without their memory, the doorbells are in the BAR again%s%s", bad ? ": " : "", bad ? bad : "");
	qn_fini(&n);
	qk_close(&k);
	munmap(mem, RAM_BYTES);
	close(fd);
}
