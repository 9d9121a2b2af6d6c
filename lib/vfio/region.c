/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Regions: what there is, what may be mapped, and access by read and write.
 *
 * Sizes are exact and nothing is rounded up: a region of a bus with small regions (fsl-mc) stays as small as it is.
 * <linux/vfio.h>: struct vfio_region_info, VFIO_REGION_INFO_CAP_SPARSE_MMAP.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "vfio_priv.h"

static uint64_t page_size(void)
{
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

/* ---- areas ----------------------------------------------------------------------------------------- */

/* Whole pages inside [start, end); nothing when there are none. */
static void area_add(struct svio_region_info *info, uint64_t start, uint64_t end)
{
	uint64_t page = page_size();

	if (start > UINT64_MAX - page)
		return;
	start = SVIO_ALIGN_UP(start, page);
	end = SVIO_ALIGN_DOWN(end, page);
	if (start >= end || info->num_areas == SVIO_MAX_SPARSE)
		return;
	info->areas[info->num_areas++] = (struct svio_sparse_area){ start, end - start };
}

static int area_cmp(const void *a, const void *b)
{
	const struct svio_sparse_area *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Sorted, and one area where several touch or overlap. */
static void areas_merge(struct svio_region_info *info)
{
	uint32_t n = 0;

	qsort(info->areas, info->num_areas, sizeof(info->areas[0]), area_cmp);
	for (uint32_t i = 0; i < info->num_areas; i++) {
		struct svio_sparse_area *last = n ? &info->areas[n - 1] : NULL,
					*a = &info->areas[i];

		if (last && a->offset <= last->offset + last->size)
			last->size = SVIO_MAX(last->offset + last->size, a->offset + a->size) -
				     last->offset;
		else
			info->areas[n++] = *a;
	}
	info->num_areas = n;
}

void svio__areas_cut(struct svio_region_info *info, uint64_t start, uint64_t end)
{
	struct svio_region_info old = *info;

	info->num_areas = 0;
	for (uint32_t i = 0; i < old.num_areas; i++) {
		uint64_t a = old.areas[i].offset, b = a + old.areas[i].size;

		area_add(info, a, SVIO_MIN(b, start));
		area_add(info, SVIO_MAX(a, end), b);
	}
}

/* ---- from the transport ----------------------------------------------------------------------------- */

static int parse_sparse(struct svio_device *dev, uint32_t index, struct svio_region_info *info,
			const void *reply, size_t cap, size_t room)
{
	struct vfio_region_info_cap_sparse_mmap head;
	struct vfio_region_sparse_mmap_area a;

	if (room < sizeof(head))
		return svio_fail(EPROTO, "%s: region %u: sparse mmap capability is cut off",
				 dev->name, index);
	memcpy(&head, (const char *)reply + cap, sizeof(head));
	if (head.nr_areas > (room - sizeof(head)) / sizeof(a))
		return svio_fail(EPROTO, "%s: region %u: claims %u mappable areas in %zu bytes",
				 dev->name, index, head.nr_areas, room);
	if (head.nr_areas > SVIO_MAX_SPARSE)
		svio_log_warn("%s: region %u: %u mappable areas, the first %d are used", dev->name,
			      index, head.nr_areas, SVIO_MAX_SPARSE);
	for (uint32_t i = 0; i < head.nr_areas; i++) {
		memcpy(&a, (const char *)reply + cap + sizeof(head) + i * sizeof(a), sizeof(a));
		if (a.offset > info->size || a.size > info->size - a.offset)
			return svio_fail(
				EPROTO,
				"%s: region %u: mappable area %#llx+%#llx lies outside its %#llx bytes",
				dev->name, index, (unsigned long long)a.offset,
				(unsigned long long)a.size, (unsigned long long)info->size);
		area_add(info, a.offset, a.offset + a.size);
	}
	areas_merge(info);
	return 0;
}

struct region_call {
	struct svio_device *dev;
	uint32_t index;
};

static void prepare_region(void *ctx, void *reply)
{
	((struct vfio_region_info *)reply)->index = ((struct region_call *)ctx)->index;
}

static int call_region(void *ctx, void *reply)
{
	struct region_call *rc = ctx;

	return rc->dev->ops->region_info(rc->dev, reply);
}

static int region_load(struct svio_device *dev, uint32_t index, struct svio__region *r)
{
	struct region_call ctx = { dev, index };
	const struct svio__reply_call rc = { call_region, prepare_region, &ctx };
	struct svio_region_info *info = &r->info;
	struct vfio_region_info *raw;
	size_t len, cap, room;
	void *reply;
	int err;

	err = svio__reply(&rc, sizeof(*raw), &reply, &len);
	/* vfio-pci: -EINVAL for VGA on a function that is none, and for regions that a kernel does not know. */
	if (err == -EINVAL)
		return 0;
	if (err == -ENOMEM || err == -EPROTO)
		return svio_fail_prefix(err, "%s: region %u", dev->name, index);
	if (err)
		return svio_fail(err, "%s: region %u: %s", dev->name, index, strerror(-err));
	raw = reply;
	if (raw->size > (uint64_t)INT64_MAX || raw->offset > (uint64_t)INT64_MAX - raw->size) {
		err = svio_fail(EPROTO, "%s: region %u: %#llx bytes at %#llx cannot be", dev->name,
				index, (unsigned long long)raw->size,
				(unsigned long long)raw->offset);
		goto out;
	}
	r->offset = raw->offset;
	info->size = raw->size;
	info->flags = (raw->flags & VFIO_REGION_INFO_FLAG_READ ? SVIO_REGION_READ : 0u) |
		      (raw->flags & VFIO_REGION_INFO_FLAG_WRITE ? SVIO_REGION_WRITE : 0u) |
		      (raw->flags & VFIO_REGION_INFO_FLAG_MMAP ? SVIO_REGION_MMAP : 0u);
	if (!(info->flags & SVIO_REGION_MMAP))
		goto out;
	/* Capabilities that are announced and not shown would make the whole region look mappable. */
	if (raw->flags & VFIO_REGION_INFO_FLAG_CAPS && !raw->cap_offset) {
		err = svio_fail(EPROTO, "%s: region %u: the reply has no room for its capabilities",
				dev->name, index);
		goto out;
	}
	err = svio__chain_find(reply, len, sizeof(*raw),
			       raw->flags & VFIO_REGION_INFO_FLAG_CAPS ? raw->cap_offset : 0,
			       VFIO_REGION_INFO_CAP_SPARSE_MMAP, &cap, &room);
	if (!err) {
		err = parse_sparse(dev, index, info, reply, cap, room);
	} else if (err == -ENOENT) {
		area_add(info, 0, info->size);
		err = 0;
	} else {
		svio_fail_prefix(err, "%s: region %u", dev->name, index);
	}
out:
	free(reply);
	return err;
}

int svio__regions_load(struct svio_device *dev)
{
	dev->regions = calloc(dev->info.num_regions, sizeof(*dev->regions));
	if (!dev->regions)
		return svio_fail(ENOMEM, "%s: out of memory for %u regions", dev->name,
				 dev->info.num_regions);
	for (uint32_t i = 0; i < dev->info.num_regions; i++) {
		int err = region_load(dev, i, &dev->regions[i]);

		if (err)
			return err;
	}
	return 0;
}

/*
 * PCIe 5.0 §7.7.2: message control bits 10:0 hold the table size minus one, the table register BIR in bits 2:0 and the offset
 * above. Linux lets the page be mapped since 4.16 (VFIO_REGION_INFO_CAP_MSIX_MAPPABLE), because interrupt remapping contains what
 * a stray store there could do to the host; it would still break the interrupts that the kernel programmed.
 */
int svio__regions_hide_msix(struct svio_device *dev)
{
	uint64_t page = page_size(), start, end;
	uint32_t ctrl, table;
	uint8_t cfg[256];
	uint8_t cap;
	int err;

	err = svio_device_region_read(dev, SVIO_REGION_CONFIG, 0, cfg, sizeof(cfg));
	if (err)
		return err;
	cap = svio_pci_find_cap(cfg, sizeof(cfg), PCI_CAP_ID_MSIX, 0);
	if (!cap || cap > sizeof(cfg) - PCI_CAP_MSIX_SIZEOF)
		return 0;
	ctrl = cfg[cap + PCI_MSIX_FLAGS] | (uint32_t)cfg[cap + PCI_MSIX_FLAGS + 1] << 8;
	memcpy(&table, cfg + cap + PCI_MSIX_TABLE, sizeof(table));
	table = le32toh(table);
	if ((table & PCI_MSIX_TABLE_BIR) > VFIO_PCI_BAR5_REGION_INDEX)
		return svio_fail(EPROTO, "%s: MSI-X table in BAR %u", dev->name,
				 table & PCI_MSIX_TABLE_BIR);
	start = SVIO_ALIGN_DOWN((uint64_t)(table & PCI_MSIX_TABLE_OFFSET), page);
	end = (uint64_t)(table & PCI_MSIX_TABLE_OFFSET) +
	      ((ctrl & PCI_MSIX_FLAGS_QSIZE) + 1) * PCI_MSIX_ENTRY_SIZE;
	svio__areas_cut(&dev->regions[table & PCI_MSIX_TABLE_BIR].info, start,
			SVIO_ALIGN_UP(end, page));
	return 0;
}

/* ---- use -------------------------------------------------------------------------------------------- */

static struct svio__region *region_get(struct svio_device *dev, uint32_t region)
{
	return region < dev->info.num_regions ? &dev->regions[region] : NULL;
}

int svio_device_region_info(struct svio_device *dev, uint32_t region, struct svio_region_info *info)
{
	struct svio__region *r = region_get(dev, region);

	if (!r)
		return svio_fail(EINVAL, "%s: no region %u", dev->name, region);
	*info = r->info;
	return 0;
}

static int check_access(struct svio_device *dev, uint32_t region, uint64_t off, size_t len,
			uint32_t need)
{
	struct svio__region *r = region_get(dev, region);

	if (!r || off > r->info.size || len > r->info.size - off)
		return svio_fail(EINVAL,
				 "%s: %zu bytes at %#llx are not in region %u of %#llx bytes",
				 dev->name, len, (unsigned long long)off, region,
				 (unsigned long long)(r ? r->info.size : 0));
	if (!(r->info.flags & need))
		return svio_fail(EINVAL, "%s: region %u cannot be %s", dev->name, region,
				 need == SVIO_REGION_READ ? "read" : "written");
	return 0;
}

/* What the transport said, as one of the two errors that the contract has. */
static int access_failed(struct svio_device *dev, uint32_t region, uint64_t off, const char *verb,
			 ssize_t n)
{
	if (n == -ENODEV || svio_device_events(dev) & SVIO_EV_GONE)
		return svio__gone(dev, "the device is gone");
	if (n == 0 || n == -EIO)
		return svio_fail(
			EIO,
			"%s: region %u: %s at %#llx failed: memory decoding is off or the device errs",
			dev->name, region, verb, (unsigned long long)off);
	return svio_fail((int)n, "%s: region %u: %s at %#llx: %s", dev->name, region, verb,
			 (unsigned long long)off, strerror((int)-n));
}

/*
 * One call for the whole of it: vfio-pci splits by alignment into the widest accesses that fit (8 bytes since Linux 6.10,
 * before that 4), so a naturally aligned access stays one.
 */
int svio_device_region_read(struct svio_device *dev, uint32_t region, uint64_t off, void *buf,
			    size_t len)
{
	int err = check_access(dev, region, off, len, SVIO_REGION_READ);
	char *p = buf;
	ssize_t n;

	if (err)
		return err;
	for (; len; off += (uint64_t)n, p += n, len -= (size_t)n) {
		n = dev->ops->region_read(dev, region, dev->regions[region].offset, off, p, len);
		if (n == -EINTR)
			n = 0;
		else if (n <= 0 || (size_t)n > len)
			return access_failed(dev, region, off, "read", n > 0 ? -EPROTO : n);
	}
	return 0;
}

int svio_device_region_write(struct svio_device *dev, uint32_t region, uint64_t off,
			     const void *buf, size_t len)
{
	int err = check_access(dev, region, off, len, SVIO_REGION_WRITE);
	const char *p = buf;
	ssize_t n;

	if (err)
		return err;
	for (; len; off += (uint64_t)n, p += n, len -= (size_t)n) {
		n = dev->ops->region_write(dev, region, dev->regions[region].offset, off, p, len);
		if (n == -EINTR)
			n = 0;
		else if (n <= 0 || (size_t)n > len)
			return access_failed(dev, region, off, "write", n > 0 ? -EPROTO : n);
	}
	return 0;
}

static bool mappable(const struct svio_region_info *info, uint64_t off, uint64_t len)
{
	for (uint32_t i = 0; i < info->num_areas; i++) {
		const struct svio_sparse_area *a = &info->areas[i];

		if (off >= a->offset && off - a->offset <= a->size &&
		    len <= a->size - (off - a->offset))
			return true;
	}
	return false;
}

int svio_device_region_mmap(struct svio_device *dev, uint32_t region, uint64_t off, size_t len,
			    int prot, void *fixed, void **addr)
{
	struct svio__region *r = region_get(dev, region);
	uint64_t page = page_size();
	int err;

	if (!r || !len || off % page || len % page || !mappable(&r->info, off, len))
		return svio_fail(
			EINVAL,
			"%s: region %u: %#zx bytes at %#llx cannot be mapped; use svio_device_region_read() and "
			"_write()",
			dev->name, region, len, (unsigned long long)off);
	if ((prot & PROT_READ && !(r->info.flags & SVIO_REGION_READ)) ||
	    (prot & PROT_WRITE && !(r->info.flags & SVIO_REGION_WRITE)) ||
	    prot & ~(PROT_READ | PROT_WRITE))
		return svio_fail(EINVAL,
				 "%s: region %u: protection %#x is not what the region allows",
				 dev->name, region, (unsigned int)prot);
	err = dev->ops->region_mmap(dev, region, r->offset, off, len, prot,
				    MAP_SHARED | (fixed ? MAP_FIXED : 0), fixed, addr);
	if (err == -ENODEV)
		return svio__gone(dev, "the device is gone");
	if (err)
		return svio_fail(err, "%s: region %u: mmap of %#zx bytes at %#llx: %s", dev->name,
				 region, len, (unsigned long long)off, strerror(-err));
	return 0;
}
