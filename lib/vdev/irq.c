/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Interrupts by eventfd: INTx with VFIO's automatic masking, MSI, and MSI-X with its table and
 * pending bits (PCIe §6.1.4).
 *
 * Who masks an MSI-X vector? On hardware, software through the table. Behind VFIO the table mostly
 * never gets here: clients emulate it and SET_IRQS stands for "this vector is programmed and
 * unmasked", as it does for Linux's vfio-pci. So an eventfd clears the table's mask bit and taking
 * it away sets it; a client that does write the table is obeyed too.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/pci_regs.h>
#include "vdev_priv.h"

#define ENTRY	   16u /* bytes of a table entry (PCIe §7.7.2.6) */
#define ENTRY_CTRL 12u /* its vector control; bit 0 masks */

int svio__vd_irq_init(struct svio_vdev *dev)
{
	struct vd_irqs *irq = &dev->irq;

	irq->idx[SVIO_VFU_IRQ_ERR].count = 1;
	irq->idx[SVIO_VFU_IRQ_REQ].count = 1;
	for (unsigned int i = 0; i < SVIO_VFU_NUM_IRQS; i++) {
		uint32_t n = irq->idx[i].count;

		if (!n)
			continue;
		irq->idx[i].fds = malloc(n * sizeof(int));
		if (!irq->idx[i].fds)
			return -ENOMEM;
		for (uint32_t v = 0; v < n; v++)
			irq->idx[i].fds[v] = -1;
	}
	if (irq->idx[SVIO_VFU_IRQ_MSIX].count) {
		irq->table = calloc(irq->idx[SVIO_VFU_IRQ_MSIX].count, ENTRY);
		if (!irq->table)
			return -ENOMEM;
		for (uint32_t v = 0; v < irq->idx[SVIO_VFU_IRQ_MSIX].count; v++)
			irq->table[v * ENTRY + ENTRY_CTRL] = 1;
	}
	return 0;
}

void svio__vd_irq_fini(struct svio_vdev *dev)
{
	svio__vd_irq_release(dev);
	for (unsigned int i = 0; i < SVIO_VFU_NUM_IRQS; i++) {
		free(dev->irq.idx[i].fds);
		dev->irq.idx[i].fds = NULL;
	}
	free(dev->irq.table);
	dev->irq.table = NULL;
}

static void table_mask(struct vd_irqs *irq, uint32_t vector, bool masked)
{
	uint8_t *ctrl = &irq->table[vector * ENTRY + ENTRY_CTRL];

	*ctrl = (uint8_t)((*ctrl & ~1) | masked);
}

/* The MSI and MSI-X enable bits follow what SET_IRQS does, as with vfio-pci. */
void svio__vd_irq_show_enabled(struct svio_vdev *dev, uint32_t index)
{
	uint16_t cap = index == SVIO_VFU_IRQ_MSI    ? dev->cap_msi
		       : index == SVIO_VFU_IRQ_MSIX ? dev->cap_msix
						    : 0;
	uint32_t bit = index == SVIO_VFU_IRQ_MSI ? PCI_MSI_FLAGS_ENABLE : PCI_MSIX_FLAGS_ENABLE;
	uint32_t flags;

	if (!cap)
		return;
	flags = svio_vdev_config_get(dev, cap + 2u, 2);
	svio_vdev_config_set(dev, cap + 2u, 2,
			     dev->irq.idx[index].enabled ? flags | bit : flags & ~bit);
}

static void set_fd(struct svio_vdev *dev, uint32_t index, uint32_t vector, int fd)
{
	struct vd_irqs *irq = &dev->irq;
	int *slot = &irq->idx[index].fds[vector];

	if (*slot >= 0)
		close(*slot);
	*slot = fd;
	if (index == SVIO_VFU_IRQ_MSIX)
		table_mask(irq, vector, fd < 0);
	if (index == SVIO_VFU_IRQ_INTX) {
		irq->intx_masked = irq->intx_told = false;
		irq->intx_due = 0;
	}
}

static void set_resample(struct svio_vdev *dev, int fd)
{
	int old = dev->irq.resample;

	if (old == fd)
		return;
	dev->irq.resample = fd;
	svio__vd_server_resample(dev, old, fd);
	if (old >= 0)
		close(old);
}

static void disable(struct svio_vdev *dev, uint32_t index)
{
	struct vd_irqs *irq = &dev->irq;

	for (uint32_t v = 0; v < irq->idx[index].count && irq->idx[index].fds; v++)
		set_fd(dev, index, v, -1);
	irq->idx[index].enabled = false;
	if (index == SVIO_VFU_IRQ_INTX)
		set_resample(dev, -1);
	if (index == SVIO_VFU_IRQ_MSI || index == SVIO_VFU_IRQ_MSIX) {
		/* A disabled function has no pending messages. */
		memset(irq->pending, 0, sizeof(irq->pending));
		memset(irq->soft_mask, 0, sizeof(irq->soft_mask));
		svio__vd_irq_show_enabled(dev, index);
	}
}

void svio__vd_irq_release(struct svio_vdev *dev)
{
	for (uint32_t i = 0; i < SVIO_VFU_NUM_IRQS; i++)
		disable(dev, i);
}

void svio__vd_irq_reset(struct svio_vdev *dev)
{
	memset(dev->irq.pending, 0, sizeof(dev->irq.pending));
	dev->irq.level = false;
	dev->irq.intx_masked = dev->irq.intx_told = false;
	dev->irq.intx_due = 0;
	svio_vdev_config_set(dev, PCI_STATUS, 2,
			     svio_vdev_config_get(dev, PCI_STATUS, 2) & ~PCI_STATUS_INTERRUPT);
}

/* ---- raising -------------------------------------------------------------------------------- */

static void signal_fd(struct svio_vdev *dev, int fd)
{
	uint64_t one = 1;

	/*
	 * EAGAIN: the counter is full, the client has more than enough to read. Nothing else can be
	 * done about errors.
	 */
	if (write(fd, &one, sizeof(one)) == (ssize_t)sizeof(one))
		dev->stats.irqs++;
}

enum svio_vdev_irq_mode svio_vdev_irq_mode(const struct svio_vdev *dev)
{
	if (dev->irq.idx[SVIO_VFU_IRQ_MSIX].enabled)
		return SVIO_VDEV_IRQ_MSIX;
	if (dev->irq.idx[SVIO_VFU_IRQ_MSI].enabled)
		return SVIO_VDEV_IRQ_MSI;
	return dev->irq.idx[SVIO_VFU_IRQ_INTX].count ? SVIO_VDEV_IRQ_INTX : SVIO_VDEV_IRQ_NONE;
}

static uint32_t msg_index(const struct svio_vdev *dev)
{
	return dev->irq.idx[SVIO_VFU_IRQ_MSIX].enabled ? SVIO_VFU_IRQ_MSIX : SVIO_VFU_IRQ_MSI;
}

static bool msg_masked(const struct svio_vdev *dev, uint32_t index, uint32_t vector)
{
	const struct vd_irqs *irq = &dev->irq;

	if (irq->idx[index].fds[vector] < 0 || svio_bitmap_test(irq->soft_mask, vector) ||
	    !svio__vd_running(dev))
		return true;
	if (index == SVIO_VFU_IRQ_MSIX)
		return (irq->table[vector * ENTRY + ENTRY_CTRL] & 1) ||
		       (dev->cfg[dev->cap_msix + PCI_MSIX_FLAGS + 1] &
			(PCI_MSIX_FLAGS_MASKALL >> 8));
	return (svio_vdev_config_get(dev, dev->cap_msi + PCI_MSI_FLAGS, 2) &
		PCI_MSI_FLAGS_MASKBIT) &&
	       (svio_vdev_config_get(dev, dev->cap_msi + PCI_MSI_MASK_64, 4) >> vector & 1);
}

/* MSI shows its pending bits in configuration space (PCIe §7.7.1.8). */
static void show_msi_pending(struct svio_vdev *dev)
{
	if (dev->cap_msi &&
	    (svio_vdev_config_get(dev, dev->cap_msi + PCI_MSI_FLAGS, 2) & PCI_MSI_FLAGS_MASKBIT))
		svio_vdev_config_set(
			dev, dev->cap_msi + PCI_MSI_PENDING_64, 4,
			msg_index(dev) == SVIO_VFU_IRQ_MSI ? (uint32_t)dev->irq.pending[0] : 0);
}

void svio_vdev_irq_raise(struct svio_vdev *dev, unsigned int vector)
{
	uint32_t index = msg_index(dev);

	if (!dev->irq.idx[index].enabled || vector >= dev->irq.idx[index].count)
		return;
	if (svio_likely(!msg_masked(dev, index, vector))) {
		signal_fd(dev, dev->irq.idx[index].fds[vector]);
		return;
	}
	svio_bitmap_set(dev->irq.pending, vector);
	if (index == SVIO_VFU_IRQ_MSI)
		show_msi_pending(dev);
}

static void intx_update(struct svio_vdev *dev)
{
	struct vd_irqs *irq = &dev->irq;
	uint32_t status = svio_vdev_config_get(dev, PCI_STATUS, 2);

	if (!irq->idx[SVIO_VFU_IRQ_INTX].count)
		return;
	svio_vdev_config_set(dev, PCI_STATUS, 2,
			     irq->level ? status | PCI_STATUS_INTERRUPT
					: status & ~PCI_STATUS_INTERRUPT);
	if (!irq->level) {
		irq->intx_told = false;
		irq->intx_due = 0;
	}
	if (!irq->level || irq->intx_masked || irq->intx_due || irq->idx[SVIO_VFU_IRQ_INTX].fds[0] < 0 ||
	    !svio__vd_running(dev) || svio_vdev_irq_mode(dev) != SVIO_VDEV_IRQ_INTX ||
	    (svio_vdev_config_get(dev, PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE))
		return;
	irq->intx_masked = irq->intx_told = true;
	signal_fd(dev, irq->idx[SVIO_VFU_IRQ_INTX].fds[0]);
}

void svio_vdev_intx_set(struct svio_vdev *dev, bool asserted)
{
	if (dev->irq.level == asserted)
		return;
	dev->irq.level = asserted;
	intx_update(dev);
}

void svio__vd_irq_flush(struct svio_vdev *dev)
{
	uint32_t index = msg_index(dev), n = dev->irq.idx[index].count;

	if (dev->irq.idx[index].enabled) {
		for (uint64_t v = svio_bitmap_next_set(dev->irq.pending, n, 0); v < n;
		     v = svio_bitmap_next_set(dev->irq.pending, n, v + 1)) {
			if (msg_masked(dev, index, (uint32_t)v))
				continue;
			svio_bitmap_clear(dev->irq.pending, v);
			signal_fd(dev, dev->irq.idx[index].fds[v]);
		}
	}
	show_msi_pending(dev);
	intx_update(dev);
}

/*
 * QEMU without KVM does not know the end of an interrupt: it takes any access of the guest to a BAR
 * for it, lowers its pin and unmasks, and raises the pin again when we signal. A signal that it
 * reads after the handler's last access leaves the pin up with nothing to do, and a driver that
 * finds nothing to do makes no access: the guest takes the same interrupt for ever. Two things keep
 * such signals away.
 *
 * An unmask must see the level after the access that caused it, which arrives just before: a model
 * that derives the level from doorbells has it right when it has been polled.
 */
static void settle_level(struct svio_vdev *dev)
{
	if (dev->irq.level && dev->model->poll && svio__vd_running(dev))
		dev->model->poll(dev);
}

/*
 * And an unmask that finds the pin as high as it was when it was signalled may come from the
 * submission of a request, while the handler is still on its way to the completions that it was
 * told of. It is told again when the level has changed since (a model with more to say lowers the
 * pin for a moment), or else after a while.
 */
static void put_off(struct svio_vdev *dev)
{
	struct vd_irqs *irq = &dev->irq;

	if (!irq->level || !irq->intx_told || irq->intx_due)
		return;
	irq->intx_due = svio_now_ns() + VD_INTX_NS;
	svio_vdev_kick_after(dev, VD_INTX_NS);
}

void svio__vd_irq_tick(struct svio_vdev *dev, uint64_t now)
{
	if (now < dev->irq.intx_due)
		return;
	settle_level(dev);
	dev->irq.intx_due = 0;
	intx_update(dev);
}

static void raise_single(struct svio_vdev *dev, uint32_t index)
{
	if (dev->irq.idx[index].fds[0] >= 0)
		signal_fd(dev, dev->irq.idx[index].fds[0]);
}

void svio_vdev_err_raise(struct svio_vdev *dev)
{
	raise_single(dev, SVIO_VFU_IRQ_ERR);
}

void svio_vdev_req_raise(struct svio_vdev *dev)
{
	raise_single(dev, SVIO_VFU_IRQ_REQ);
}

void svio__vd_irq_resample(struct svio_vdev *dev)
{
	uint64_t n;

	if (dev->irq.resample < 0 || read(dev->irq.resample, &n, sizeof(n)) < 0)
		return;
	settle_level(dev);
	dev->irq.intx_masked = false;
	dev->irq.intx_due = 0; /* KVM does know the end */
	intx_update(dev);
}

/* ---- the MSI-X structures ------------------------------------------------------------------- */

bool svio__vd_msix_access(struct svio_vdev *dev, unsigned int bar, uint64_t off, unsigned int width,
			  uint64_t *value, bool write)
{
	struct vd_irqs *irq = &dev->irq;
	uint32_t n = irq->idx[SVIO_VFU_IRQ_MSIX].count;
	uint64_t pos, v = 0;

	if (!n)
		return false;
	if (bar == irq->table_bar && off >= irq->table_off &&
	    off - irq->table_off < n * (uint64_t)ENTRY) {
		uint8_t *p;

		pos = off -
		      irq->table_off; /* accesses are aligned and the table ends at a multiple of 16 */
		p = irq->table + pos;
		if (!write) {
			for (unsigned int i = 0; i < width; i++)
				v |= (uint64_t)p[i] << (8 * i);
			*value = v;
			return true;
		}
		for (unsigned int i = 0; i < width; i++) {
			uint64_t at = (pos + i) % ENTRY;

			/* Vector control: only the mask bit is there. */
			if (at == ENTRY_CTRL)
				p[i] = (uint8_t)(*value >> (8 * i)) & 1;
			else if (at < ENTRY_CTRL)
				p[i] = (uint8_t)(*value >> (8 * i));
		}
		svio__vd_irq_flush(dev);
		return true;
	}
	if (bar == irq->pba_bar && off >= irq->pba_off &&
	    off - irq->pba_off < (n + 63) / 64 * 8ull) {
		if (!write) {
			pos = off - irq->pba_off;
			v = irq->pending[pos / 8] >> (pos % 8 * 8);
			*value = width == 8 ? v : v & ((UINT64_C(1) << (8 * width)) - 1);
		}
		return true;
	}
	return false;
}

/* ---- SET_IRQS ------------------------------------------------------------------------------- */

uint32_t svio__vd_irq_flags(const struct svio_vdev *dev, uint32_t index)
{
	if (!dev->irq.idx[index].count)
		return 0;
	switch (index) {
	case SVIO_VFU_IRQ_INTX:
		return SVIO_VFU_IRQ_F_EVENTFD | SVIO_VFU_IRQ_F_MASKABLE | SVIO_VFU_IRQ_F_AUTOMASKED;
	case SVIO_VFU_IRQ_MSIX:
		return SVIO_VFU_IRQ_F_EVENTFD; /* vectors may be added one by one */
	default:
		return SVIO_VFU_IRQ_F_EVENTFD | SVIO_VFU_IRQ_F_NORESIZE;
	}
}

/*
 * A descriptor that we write to must not block us. O_NONBLOCK belongs to the open file, so the
 * client's end becomes non-blocking too; clients wait with poll().
 */
static int check_eventfd(int fd)
{
	char path[40], target[40];
	ssize_t n;
	int fl;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target) - 1);
	if (n >= 0) {
		target[n] = '\0';
		if (strcmp(target, "anon_inode:[eventfd]") != 0)
			return -EINVAL;
	}
	fl = fcntl(fd, F_GETFL);
	if (fl < 0 || (!(fl & O_NONBLOCK) && fcntl(fd, F_SETFL, fl | O_NONBLOCK)))
		return -EINVAL;
	return 0;
}

static int set_eventfds(struct svio_vdev *dev, const struct svio_vfu_irq_set *set, int *fds,
			uint32_t nfds)
{
	struct vd_irqs *irq = &dev->irq;

	if (nfds && nfds != set->count)
		return -EINVAL;
	for (uint32_t i = 0; i < nfds; i++)
		if (check_eventfd(fds[i]))
			return -EINVAL;
	if (set->flags & SVIO_VFU_IRQ_ACTION_UNMASK) {
		/* VFIO: signalling this descriptor unmasks INTx. */
		if (set->index != SVIO_VFU_IRQ_INTX || set->count != 1)
			return -EINVAL;
		set_resample(dev, nfds ? fds[0] : -1);
		if (nfds)
			fds[0] = -1;
		return 0;
	}
	if (!(set->flags & SVIO_VFU_IRQ_ACTION_TRIGGER))
		return -EINVAL;
	/* QEMU turns MSI-X on with one vector and no descriptor. */
	irq->idx[set->index].enabled = true;
	for (uint32_t i = 0; i < set->count; i++) {
		set_fd(dev, set->index, set->start + i, nfds ? fds[i] : -1);
		if (nfds)
			fds[i] = -1;
	}
	svio__vd_irq_show_enabled(dev, set->index);
	svio__vd_irq_flush(dev);
	return 0;
}

static void act(struct svio_vdev *dev, uint32_t index, uint32_t vector, uint32_t action)
{
	struct vd_irqs *irq = &dev->irq;

	switch (action) {
	case SVIO_VFU_IRQ_ACTION_MASK:
		if (index == SVIO_VFU_IRQ_INTX)
			irq->intx_masked = true;
		else if (index == msg_index(dev))
			svio_bitmap_set(irq->soft_mask, vector);
		break;
	case SVIO_VFU_IRQ_ACTION_UNMASK:
		if (index == SVIO_VFU_IRQ_INTX) {
			irq->intx_masked = false;
			put_off(dev);
		} else if (index == msg_index(dev))
			svio_bitmap_clear(irq->soft_mask, vector);
		break;
	default: /* TRIGGER: a loop-back test, as if the device had raised it */
		if (irq->idx[index].fds[vector] >= 0)
			signal_fd(dev, irq->idx[index].fds[vector]);
	}
}

int svio__vd_irq_set(struct svio_vdev *dev, const struct svio_vfu_irq_set *set,
		     const uint8_t *bools, int *fds, uint32_t nfds)
{
	uint32_t data = set->flags & (SVIO_VFU_IRQ_DATA_NONE | SVIO_VFU_IRQ_DATA_BOOL |
				      SVIO_VFU_IRQ_DATA_EVENTFD);
	uint32_t action = set->flags & (SVIO_VFU_IRQ_ACTION_MASK | SVIO_VFU_IRQ_ACTION_UNMASK |
					SVIO_VFU_IRQ_ACTION_TRIGGER);
	uint32_t n;

	if (set->flags != (data | action) || __builtin_popcount(data) != 1 ||
	    __builtin_popcount(action) != 1 || set->index >= SVIO_VFU_NUM_IRQS)
		return -EINVAL;
	n = dev->irq.idx[set->index].count;
	if (set->start > n || set->count > n - set->start)
		return -EINVAL;
	settle_level(dev);
	if (data == SVIO_VFU_IRQ_DATA_EVENTFD)
		return set->count ? set_eventfds(dev, set, fds, nfds) : -EINVAL;
	if (data == SVIO_VFU_IRQ_DATA_NONE && action == SVIO_VFU_IRQ_ACTION_TRIGGER &&
	    !set->start && !set->count) {
		disable(dev, set->index);
		intx_update(dev); /* the pin speaks again when messages are off */
		return 0;
	}
	for (uint32_t i = 0; i < set->count; i++)
		if (data == SVIO_VFU_IRQ_DATA_NONE || bools[i])
			act(dev, set->index, set->start + i, action);
	svio__vd_irq_flush(dev);
	return 0;
}
