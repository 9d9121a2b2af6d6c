/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Faults on request, for tests of drivers: inject=RULE[+RULE]…
 *
 *	RULE	WHICH:FAULT[:every=N][:times=N][:skip=N]
 *	WHICH	read, write, flush, io (any I/O command), admin, or an opcode: io.0x08, admin.0x06
 *	FAULT	sc=0xNNN	complete with this status: status code type in bits 8-10, status code in bits 0-7
 *		drop		never complete (until aborted, or the queue goes)
 *		noirq		complete without the interrupt
 *		stall=USEC	complete that much later
 *
 * The first rule that matches counts. every: each Nth matching command (1); times: so often (always); skip: so many matches before.
 */
#include <stdlib.h>
#include "nvme_model.h"

static int parse_which(struct nm_fault *f, const char *word)
{
	uint64_t opcode;

	f->opcode = -1;
	if (strcmp(word, "read") == 0 || strcmp(word, "write") == 0 || strcmp(word, "flush") == 0) {
		f->io = true;
		f->opcode = word[0] == 'r' ? NVME_IO_READ : word[0] == 'w' ? NVME_IO_WRITE : NVME_IO_FLUSH;
		return 0;
	}
	if (strncmp(word, "io", 2) == 0) {
		f->io = true;
		word += 2;
	} else if (strncmp(word, "admin", 5) == 0) {
		f->admin = true;
		word += 5;
	} else {
		return -EINVAL;
	}
	if (*word == '\0')
		return 0;
	if (*word != '.' || svio_parse_u64(word + 1, 0xff, &opcode))
		return -EINVAL;
	f->opcode = (int)opcode;
	return 0;
}

static int parse_word(struct nm_fault *f, const char *word, bool *have_fault)
{
	const char *eq = strchr(word, '=');
	uint64_t v = 0;

	if (eq && svio_parse_u64(eq + 1, UINT32_MAX, &v))
		return -EINVAL;
	if (strncmp(word, "sc=", 3) == 0 && v && v <= 0x7ff) {
		f->kind = NM_FAULT_STATUS;
		f->status = NVME_STATUS_MAKE((uint32_t)v >> 8, (uint32_t)v & 0xff);
	} else if (strcmp(word, "drop") == 0) {
		f->kind = NM_FAULT_DROP;
	} else if (strcmp(word, "noirq") == 0) {
		f->kind = NM_FAULT_NOIRQ;
	} else if (strncmp(word, "stall=", 6) == 0 && v) {
		f->kind = NM_FAULT_STALL;
		f->stall_us = (uint32_t)v;
	} else if (strncmp(word, "every=", 6) == 0 && v) {
		f->every = v;
		return 0;
	} else if (strncmp(word, "times=", 6) == 0 && v) {
		f->left = v;
		return 0;
	} else if (strncmp(word, "skip=", 5) == 0) {
		f->skip = v;
		return 0;
	} else {
		return -EINVAL;
	}
	if (*have_fault)
		return -EINVAL;
	*have_fault = true;
	return 0;
}

int svio__nm_inject_parse(struct nm *m, const char *text)
{
	char *copy, *rules, *rule;
	int err = 0;

	if (!text || !*text)
		return 0;
	copy = rules = strdup(text);
	if (!copy)
		return -ENOMEM;
	while (!err && (rule = strsep(&rules, "+")) != NULL) {
		struct nm_fault f = { .every = 1, .left = UINT64_MAX };
		bool have_fault = false;
		char *word = strsep(&rule, ":");

		err = m->nfaults == SVIO_ARRAY_SIZE(m->fault) ? -E2BIG : parse_which(&f, word);
		while (!err && (word = strsep(&rule, ":")) != NULL)
			err = parse_word(&f, word, &have_fault);
		if (!err && !have_fault)
			err = -EINVAL;
		if (!err)
			m->fault[m->nfaults++] = f;
	}
	free(copy);
	if (err)
		return svio_fail(EINVAL, "inject=%s: expected RULE[+RULE]... (at most 8), a rule being "
				 "read|write|flush|io|admin|io.OPCODE|admin.OPCODE:sc=0xNNN|drop|noirq|stall=USEC"
				 "[:every=N][:times=N][:skip=N]", text);
	return 0;
}

const struct nm_fault *svio__nm_inject_match(struct nm *m, bool admin, uint8_t opcode)
{
	for (uint32_t i = 0; i < m->nfaults; i++) {
		struct nm_fault *f = &m->fault[i];

		if (!(admin ? f->admin : f->io) || (f->opcode >= 0 && f->opcode != opcode) || !f->left)
			continue;
		if (f->seen++ < f->skip || (f->seen - f->skip - 1) % f->every)
			continue;
		if (f->left != UINT64_MAX)
			f->left--;
		return f;
	}
	return NULL;
}
