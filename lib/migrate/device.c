/* SPDX-License-Identifier: BSD-3-Clause */
/* The part of a device that has migration state of its own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "migrate_priv.h"

#define PIECE (UINT32_C(64) << 10)

struct svio_migrate_device {
	struct svio_migrate_part part;
	struct svio_device *dev;
	char name[MG_NAME];
	uint64_t flags;
	bool ahead;    /* source: in PRE_COPY */
	bool resuming; /* target: something was written */
};

static int fact(struct svio_migrate_record *rec, const struct svio_migrate_device *d, const char *what, enum svio_migrate_rule rule,
		uint64_t value, const char *hint)
{
	char name[SVIO_MIGRATE_NAME_MAX];

	snprintf(name, sizeof(name), "%s.%s", d->name, what);
	return svio_migrate_fact_u64(rec, name, rule, value, hint);
}

static int describe(void *ctx, struct svio_migrate_record *mine, const struct svio_migrate_record *source)
{
	static const char *const same = "a state fits the same model only: choose such a device, or let its driver set up another one";
	const struct svio_migrate_device *d = ctx;
	struct svio_device_info info;
	int rc;

	(void)source;
	svio_device_get_info(d->dev, &info);
	rc = fact(mine, d, "id", SVIO_MIGRATE_SAME, (uint64_t)info.vendor << 16 | info.device, same);
	if (rc == 0)
		rc = fact(mine, d, "class", SVIO_MIGRATE_SAME, info.class_code, same);
	if (rc == 0)
		rc = fact(mine, d, "revision", SVIO_MIGRATE_SAME, info.revision, same);
	if (rc == 0)
		rc = fact(mine, d, "migration", SVIO_MIGRATE_BITS, d->flags & SVIO_MIG_CAN_STOP_COPY, "the device there has no migration state");
	for (uint32_t bar = 0; rc == 0 && bar < 6; bar++) {
		struct svio_region_info region;
		char what[16];

		snprintf(what, sizeof(what), "bar%u", bar);
		if (svio_device_region_info(d->dev, bar, &region) == 0 && region.size)
			rc = fact(mine, d, what, SVIO_MIGRATE_SAME, region.size, same);
	}
	return rc;
}

/* What there is, up to what `out` still takes; -EAGAIN it is full. */
static int read_state(struct svio_migrate_device *d, struct svio_migrate_buf *out)
{
	uint8_t *piece = malloc(PIECE);
	int rc = piece ? 0 : svio_fail(ENOMEM, "%s: out of memory", d->name);
	size_t got = 1;

	while (rc == 0 && got) {
		if (out->max - out->len < PIECE) {
			rc = -EAGAIN;
			break;
		}
		rc = svio_device_mig_read(d->dev, piece, PIECE, &got);
		if (rc == 0 && got)
			rc = svio_migrate_put(out, piece, got);
	}
	free(piece);
	return rc;
}

static int precopy(void *ctx, struct svio_migrate_buf *out)
{
	struct svio_migrate_device *d = ctx;
	int rc;

	if (!(d->flags & SVIO_MIG_CAN_PRE_COPY))
		return 0;
	if (!d->ahead) {
		rc = svio_device_mig_set(d->dev, SVIO_MIG_PRE_COPY);
		if (rc)
			return rc;
		d->ahead = true;
	}
	rc = read_state(d, out);
	return rc == -EAGAIN ? 0 : rc; /* the rest in the next round, or at the end */
}

static int quiesce(void *ctx)
{
	struct svio_migrate_device *d = ctx;

	return svio_device_mig_set(d->dev, SVIO_MIG_STOP_COPY);
}

static int save(void *ctx, struct svio_migrate_buf *out)
{
	struct svio_migrate_device *d = ctx;
	int rc = read_state(d, out);

	return rc == -EAGAIN ? svio_fail(E2BIG, "%s: a state of more than %llu bytes", d->name, (unsigned long long)MG_MAX_STATE) : rc;
}

static int write_state(struct svio_migrate_device *d, struct svio_migrate_in *in)
{
	size_t len = in->left;
	const void *data = svio_migrate_get(in, len);

	if (!d->resuming) {
		int rc = svio_device_mig_set(d->dev, SVIO_MIG_RESUMING);

		if (rc)
			return rc;
		d->resuming = true;
	}
	return len ? svio_device_mig_write(d->dev, data, len) : 0;
}

static int load_precopy(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	(void)version;
	return write_state(ctx, in);
}

static void cancel(void *ctx, enum svio_migrate_side side)
{
	struct svio_migrate_device *d = ctx;
	int rc = 0;

	if (side == SVIO_MIGRATE_SOURCE && d->ahead)
		rc = svio_device_mig_set(d->dev, SVIO_MIG_RUNNING);
	if (side == SVIO_MIGRATE_TARGET && d->resuming)
		rc = svio_device_reset(d->dev);
	if (rc)
		svio_log_err("%s: %s", d->name, svio_last_error());
	d->ahead = false;
	d->resuming = false;
}

static int load(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	struct svio_migrate_device *d = ctx;
	int rc;

	(void)version;
	rc = write_state(d, in);
	/* Leaving RESUMING is where the device looks at it. */
	if (rc == 0)
		rc = svio_device_mig_set(d->dev, SVIO_MIG_STOP);
	if (rc)
		cancel(d, SVIO_MIGRATE_TARGET);
	return rc;
}

static void resume(void *ctx, enum svio_migrate_side side)
{
	struct svio_migrate_device *d = ctx;

	(void)side;
	if (svio_device_mig_set(d->dev, SVIO_MIG_RUNNING)) {
		svio_log_err("%s: does not run again: %s; resetting it", d->name, svio_last_error());
		if (svio_device_reset(d->dev))
			svio_log_err("%s: %s", d->name, svio_last_error());
	}
	d->ahead = false;
	d->resuming = false;
}

static void discard(void *ctx, enum svio_migrate_side side)
{
	struct svio_migrate_device *d = ctx;

	if (side == SVIO_MIGRATE_TARGET) {
		cancel(d, side);
		return;
	}
	/* Back to where the next user expects it. */
	if (svio_device_reset(d->dev))
		svio_log_warn("%s: %s", d->name, svio_last_error());
	d->ahead = false;
}

int svio_migrate_device_create(struct svio_device *dev, const char *name, struct svio_migrate_device **devp)
{
	struct svio_migrate_device *d;
	uint64_t flags;
	int rc;

	*devp = NULL;
	rc = svio_device_mig_flags(dev, &flags);
	if (rc)
		return rc;
	if (!(flags & SVIO_MIG_CAN_STOP_COPY))
		return svio_fail(ENOTTY, "%s: has no migration state that can be read", svio_device_name(dev));
	if (!*name || strlen(name) >= MG_NAME)
		return svio_fail(EINVAL, "a name of 1 to %d bytes", (int)MG_NAME - 1);
	d = calloc(1, sizeof(*d));
	if (!d)
		return svio_fail(ENOMEM, "%s: out of memory", name);
	d->dev = dev;
	d->flags = flags;
	snprintf(d->name, sizeof(d->name), "%s", name);
	d->part = (struct svio_migrate_part){ .name = d->name, .version = 1, .describe = describe, .precopy = precopy,
					      .load_precopy = load_precopy, .quiesce = quiesce, .save = save, .load = load,
					      .resume = resume, .discard = discard, .cancel = cancel, .ctx = d };
	*devp = d;
	return 0;
}

struct svio_migrate_part *svio_migrate_device_part(struct svio_migrate_device *dev)
{
	return &dev->part;
}

void svio_migrate_device_destroy(struct svio_migrate_device *dev)
{
	free(dev);
}
