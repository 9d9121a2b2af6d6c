/* SPDX-License-Identifier: BSD-3-Clause */
/* Open, information, regions, configuration space, close; and every way in which open fails, explained. */
#include <string.h>
#include <sys/mman.h>
#include "fake.h"
#include "unit.h"
#include "vfio_priv.h"

#define TOKEN "0a1b2c3d-0000-1111-2222-333344445555"

static int fds_before;

static void start(void)
{
	fake_start();
	fds_before = unit_count_fds();
}

static void stop(void)
{
	CU_ASSERT_TRUE(fake_idle());
	CU_ASSERT_EQUAL(unit_count_fds(), fds_before);
	fake_stop();
}

static struct svio_device *open_ok(const char *name, const char *token)
{
	struct svio_device_opts opts = { .size = sizeof(opts), .vf_token = token };
	struct svio_device *dev = NULL;

	CU_ASSERT_EQUAL_FATAL(svio_device_open(name, &opts, &dev), 0);
	return dev;
}

/* Open fails with err, says `words`, and leaves nothing. */
static void refused(const char *name, const char *token, int err, const char *words)
{
	struct svio_device_opts opts = { .size = sizeof(opts), .vf_token = token };
	struct svio_device *dev = (void *)&opts;
	int fds = unit_count_fds(), got;

	svio_clear_error();
	got = svio_device_open(name, &opts, &dev);
	CU_ASSERT_EQUAL(got, err);
	if (got != err)
		printf("%s: %d instead of %d: %s\n", name, got, err, svio_last_error());
	CU_ASSERT_PTR_NULL(dev);
	if (!strstr(svio_last_error(), words)) {
		CU_FAIL("the explanation lacks what it must say");
		printf("expected \"%s\" in \"%s\"\n", words, svio_last_error());
	}
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
}

static void test_open(void)
{
	struct svio_device_info info;
	struct svio_device *dev;

	start();
	dev = open_ok("01:00.0", NULL);
	CU_ASSERT_STRING_EQUAL(svio_device_name(dev), "0000:01:00.0");
	CU_ASSERT_EQUAL((uintptr_t)dev % SVIO_CACHELINE, 0);
	svio_device_get_info(dev, &info);
	CU_ASSERT_EQUAL(info.transport, SVIO_TRANSPORT_GROUP);
	CU_ASSERT_EQUAL(info.num_regions, 9);
	CU_ASSERT_EQUAL(info.num_irqs, 5);
	CU_ASSERT_TRUE(info.can_reset);
	CU_ASSERT_EQUAL(info.vendor, 0x8086);
	CU_ASSERT_EQUAL(info.device, 0x1000);
	CU_ASSERT_EQUAL(info.class_code, 0x010802);
	CU_ASSERT_EQUAL(info.revision, 3);
	CU_ASSERT_EQUAL(info.iommu_group, 7);
	CU_ASSERT_EQUAL(info.numa_node, 1);
	CU_ASSERT_FALSE(info.is_vf);
	CU_ASSERT_EQUAL(fake_command(0) & 6, 2);
	CU_ASSERT_EQUAL(svio_device_set_master(dev, true), 0);
	/* ERR and REQ are watched. */
	CU_ASSERT_EQUAL(fake.dev[0].armed[SVIO_IRQ_ERR], 1);
	CU_ASSERT_EQUAL(fake.dev[0].armed[SVIO_IRQ_REQ], 1);
	CU_ASSERT_EQUAL(svio_device_irq_trigger(dev, SVIO_IRQ_REQ, 0, 1), 0);
	while (!(svio_device_events(dev) & SVIO_EV_REQ))
		;
	svio_device_close(dev);
	svio_device_close(NULL);
	CU_ASSERT_EQUAL(fake.dev[0].armed[SVIO_IRQ_ERR], 0);
	CU_ASSERT_EQUAL(fake.master_at_close, 0);
	stop();
}

static void test_groups(void)
{
	struct svio_device *a, *b, *c;

	start();
	a = open_ok("0000:01:00.0", NULL);
	b = open_ok("0000:01:00.1", NULL); /* the same group: its descriptor is shared */
	CU_ASSERT_EQUAL(fake_containers(), 1);
	CU_ASSERT_PTR_EQUAL(svio_device_domain(a), svio_device_domain(b));
	c = open_ok("0000:02:00.0", NULL);
	CU_ASSERT_EQUAL(fake_containers(), 2);
	refused("0000:01:00.0", NULL, -EBUSY, "already open in this process");
	svio_device_close(a);
	a = open_ok("0000:01:00.0", NULL);
	svio_device_close(b);
	svio_device_close(a);
	CU_ASSERT_EQUAL(fake_containers(), 1);
	svio_device_close(c);
	stop();
}

static void test_refusals(void)
{
	start();
	refused("", NULL, -EINVAL, "no device name");
	refused("nonsense", NULL, -EINVAL, "svio list");
	refused("user:/nonexistent/socket", NULL, -ENODEV, "user:/nonexistent/socket");
	refused("0000:77:00.0", NULL, -ENODEV, "0000:77:00.0");
	refused("0000:09:00.0", NULL, -EPERM,
		"bound to driver nvme, not to vfio-pci; run: svio bind 0000:09:00.0");
	refused("0000:09:00.1", NULL, -EOPNOTSUPP, "intel_iommu=on");
	refused("0000:01:00.0", "not-a-uuid", -EINVAL, "no UUID");
	refused("0000:01:00.0", TOKEN "0", -EINVAL, "no UUID");
	refused("0000:01:00.0", "0a1b2c3d-0000-1111-2222-33334444555 ", -EINVAL, "no UUID");
	fake.no_vfio = true;
	refused("0000:01:00.0", NULL, -EOPNOTSUPP, "modprobe vfio-pci");
	fake.no_vfio = false;
	fake.no_permission = true;
	refused("0000:01:00.0", NULL, -EACCES, "udev rule");
	fake.no_permission = false;
	fake.no_type1 = true;
	refused("0000:01:00.0", NULL, -EOPNOTSUPP, "modprobe vfio_iommu_type1");
	fake.no_type1 = false;
	fake.busy = true;
	refused("0000:01:00.0", NULL, -EBUSY, "IOMMU group 7 is in use by");
	fake.busy = false;
	fake.not_viable = true;
	refused("0000:01:00.0", NULL, -EPERM, "0000:01:00.1 is bound to nvme; run: svio bind");
	fake.not_viable = false;
	fake.unsafe_interrupts = true;
	refused("0000:01:00.0", NULL, -EPERM, "allow_unsafe_interrupts");
	fake.unsafe_interrupts = false;
	fake.bus_gone = true;
	refused("0000:01:00.0", NULL, -ENODEV, "all ones");
	fake.bus_gone = false;
	svio_device_close(open_ok("0000:01:00.0", NULL));
	stop();
}

static void test_options(void)
{
	struct {
		struct svio_device_opts opts;
		char more[16];
	} big = { .opts.size = sizeof(big) };
	struct svio_device_opts opts = { .size = 0 };
	struct svio_device *dev;

	start();
	CU_ASSERT_EQUAL(svio_device_open(fake_names[0], &opts, &dev), -EINVAL);
	opts.size = sizeof(opts);
	opts.flags = 1u << 31;
	CU_ASSERT_EQUAL(svio_device_open(fake_names[0], &opts, &dev), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_open(fake_names[0], &big.opts, &dev), 0);
	svio_device_close(dev);
	big.more[3] = 1;
	CU_ASSERT_EQUAL(svio_device_open(fake_names[0], &big.opts, &dev), -EINVAL);
	opts.flags = SVIO_DEVICE_NO_WATCH;
	CU_ASSERT_EQUAL(svio_device_open(fake_names[0], &opts, &dev), 0);
	CU_ASSERT_EQUAL(fake.dev[0].armed[SVIO_IRQ_REQ], 0);
	svio_device_close(dev);
	stop();
}

static void test_token(void)
{
	start();
	fake.vf_token = TOKEN;
	refused("0000:02:10.0", NULL, -EACCES, "needs a VF token");
	refused("0000:02:10.0", "ffffffff-0000-1111-2222-333344445555", -EACCES, "wrong VF token");
	refused("0000:01:00.0", TOKEN, -EINVAL, "takes none");
	svio_device_close(open_ok("0000:02:10.0", TOKEN));
	stop();
}

static void test_regions(void)
{
	struct svio_region_info r;
	struct svio_device *dev;
	uint32_t v = 0x11223344, w = 0;
	uint32_t *p = NULL;
	void *q;

	start();
	dev = open_ok(fake_names[0], NULL);
	CU_ASSERT_EQUAL(svio_device_region_info(dev, 0, &r), 0);
	CU_ASSERT_EQUAL(r.size, 0x4000);
	/* The MSI-X table is at 0x2000: that page is not mappable. */
	CU_ASSERT_EQUAL(r.num_areas, 2);
	CU_ASSERT_EQUAL(r.areas[0].offset, 0);
	CU_ASSERT_EQUAL(r.areas[0].size, 0x2000);
	CU_ASSERT_EQUAL(r.areas[1].offset, 0x3000);
	CU_ASSERT_EQUAL(r.areas[1].size, 0x1000);
	CU_ASSERT_EQUAL(svio_device_region_info(dev, 4, &r), 0);
	CU_ASSERT_EQUAL(r.size, 0x800); /* not rounded up, and no page to map */
	CU_ASSERT_EQUAL(r.num_areas, 0);
	CU_ASSERT_EQUAL(svio_device_region_info(dev, 1, &r), 0);
	CU_ASSERT_EQUAL(r.size, 0);
	CU_ASSERT_EQUAL(svio_device_region_info(dev, 8, &r), 0); /* VGA that is not there */
	CU_ASSERT_EQUAL(svio_device_region_info(dev, 9, &r), -EINVAL);

	CU_ASSERT_EQUAL(svio_device_region_mmap(dev, 0, 0x1000, 0x1000, PROT_READ | PROT_WRITE,
						NULL, (void **)&p),
			0);
	CU_ASSERT_EQUAL(svio_device_region_write(dev, 0, 0x1010, &v, 4), 0);
	CU_ASSERT_EQUAL(p[4], v);
	p[5] = 0x55667788;
	CU_ASSERT_EQUAL(svio_device_region_read(dev, 0, 0x1014, &w, 4), 0);
	CU_ASSERT_EQUAL(w, 0x55667788);
	/* The same place again, at a fixed address. */
	CU_ASSERT_EQUAL(svio_device_region_mmap(dev, 0, 0, 0x1000, PROT_READ, p, &q), 0);
	CU_ASSERT_PTR_EQUAL(q, p);
	CU_ASSERT_EQUAL(p[4], 0);
	munmap(p, 0x1000);

	CU_ASSERT_EQUAL(svio_device_region_mmap(dev, 0, 0x2000, 0x1000, PROT_READ, NULL, &q),
			-EINVAL);
	CU_ASSERT_EQUAL(svio_device_region_mmap(dev, 0, 0x1000, 0x3000, PROT_READ, NULL, &q),
			-EINVAL);
	CU_ASSERT_EQUAL(svio_device_region_mmap(dev, 0, 0x800, 0x1000, PROT_READ, NULL, &q),
			-EINVAL);
	CU_ASSERT_EQUAL(svio_device_region_mmap(dev, 0, 0, 0, PROT_READ, NULL, &q), -EINVAL);
	CU_ASSERT_EQUAL(
		svio_device_region_mmap(dev, 0, UINT64_MAX - 0xfff, 0x2000, PROT_READ, NULL, &q),
		-EINVAL);
	CU_ASSERT_EQUAL(svio_device_region_mmap(dev, 0, 0, 0x1000, PROT_EXEC, NULL, &q), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_region_mmap(dev, 99, 0, 0x1000, PROT_READ, NULL, &q), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_region_read(dev, 0, 0x3ffd, &w, 4), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_region_read(dev, 0, UINT64_MAX, &w, 4), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_region_write(dev, 1, 0, &w, 1), -EINVAL);
	svio_device_close(dev);
	stop();
}

static void test_sparse(void)
{
	struct svio_region_info r;
	struct svio_device *dev;

	start();
	fake.msix_table = 4; /* in BAR 4 */
	fake.sparse = 2;     /* pages 2 and 0, in this order */
	dev = open_ok(fake_names[0], NULL);
	CU_ASSERT_EQUAL(svio_device_region_info(dev, 0, &r), 0);
	CU_ASSERT_EQUAL(r.num_areas, 2);
	CU_ASSERT_EQUAL(r.areas[0].offset, 0);
	CU_ASSERT_EQUAL(r.areas[1].offset, 0x2000);
	svio_device_close(dev);
	fake.sparse = 70; /* more than we keep; they fall on each other */
	dev = open_ok(fake_names[0], NULL);
	CU_ASSERT_EQUAL(svio_device_region_info(dev, 0, &r), 0);
	CU_ASSERT_EQUAL(r.num_areas, 2);
	svio_device_close(dev);
	stop();
}

static void spoil_loop(struct vfio_region_info *info, uint32_t room)
{
	struct vfio_info_cap_header *h = (void *)(info + 1);

	if (room >= sizeof(*info) + sizeof(*h))
		*h = (struct vfio_info_cap_header){ .id = 77, .next = sizeof(*info) };
}

static void spoil_count(struct vfio_region_info *info, uint32_t room)
{
	struct vfio_region_info_cap_sparse_mmap *s = (void *)(info + 1);

	if (room >= sizeof(*info) + sizeof(*s))
		s->nr_areas = 0x10000000;
}

static void spoil_area(struct vfio_region_info *info, uint32_t room)
{
	struct vfio_region_info_cap_sparse_mmap *s = (void *)(info + 1);

	if (room >= sizeof(*info) + sizeof(*s) + sizeof(s->areas[0]))
		s->areas[0].offset = UINT64_MAX - 0xfff;
}

static void spoil_length(struct vfio_region_info *info, uint32_t room)
{
	struct vfio_region_info_cap_sparse_mmap *s = (void *)(info + 1);

	if (room >= sizeof(*info) + sizeof(*s) + sizeof(s->areas[0]))
		s->areas[0].size = UINT64_MAX - 0xfff;
}

static void spoil_cut(struct vfio_region_info *info, uint32_t room)
{
	(void)room;
	info->argsz = sizeof(*info) + 8;
}

static void spoil_short(struct vfio_region_info *info, uint32_t room)
{
	(void)room;
	info->argsz = sizeof(*info) + 8;
	info->cap_offset = sizeof(*info);
}

static void spoil_offset(struct vfio_region_info *info, uint32_t room)
{
	(void)room;
	info->cap_offset = 8;
}

static void spoil_huge(struct vfio_region_info *info, uint32_t room)
{
	(void)room;
	info->argsz = UINT32_MAX;
}

static void spoil_size(struct vfio_region_info *info, uint32_t room)
{
	(void)room;
	info->size = UINT64_MAX;
}

static void test_hostile(void)
{
	static void (*const spoil[])(struct vfio_region_info *, uint32_t) = {
		spoil_loop,  spoil_count,  spoil_area, spoil_length, spoil_cut,
		spoil_short, spoil_offset, spoil_huge, spoil_size,
	};

	start();
	fake.sparse = 2;
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(spoil); i++) {
		fake.spoil_region = spoil[i];
		refused(fake_names[0], NULL, -EPROTO, "region 0");
	}
	fake.spoil_region = NULL;
	fake.msix_table = 7; /* no such BAR */
	refused(fake_names[0], NULL, -EPROTO, "MSI-X table in BAR 7");
	stop();
}

static void test_config(void)
{
	struct svio_device *dev;
	uint32_t v;

	start();
	dev = open_ok(fake_names[0], NULL);
	CU_ASSERT_EQUAL(svio_device_config_read(dev, 0, 4, &v), 0);
	CU_ASSERT_EQUAL(v, 0x10008086);
	CU_ASSERT_EQUAL(svio_device_config_read(dev, 2, 2, &v), 0);
	CU_ASSERT_EQUAL(v, 0x1000);
	CU_ASSERT_EQUAL(svio_device_config_read(dev, 0, 1, &v), 0);
	CU_ASSERT_EQUAL(v, 0x86);
	CU_ASSERT_EQUAL(svio_device_config_read(dev, 0, 3, &v), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_config_read(dev, 4094, 4, &v), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_config_write(dev, 0x80, 4, 0xa1b2c3d4), 0);
	CU_ASSERT_EQUAL(svio_device_config_read(dev, 0x82, 2, &v), 0);
	CU_ASSERT_EQUAL(v, 0xa1b2);

	CU_ASSERT_EQUAL(svio_device_set_master(dev, true), 0);
	CU_ASSERT_EQUAL(fake_command(0), 6);
	CU_ASSERT_EQUAL(svio_device_set_master(dev, false), 0);
	CU_ASSERT_EQUAL(fake_command(0), 2);
	/* Decoding off: -EIO, and set_master brings it back. */
	CU_ASSERT_EQUAL(svio_device_config_write(dev, 4, 1, 0), 0);
	CU_ASSERT_EQUAL(svio_device_region_read(dev, 0, 0, &v, 4), -EIO);
	CU_ASSERT_EQUAL(svio_device_region_write(dev, 0, 0, &v, 4), -EIO);
	CU_ASSERT_EQUAL(svio_device_set_master(dev, true), 0);
	CU_ASSERT_EQUAL(svio_device_region_read(dev, 0, 0, &v, 4), 0);
	/* Gone. */
	fake.bus_gone = true;
	CU_ASSERT_EQUAL(svio_device_set_master(dev, false), -ENODEV);
	CU_ASSERT_TRUE(svio_device_events(dev) & SVIO_EV_GONE);
	fake.bus_gone = false;
	svio_device_close(
		dev); /* touches nothing of a device that is gone; the kernel's last close does */
	stop();
}

static void test_vf(void)
{
	struct svio_device_info info;
	struct svio_device *dev;
	uint32_t v;

	start();
	dev = open_ok("0000:02:10.0", NULL);
	svio_device_get_info(dev, &info);
	CU_ASSERT_TRUE(info.is_vf);
	CU_ASSERT_EQUAL(fake_command(3), 0);
	CU_ASSERT_EQUAL(svio_device_region_read(dev, 0, 0, &v, 4), 0);
	CU_ASSERT_EQUAL(svio_device_set_master(dev, true), 0);
	CU_ASSERT_EQUAL(fake_command(3), 4);
	CU_ASSERT_EQUAL(svio_device_set_memory(dev, false), -EOPNOTSUPP);
	svio_device_close(dev);
	stop();
}

static void test_feature(void)
{
	struct svio_device *dev;
	uint8_t token[16] = { 0 };

	start();
	dev = open_ok(fake_names[0], NULL);
	CU_ASSERT_EQUAL(svio_device_feature(dev, SVIO_FEATURE_PROBE, 0, NULL, 0), 0);
	CU_ASSERT_EQUAL(svio_device_feature(dev, SVIO_FEATURE_SET, 0, token, sizeof(token)), 0);
	CU_ASSERT_EQUAL(token[15], 0);
	CU_ASSERT_EQUAL(svio_device_feature(dev, SVIO_FEATURE_GET, 0, token, sizeof(token)), 0);
	CU_ASSERT_EQUAL(token[15], 0x5a);
	CU_ASSERT_EQUAL(svio_device_feature(dev, SVIO_FEATURE_PROBE, 99, NULL, 0), -ENOTTY);
	CU_ASSERT_EQUAL(svio_device_feature(dev, SVIO_FEATURE_GET, 0, NULL, 16), -EINVAL);
	svio_device_close(dev);
	stop();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "open, identity, command register, watcher, close", test_open },
		{ "functions of one group share it", test_groups },
		{ "every refusal is explained and leaves nothing", test_refusals },
		{ "options of other versions", test_options },
		{ "VF token", test_token },
		{ "regions: sizes, areas, access, mappings", test_regions },
		{ "sparse areas are sorted, merged and bounded", test_sparse },
		{ "hostile region replies are refused", test_hostile },
		{ "configuration space and bus mastering", test_config },
		{ "a VF has no memory enable bit", test_vf },
		{ "features", test_feature },
		{ NULL, NULL },
	};

	return unit_run("vfio/device", tests);
}
