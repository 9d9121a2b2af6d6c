// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/kernel/debug/svio_simdev: what the device has seen, and the faults that a test injects. See README.md.
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "simdev.h"

static const char *const stat_names[] = {
#define X(name) [SIM_##name] = #name,
	SIM_STATS(X)
#undef X
};

static int stats_show(struct seq_file *m, void *unused)
{
	struct sim_dev *sd = m->private;

	for (unsigned int i = 0; i < SIM_STAT_NUM; i++)
		seq_printf(m, "%s %lld\n", stat_names[i], atomic64_read(&sd->stats[i]));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(stats);

static int atc_show(struct seq_file *m, void *unused)
{
	struct sim_dev *sd = m->private;
	struct sim_atc_entry *e;

	spin_lock(&sd->lock);
	for (e = &sd->atc[0][0]; e < &sd->atc[0][0] + SIM_ATC_SETS * SIM_ATC_WAYS; e++)
		if (e->dom)
			seq_printf(m, "%u %#llx %s%s\n", e->pasid, e->vpn << PAGE_SHIFT, e->write ? "rw" : "r",
				   e->due ? " due" : "");
	spin_unlock(&sd->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(atc);

static int clear_set(void *data, u64 value)
{
	struct sim_dev *sd = data;

	for (unsigned int i = 0; i < SIM_STAT_NUM; i++)
		atomic64_set(&sd->stats[i], 0);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(clear_fops, NULL, clear_set, "%llu\n");

static int stall_get(void *data, u64 *value)
{
	*value = ((struct sim_dev *)data)->inject.stall;
	return 0;
}

static int stall_set(void *data, u64 value)
{
	struct sim_dev *sd = data;

	WRITE_ONCE(sd->inject.stall, value);
	wake_up_all(&sd->work_wait);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(stall_fops, stall_get, stall_set, "%llu\n");

/* 0 while the function is there, or is to be; otherwise enum sim_plug. */
static int unplug_get(void *data, u64 *value)
{
	*value = !READ_ONCE(((struct sim_dev *)data)->plugged);
	return 0;
}

static int unplug_set(void *data, u64 value)
{
	if (value > SIM_SURPRISE)
		return -EINVAL;
	sim_plug_request(data, value);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(unplug_fops, unplug_get, unplug_set, "%llu\n");

static int reattach_set(void *data, u64 value)
{
	return value && value < BIT(20) ? sim_pasid_reattach(data, value) : -EINVAL;
}
DEFINE_DEBUGFS_ATTRIBUTE(reattach_fops, NULL, reattach_set, "%llu\n");

static int swap_set(void *data, u64 value)
{
	return value < BIT(20) ? sim_pasid_swap(data, value) : -EINVAL;
}
DEFINE_DEBUGFS_ATTRIBUTE(swap_fops, NULL, swap_set, "%llu\n");

void sim_debugfs_init(struct sim_dev *sd)
{
	struct dentry *dir = debugfs_create_dir("svio_simdev", NULL);

	sd->debugfs = dir;
	debugfs_create_file("stats", 0400, dir, sd, &stats_fops);
	debugfs_create_file("clear", 0200, dir, sd, &clear_fops);
	debugfs_create_file("atc", 0400, dir, sd, &atc_fops);
	debugfs_create_file("unplug", 0600, dir, sd, &unplug_fops);
	debugfs_create_file("stall", 0600, dir, sd, &stall_fops);
	debugfs_create_file("reattach_pasid", 0200, dir, sd, &reattach_fops);
	debugfs_create_file("swap_pasid", 0200, dir, sd, &swap_fops);
	debugfs_create_bool("warn", 0600, dir, &sd->warn);
	debugfs_create_atomic_t("drop_invalidations", 0600, dir, &sd->inject.drop_invalidations);
	debugfs_create_atomic_t("drop_responses", 0600, dir, &sd->inject.drop_responses);
	debugfs_create_atomic_t("deny_responses", 0600, dir, &sd->inject.deny_responses);
	debugfs_create_atomic_t("fail_responses", 0600, dir, &sd->inject.fail_responses);
	debugfs_create_atomic_t("fail_descriptors", 0600, dir, &sd->inject.fail_descriptors);
	debugfs_create_u32("fail_status", 0600, dir, &sd->inject.fail_status);
	debugfs_create_u32("response_delay_us", 0600, dir, &sd->inject.response_delay_us);
	debugfs_create_u32("descriptor_delay_us", 0600, dir, &sd->inject.descriptor_delay_us);
}
