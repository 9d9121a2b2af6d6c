/* SPDX-License-Identifier: BSD-3-Clause */
/* Facts about both sides, and what of them does not fit. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "migrate_priv.h"

void svio__mg_record_free(struct svio_migrate_record *rec)
{
	free(rec->facts);
	memset(rec, 0, sizeof(*rec));
}

static struct mg_fact *find(const struct svio_migrate_record *rec, const char *name)
{
	for (size_t i = 0; rec && i < rec->count; i++)
		if (strcmp(rec->facts[i].name, name) == 0)
			return &rec->facts[i];
	return NULL;
}

static int add(struct svio_migrate_record *rec, const struct mg_fact *fact)
{
	if (find(rec, fact->name))
		return svio_fail(EEXIST, "%s is said twice", fact->name);
	if (rec->count == MG_MAX_FACTS)
		return svio_fail(ENOSPC, "a record of more than %d facts", MG_MAX_FACTS);
	if (rec->count == rec->room) {
		size_t room = rec->room ? 2 * rec->room : 16;
		struct mg_fact *grown = reallocarray(rec->facts, room, sizeof(*grown));

		if (!grown)
			return svio_fail(ENOMEM, "out of memory for a record");
		rec->facts = grown;
		rec->room = room;
	}
	rec->facts[rec->count++] = *fact;
	return 0;
}

static struct mg_fact fact_of(const char *name, const char *hint)
{
	struct mg_fact fact = { 0 };

	snprintf(fact.name, sizeof(fact.name), "%s", name);
	snprintf(fact.hint, sizeof(fact.hint), "%s", hint ? hint : "");
	return fact;
}

int svio_migrate_fact_u64(struct svio_migrate_record *rec, const char *name, enum svio_migrate_rule rule, uint64_t value,
			  const char *hint)
{
	struct mg_fact fact = fact_of(name, hint);

	fact.rule = (uint8_t)rule;
	fact.num = value;
	return add(rec, &fact);
}

int svio_migrate_fact_text(struct svio_migrate_record *rec, const char *name, const char *value, const char *hint)
{
	struct mg_fact fact = fact_of(name, hint);

	fact.is_text = true;
	snprintf(fact.text, sizeof(fact.text), "%s", value);
	return add(rec, &fact);
}

bool svio_migrate_fact_find_text(const struct svio_migrate_record *rec, const char *name, char *value, size_t size)
{
	const struct mg_fact *f = find(rec, name);

	if (!f || !f->is_text)
		return false;
	snprintf(value, size, "%s", f->text);
	return true;
}

bool svio_migrate_fact_find_u64(const struct svio_migrate_record *rec, const char *name, uint64_t *value)
{
	const struct mg_fact *f = find(rec, name);

	if (!f || f->is_text)
		return false;
	*value = f->num;
	return true;
}

/* ---- the wire ---------------------------------------------------------------------------------------- */

int svio__mg_record_put(const struct svio_migrate_record *rec, struct svio_migrate_buf *out)
{
	svio_migrate_put_u32(out, (uint32_t)rec->count);
	for (size_t i = 0; i < rec->count; i++) {
		const struct mg_fact *f = &rec->facts[i];

		svio_migrate_put_text(out, f->name);
		svio_migrate_put_u32(out, f->is_text ? UINT32_MAX : f->rule);
		if (f->is_text)
			svio_migrate_put_text(out, f->text);
		else
			svio_migrate_put_u64(out, f->num);
		svio_migrate_put_text(out, f->hint);
	}
	return out->err;
}

int svio__mg_record_get(struct svio_migrate_record *rec, struct svio_migrate_in *in)
{
	uint32_t n = svio_migrate_get_u32(in);

	if (in->bad || n > MG_MAX_FACTS)
		return svio_fail(EPROTO, "a record of %u facts", n);
	while (n--) {
		struct mg_fact f = { 0 };
		uint32_t rule;
		int rc;

		svio_migrate_get_text(in, f.name, sizeof(f.name));
		rule = svio_migrate_get_u32(in);
		f.is_text = rule == UINT32_MAX;
		f.rule = f.is_text ? SVIO_MIGRATE_SAME : (uint8_t)rule;
		if (f.is_text)
			svio_migrate_get_text(in, f.text, sizeof(f.text));
		else
			f.num = svio_migrate_get_u64(in);
		svio_migrate_get_text(in, f.hint, sizeof(f.hint));
		if (in->bad || (!f.is_text && rule > SVIO_MIGRATE_BITS))
			return svio_fail(EPROTO, "a record that is not whole");
		rc = add(rec, &f);
		if (rc)
			return rc;
	}
	return 0;
}

/* ---- comparing --------------------------------------------------------------------------------------- */

static bool fits(const struct mg_fact *s, const struct mg_fact *t)
{
	if (s->is_text != t->is_text)
		return false;
	if (s->is_text)
		return strcmp(s->text, t->text) == 0;
	switch (s->rule) {
	case SVIO_MIGRATE_AT_LEAST:
		return t->num >= s->num;
	case SVIO_MIGRATE_BITS:
		return (s->num & ~t->num) == 0;
	default:
		return s->num == t->num;
	}
}

static void value_text(const struct mg_fact *f, uint8_t rule, char *text, size_t size)
{
	if (!f)
		snprintf(text, size, "(nothing)");
	else if (f->is_text)
		snprintf(text, size, "%s", f->text);
	else
		snprintf(text, size, rule == SVIO_MIGRATE_BITS ? "0x%" PRIx64 : "%" PRIu64, f->num);
}

uint32_t svio__mg_record_compare(const struct svio_migrate_record *source, const struct svio_migrate_record *target,
				 struct svio_migrate_difference *diff, uint32_t max)
{
	uint32_t n = 0;

	for (size_t i = 0; i < source->count; i++) {
		const struct mg_fact *s = &source->facts[i], *t = find(target, s->name);

		if (t && fits(s, t))
			continue;
		if (n < max) {
			struct svio_migrate_difference *d = &diff[n];

			memset(d, 0, sizeof(*d));
			memcpy(d->name, s->name, sizeof(d->name));
			memcpy(d->hint, s->hint, sizeof(d->hint));
			value_text(s, s->rule, d->source, sizeof(d->source));
			value_text(t, s->rule, d->target, sizeof(d->target));
		}
		n++;
	}
	return n;
}
