// SPDX-License-Identifier: GPL-2.0-only
/*
 * Bonds: a process's address space, bound to a function by a PASID.
 *
 *	BOND_LIVE	in the table; bind, unbind and the end of a file count it
 *	BOND_ENDING	out of the table; whoever took it out ends it, and nobody else does
 *	BOND_ENDED	the PASID is off the function; its files are dead and say so to poll()
 *
 * A bond is taken out by svio_sva_feature_unbind(), by the end of its last file, by the close, the
 * reset or the loss of the function, and by the end of the address space. That last one is a
 * notifier of our own, registered after the bind, so that it is called before the one by which the
 * IOMMU driver clears the PASID entry.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hashtable.h>
#include <linux/iommu.h>
#include <linux/kref.h>
#include <linux/log2.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pci-ats.h>
#include <linux/pm_runtime.h>
#include <linux/poll.h>
#include <linux/sched/mm.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "svio_vfio.h"
#include "sva.h"

/*
 * Whether to let this kernel share page tables with a device. On x86 not before the IOMMU is told
 * of freed page tables of the kernel's half, which the shared tables include (CVE-2025-71202); and
 * what bound before 6.17 had to switch IOMMU features on first, which nobody here can test.
 */
#if IS_ENABLED(CONFIG_IOMMU_SVA) && !defined(SVIO_HAVE_SVA_FEATURES) && \
	(defined(SVIO_HAVE_SVA_KVA) || !IS_ENABLED(CONFIG_X86))
#define SVA_NATIVE true
#else
#define SVA_NATIVE false
#endif

/* How long a reset waits for the bonds to end; see sva.h for why not until they have. */
#define SVA_RESET_WAIT (2 * HZ)

static unsigned int quota = 1000;
module_param(quota, uint, 0644);
MODULE_PARM_DESC(quota, "Most address spaces bound to one function at a time (default: 1000)");

static struct workqueue_struct *sva_wq;
static struct kmem_cache *bond_cache;

enum bond_state { BOND_LIVE, BOND_ENDING, BOND_ENDED };

struct svio_sva {
	struct kref ref; /* the function, its bonds, and the work item while it is queued */
	struct pci_dev *pdev; /* valid while it has the driver, so while there is a bond */
	struct mutex lock; /* all of the following; see sva.h */
	DECLARE_HASHTABLE(live, 8); /* by mm */
	struct list_head ending; /* for the work item */
	unsigned int num_live;
	unsigned int count; /* live and ending ones */
	unsigned int binding; /* calls that are making one */
	unsigned int resets; /* in progress */
	unsigned long generation; /* a bind that began in another one came too late */
	bool gone;
	int trial; /* TRIAL_NONE, or what a bind on this function came to */
#define TRIAL_NONE 1
	bool master; /* what reset_done puts back; under the device lock */
	wait_queue_head_t idle; /* count and binding are 0 */
	struct work_struct work;
	char name[32];
};

struct svio_bond {
	struct kref ref; /* its files, its notifier, and its not having ended */
	struct svio_sva *sva;
	struct mm_struct *mm; /* kept from being reused by the notifier */
	struct iommu_sva *handle;
	struct mmu_notifier notifier;
	u32 pasid;
	/* Under sva->lock */
	enum bond_state state;
	unsigned long users; /* files, and calls about to make one */
	struct hlist_node node;
	struct list_head ending;
	wait_queue_head_t ended;
};

/* ---- lifetimes ---- */

static void sva_free(struct kref *ref)
{
	struct svio_sva *sva = container_of(ref, struct svio_sva, ref);

	mutex_destroy(&sva->lock);
	kfree(sva);
}

static void bond_free(struct kref *ref)
{
	struct svio_bond *bond = container_of(ref, struct svio_bond, ref);

	kref_put(&bond->sva->ref, sva_free);
	kmem_cache_free(bond_cache, bond);
}

static void bond_put(struct svio_bond *bond)
{
	kref_put(&bond->ref, bond_free);
}

/* ---- quiescing ---- */

/*
 * Stop the function's DMA and wait until what it has begun is over. True if bus mastering was on
 * before. There is no generic way to stop one PASID alone.
 */
static bool sva_quiesce(struct pci_dev *pdev)
{
	u16 command;

	if (!pci_device_is_present(pdev))
		return false;
	pci_read_config_word(pdev, PCI_COMMAND, &command);
	pci_clear_master(pdev);
	if (!pci_wait_for_pending_transaction(pdev))
		pci_warn(pdev, "bus mastering is off, and still transactions are pending\n");
	return command & PCI_COMMAND_MASTER;
}

/* ---- ending bonds ---- */

static bool sva_idle(struct svio_sva *sva)
{
	return !READ_ONCE(sva->count) && !READ_ONCE(sva->binding);
}

/* Take a bond out of the table, unless somebody else has. sva->lock is held. */
static bool bond_claim(struct svio_bond *bond)
{
	if (bond->state != BOND_LIVE)
		return false;
	WRITE_ONCE(bond->state, BOND_ENDING);
	hash_del(&bond->node);
	bond->sva->num_live--;
	return true;
}

static void sva_claim_all(struct svio_sva *sva, struct list_head *list)
{
	struct svio_bond *bond;
	struct hlist_node *next;
	int bucket;

	lockdep_assert_held(&sva->lock);
	hash_for_each_safe(sva->live, bucket, next, bond, node)
		if (bond_claim(bond))
			list_add_tail(&bond->ending, list);
}

/* Undo what bond_new() did. */
static void bond_detach(struct svio_bond *bond)
{
	/*
	 * Blocks the PASID, and waits for its page requests and for the function's ATC to be empty
	 * of it.
	 */
	iommu_sva_unbind_device(bond->handle);
	mmu_notifier_put(&bond->notifier);
	pm_runtime_put(&bond->sva->pdev->dev);
}

/* End a bond that the caller has claimed. */
static void bond_end(struct svio_bond *bond)
{
	struct svio_sva *sva = bond->sva;

	bond_detach(bond);

	mutex_lock(&sva->lock);
	WRITE_ONCE(bond->state, BOND_ENDED);
	sva->count--;
	wake_up_all(&sva->idle);
	mutex_unlock(&sva->lock);

	wake_up_poll(&bond->ended, EPOLLHUP | EPOLLERR);
	bond_put(bond);
}

static void bond_end_all(struct list_head *list)
{
	struct svio_bond *bond, *next;

	list_for_each_entry_safe(bond, next, list, ending) {
		list_del_init(&bond->ending);
		bond_end(bond);
	}
}

static void sva_work(struct work_struct *work)
{
	struct svio_sva *sva = container_of(work, struct svio_sva, work);
	LIST_HEAD(list);

	mutex_lock(&sva->lock);
	list_splice_init(&sva->ending, &list);
	mutex_unlock(&sva->lock);

	bond_end_all(&list);
	kref_put(&sva->ref, sva_free);
}

/*
 * Leave claimed bonds to the work item. The caller holds a reference, or knows of somebody who
 * does.
 */
static void sva_end_later(struct svio_sva *sva, struct list_head *list)
{
	mutex_lock(&sva->lock);
	list_splice_tail_init(list, &sva->ending);
	kref_get(&sva->ref);
	if (!queue_work(sva_wq, &sva->work))
		kref_put(&sva->ref, sva_free); /* queued already, with a reference of its own */
	mutex_unlock(&sva->lock);
}

/* ---- the end of the address space ---- */

/*
 * In exit_mmap(), before the process's files are closed and, being the younger one, before the
 * IOMMU driver's notifier. Unbinding is not for here: IOMMU drivers may wait for notifiers in it.
 *
 * The function belongs to whoever has it open. If other processes are bound to it, it goes on for
 * them, and the IOMMU alone cuts off this PASID; otherwise it stops.
 */
static void bond_mm_release(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	struct svio_bond *bond = container_of(notifier, struct svio_bond, notifier);
	struct svio_sva *sva = bond->sva;
	bool claimed, last;
	LIST_HEAD(list);

	mutex_lock(&sva->lock);
	claimed = bond_claim(bond);
	last = !sva->num_live;
	mutex_unlock(&sva->lock);
	if (!claimed)
		return;

	/* svio_sva_close() waits for this bond, so the function stays. */
	if (last)
		sva_quiesce(sva->pdev);
	list_add(&bond->ending, &list);
	sva_end_later(sva, &list);
}

static void bond_notifier_free(struct mmu_notifier *notifier)
{
	bond_put(container_of(notifier, struct svio_bond, notifier));
}

static const struct mmu_notifier_ops bond_notifier_ops = {
	.release = bond_mm_release,
	.free_notifier = bond_notifier_free,
};

/* ---- making bonds ---- */

static struct svio_bond *sva_find(struct svio_sva *sva, struct mm_struct *mm)
{
	struct svio_bond *bond;

	lockdep_assert_held(&sva->lock);
	hash_for_each_possible(sva->live, bond, node, (unsigned long)mm)
		if (bond->mm == mm)
			return bond;
	return NULL;
}

static int sva_may_bind(struct svio_sva *sva)
{
	lockdep_assert_held(&sva->lock);
	if (sva->gone)
		return -ENODEV;
	return sva->resets ? -EBUSY : 0;
}

static void sva_binding_end(struct svio_sva *sva)
{
	lockdep_assert_held(&sva->lock);
	sva->binding--;
	wake_up_all(&sva->idle);
}

/* A bond in no table yet. */
static struct svio_bond *bond_new(struct svio_sva *sva, struct mm_struct *mm)
{
	struct svio_bond *bond;
	int ret;

	bond = kmem_cache_zalloc(bond_cache, GFP_KERNEL);
	if (!bond)
		return ERR_PTR(-ENOMEM);
	kref_init(&bond->ref);
	kref_get(&sva->ref);
	bond->sva = sva;
	bond->mm = mm;
	bond->state = BOND_ENDING; /* nothing for the notifier to do */
	INIT_LIST_HEAD(&bond->ending);
	init_waitqueue_head(&bond->ended);

	bond->handle = iommu_sva_bind_device(&sva->pdev->dev, mm);
	if (IS_ERR(bond->handle)) {
		ret = PTR_ERR(bond->handle);
		goto err_put;
	}
	bond->pasid = iommu_sva_get_pasid(bond->handle);

	bond->notifier.ops = &bond_notifier_ops;
	kref_get(&bond->ref);
	ret = mmu_notifier_register(&bond->notifier, mm);
	if (ret) {
		bond_put(bond);
		goto err_unbind;
	}
	pm_runtime_get_noresume(&sva->pdev->dev); /* it is awake: this is an ioctl on it */
	return bond;

err_unbind:
	iommu_sva_unbind_device(bond->handle);
err_put:
	bond_put(bond);
	return ERR_PTR(ret);
}

static bool pasid_fits(u32 pasid, u32 min, u32 max)
{
	return (!min && !max) || (pasid >= min && pasid <= max);
}

/* One more user of the bond. sva->lock is held. */
static struct svio_bond *bond_use(struct svio_bond *bond)
{
	bond->users++;
	kref_get(&bond->ref);
	return bond;
}

/* One user less; the last one ends it. */
static void bond_unuse(struct svio_bond *bond)
{
	struct svio_sva *sva = bond->sva;
	bool claimed;

	mutex_lock(&sva->lock);
	claimed = !--bond->users && bond_claim(bond);
	mutex_unlock(&sva->lock);
	if (claimed)
		bond_end(bond);
	bond_put(bond);
}

/* The bond of the calling process, with one user more; made if there is none. */
static struct svio_bond *sva_bind(struct svio_sva *sva, u32 min, u32 max)
{
	struct mm_struct *mm = current->mm;
	struct svio_bond *bond, *found;
	unsigned long generation;
	int ret;

	mutex_lock(&sva->lock);
	ret = sva_may_bind(sva);
	found = ret ? NULL : sva_find(sva, mm);
	if (found)
		found = pasid_fits(found->pasid, min, max) ? bond_use(found) : ERR_PTR(-ERANGE);
	else if (!ret && sva->count + sva->binding >= READ_ONCE(quota))
		ret = -EDQUOT;
	if (!found && !ret)
		sva->binding++;
	generation = sva->generation;
	mutex_unlock(&sva->lock);
	if (ret)
		return ERR_PTR(ret);
	if (found)
		return found;

	bond = bond_new(sva, mm);

	mutex_lock(&sva->lock);
	if (IS_ERR(bond))
		ret = PTR_ERR(bond);
	else if (!pasid_fits(bond->pasid, min, max))
		ret = -ERANGE;
	else if (generation != sva->generation)
		ret = sva->gone ? -ENODEV : -EBUSY;
	else
		found = sva_find(sva, mm); /* another thread was faster */
	if (found) {
		bond_use(found);
	} else if (!ret) {
		bond->state = BOND_LIVE;
		hash_add(sva->live, &bond->node, (unsigned long)mm);
		sva->num_live++;
		sva->count++;
		sva->trial = 0;
		found = bond_use(bond);
	}
	if (found == bond || IS_ERR(bond)) {
		sva_binding_end(sva);
		mutex_unlock(&sva->lock);
		return ret ? ERR_PTR(ret) : found;
	}
	mutex_unlock(&sva->lock);

	/* Still counted as binding, for a close or reset to wait for. */
	bond_detach(bond);
	mutex_lock(&sva->lock);
	sva_binding_end(sva);
	mutex_unlock(&sva->lock);
	bond_put(bond);
	return ret ? ERR_PTR(ret) : found;
}

/* ---- what the function can do ---- */

static bool sva_passing(int error)
{
	return error == -EBUSY || error == -EINTR || error == -EAGAIN || error == -ENOMEM ||
	       error == -ENOSPC || error == -EOVERFLOW;
}

/*
 * Bind the caller for a moment, once an open: IOMMU drivers say in no other way whether they would.
 * 0, or the IOMMU's answer; failures that pass are not one.
 */
static int sva_trial(struct svio_sva *sva)
{
	struct iommu_sva *handle;
	int ret;

	mutex_lock(&sva->lock);
	ret = sva->trial;
	if (ret == TRIAL_NONE && sva_may_bind(sva))
		ret = 0;
	if (ret == TRIAL_NONE)
		sva->binding++;
	mutex_unlock(&sva->lock);
	if (ret != TRIAL_NONE)
		return ret;

	handle = iommu_sva_bind_device(&sva->pdev->dev, current->mm);
	ret = PTR_ERR_OR_ZERO(handle);
	if (!ret)
		iommu_sva_unbind_device(handle);

	mutex_lock(&sva->lock);
	if (sva_passing(ret))
		ret = 0;
	else
		sva->trial = ret;
	sva_binding_end(sva);
	mutex_unlock(&sva->lock);
	return ret;
}

static int sva_count_device(struct device *dev, void *data)
{
	++*(unsigned int *)data;
	return 0;
}

static bool sva_shared_group(struct pci_dev *pdev)
{
	struct iommu_group *group = iommu_group_get(&pdev->dev);
	unsigned int devices = 0;

	if (group)
		iommu_group_for_each_dev(group, &devices, sva_count_device);
	iommu_group_put(group);
	return devices > 1;
}

static bool sva_pri_enabled(struct pci_dev *pdev)
{
#ifdef CONFIG_PCI_PRI
	struct pci_dev *pf = pci_physfn(pdev); /* VFs use its page request interface */
	u16 control;

	if (pf->pri_cap && !pci_read_config_word(pf, pf->pri_cap + PCI_PRI_CTRL, &control))
		return control != 0xffff && (control & PCI_PRI_CTRL_ENABLE);
#endif
	return false;
}

/* SVIO_SVA_OK, or why there is no native mode; *error is filled in for reasons that have one. */
static u32 sva_reason(struct svio_sva *sva, s32 *error)
{
	struct pci_dev *pdev = sva->pdev;
	struct dev_iommu *iommu = pdev->dev.iommu;
	int ret;

	*error = 0;
	/* None with VFIO's no-IOMMU mode, which makes up a group. */
	if (!iommu || !iommu->iommu_dev || !device_iommu_mapped(&pdev->dev))
		return SVIO_SVA_NO_IOMMU;
	if (!SVA_NATIVE) {
		*error = sva_trial(sva);
		return SVIO_SVA_NO_KERNEL;
	}
	if (!iommu->iommu_dev->max_pasids)
		return SVIO_SVA_NO_IOMMU;
	if (!iommu->max_pasids)
		return SVIO_SVA_NO_PASID;
	if (sva_shared_group(pdev))
		return SVIO_SVA_SHARED_GROUP;
	ret = sva_trial(sva);
	if (!ret)
		return SVIO_SVA_OK;
	if (!pci_ats_supported(pdev))
		return SVIO_SVA_NO_ATS;
	if (!pci_pri_supported(pdev))
		return SVIO_SVA_NO_PRI;
	*error = ret;
	return SVIO_SVA_REFUSED;
}

static bool sva_simulated(struct pci_dev *pdev)
{
	struct module *owner = pdev->dev.iommu->iommu_dev->ops->owner;

	return owner && !strcmp(module_name(owner), "svio_simdev");
}

static u32 sva_info_flags(struct pci_dev *pdev)
{
	u32 flags = SVIO_SVA_INFO_NATIVE;
	int pasid = pci_pasid_status(pdev);

	if (sva_pri_enabled(pdev))
		flags |= SVIO_SVA_INFO_PRI;
#ifdef CONFIG_PCI_ATS
	if (pdev->ats_enabled)
		flags |= SVIO_SVA_INFO_ATS;
#endif
	if (pasid > 0 && (pasid & PCI_PASID_CTRL_EXEC))
		flags |= SVIO_SVA_INFO_EXEC;
	if (sva_simulated(pdev))
		flags |= SVIO_SVA_INFO_SIMULATED;
	return flags;
}

/* ---- bond files ---- */

static int bond_fop_release(struct inode *inode, struct file *file)
{
	bond_unuse(file->private_data);
	return 0;
}

static __poll_t bond_fop_poll(struct file *file, poll_table *wait)
{
	struct svio_bond *bond = file->private_data;

	poll_wait(file, &bond->ended, wait);
	return READ_ONCE(bond->state) == BOND_ENDED ? EPOLLHUP | EPOLLERR : 0;
}

#ifdef CONFIG_PROC_FS
static void bond_fop_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct svio_bond *bond = file->private_data;
	struct svio_sva *sva = bond->sva;
	static const char * const names[] = {
		[BOND_LIVE] = "bound", [BOND_ENDING] = "ending", [BOND_ENDED] = "ended",
	};
	enum bond_state state;
	unsigned long users;

	mutex_lock(&sva->lock);
	users = bond->users;
	state = bond->state;
	mutex_unlock(&sva->lock);
	seq_printf(m, "svio-device:\t%s\nsvio-pasid:\t%u\nsvio-bond:\t%s\nsvio-count:\t%lu\n",
		   sva->name, bond->pasid, names[state], users);
}
#endif

static const struct file_operations bond_fops = {
	.owner = THIS_MODULE,
	.release = bond_fop_release,
	.poll = bond_fop_poll,
#ifdef CONFIG_PROC_FS
	.show_fdinfo = bond_fop_show_fdinfo,
#endif
	.llseek = noop_llseek,
};

/* ---- the features ---- */

/* 1 to go on, or what to return. req may be NULL: the call has outputs only. */
static int sva_check(u32 flags, void __user *arg, size_t argsz, u32 op, void *req, size_t size)
{
	int ret = vfio_check_feature(flags, argsz, op, size);

	if (ret != 1)
		return ret;
	if (argsz > PAGE_SIZE)
		return -E2BIG;
	if (!current->mm)
		return -EINVAL;
	if (req) {
		ret = copy_struct_from_user(req, size, arg, argsz);
		return ret ? ret : 1;
	}
	ret = check_zeroed_user(arg + size, argsz - size);
	return ret ? ret : -E2BIG;
}

int svio_sva_feature_info(struct svio_sva *sva, u32 flags, void __user *arg, size_t argsz)
{
	struct svio_sva_info info = {};
	int ret;

	ret = sva_check(flags, arg, argsz, VFIO_DEVICE_FEATURE_GET, NULL, sizeof(info));
	if (ret != 1)
		return ret;

	info.quota = READ_ONCE(quota);
	info.reason = sva_reason(sva, &info.error);
	if (info.reason == SVIO_SVA_OK)
		info.flags = sva_info_flags(sva->pdev);
	if (sva->pdev->dev.iommu && sva->pdev->dev.iommu->max_pasids)
		info.pasid_bits = ilog2(sva->pdev->dev.iommu->max_pasids);

	mutex_lock(&sva->lock);
	info.bonds = sva_find(sva, current->mm) ? 1 : 0;
	mutex_unlock(&sva->lock);
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

int svio_sva_feature_bind(struct svio_sva *sva, u32 flags, void __user *arg, size_t argsz)
{
	struct svio_sva_bind req;
	struct svio_bond *bond;
	struct file *file;
	int ret, fd;
	s32 error;

	ret = sva_check(flags, arg, argsz, VFIO_DEVICE_FEATURE_SET, &req, sizeof(req));
	if (ret != 1)
		return ret;
	if (req.flags || req.reserved || req.min > req.max)
		return -EINVAL;
	mutex_lock(&sva->lock);
	ret = sva_may_bind(sva);
	mutex_unlock(&sva->lock);
	if (ret)
		return ret;
	if (sva_reason(sva, &error) != SVIO_SVA_OK)
		return -EOPNOTSUPP;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;

	bond = sva_bind(sva, req.min, req.max);
	if (IS_ERR(bond)) {
		put_unused_fd(fd);
		/* The process has a PASID already, from a device with more of them. */
		return PTR_ERR(bond) == -EOVERFLOW ? -ERANGE : PTR_ERR(bond);
	}

	file = anon_inode_getfile("[svio-bond]", &bond_fops, bond, O_RDONLY);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		bond_unuse(bond);
		return PTR_ERR(file);
	}

	req.pasid = bond->pasid;
	req.bond_fd = fd;
	if (copy_to_user(arg, &req, sizeof(req))) {
		put_unused_fd(fd);
		fput(file); /* and with it the bond, if it was new */
		return -EFAULT;
	}
	fd_install(fd, file);
	return 0;
}

int svio_sva_feature_unbind(struct svio_sva *sva, u32 flags, void __user *arg, size_t argsz)
{
	struct svio_sva_unbind req;
	struct svio_bond *bond;
	int ret;

	ret = sva_check(flags, arg, argsz, VFIO_DEVICE_FEATURE_SET, &req, sizeof(req));
	if (ret != 1)
		return ret;
	if (req.flags || req.min > req.max)
		return -EINVAL;

	/* First the answer: afterwards there is no way back. */
	if (clear_user(arg + offsetof(struct svio_sva_unbind, released), sizeof(req.released)))
		return -EFAULT;

	/* An address space has one PASID, so one bond at most. */
	mutex_lock(&sva->lock);
	bond = sva_find(sva, current->mm);
	if (bond && (bond->pasid < req.min || bond->pasid > req.max || !bond_claim(bond)))
		bond = NULL;
	mutex_unlock(&sva->lock);
	if (!bond)
		return 0;

	bond_end(bond);
	/*
	 * The word was there a moment ago; that another thread has unmapped it since is no reason
	 * to fail.
	 */
	(void)put_user(1, (u32 __user *)(arg + offsetof(struct svio_sva_unbind, released)));
	return 0;
}

/* ---- the function's life ---- */

bool svio_sva_in_use(struct svio_sva *sva)
{
	return !sva_idle(sva);
}

void svio_sva_open(struct svio_sva *sva)
{
	mutex_lock(&sva->lock);
	sva->trial = TRIAL_NONE;
	mutex_unlock(&sva->lock);
}

void svio_sva_close(struct svio_sva *sva)
{
	LIST_HEAD(list);
	bool any;

	mutex_lock(&sva->lock);
	any = sva->count && !sva->gone;
	sva_claim_all(sva, &list);
	mutex_unlock(&sva->lock);

	if (any)
		sva_quiesce(sva->pdev);
	bond_end_all(&list);
	/*
	 * Those that others are ending; nobody is binding, for that takes an open file of the
	 * function.
	 */
	wait_event(sva->idle, sva_idle(sva));
}

void svio_sva_gone(struct svio_sva *sva)
{
	LIST_HEAD(list);

	mutex_lock(&sva->lock);
	sva->gone = true;
	sva->generation++;
	sva_claim_all(sva, &list);
	mutex_unlock(&sva->lock);
	bond_end_all(&list);
}

/* No more binds; true if there are bonds. Those that nobody else is ending are on the list. */
static bool sva_block(struct svio_sva *sva, struct list_head *list)
{
	bool any;

	mutex_lock(&sva->lock);
	sva->resets++;
	sva->generation++;
	sva_claim_all(sva, list);
	any = sva->count;
	mutex_unlock(&sva->lock);
	return any;
}

void svio_sva_unblock(struct svio_sva *sva, bool master)
{
	if (master)
		pci_set_master(sva->pdev);
	mutex_lock(&sva->lock);
	sva->resets--;
	mutex_unlock(&sva->lock);
}

int svio_sva_block(struct svio_sva *sva, bool *master)
{
	LIST_HEAD(list);
	int ret;

	*master = sva_block(sva, &list) && sva_quiesce(sva->pdev);
	bond_end_all(&list);
	ret = wait_event_killable(sva->idle, sva_idle(sva));
	if (ret)
		svio_sva_unblock(sva, *master);
	return ret;
}

void svio_sva_reset_prepare(struct svio_sva *sva)
{
	LIST_HEAD(list);

	sva->master = sva_block(sva, &list) && sva_quiesce(sva->pdev);
	if (!list_empty(&list))
		sva_end_later(sva, &list);
	if (!wait_event_timeout(sva->idle, sva_idle(sva), SVA_RESET_WAIT))
		pci_warn(sva->pdev, "reset while a PASID is still being unbound\n");
}

void svio_sva_reset_done(struct svio_sva *sva)
{
	svio_sva_unblock(sva, sva->master);
	sva->master = false;
}

struct svio_sva *svio_sva_create(struct pci_dev *pdev)
{
	struct svio_sva *sva = kzalloc(sizeof(*sva), GFP_KERNEL);

	if (!sva)
		return NULL;
	kref_init(&sva->ref);
	sva->pdev = pdev;
	mutex_init(&sva->lock);
	hash_init(sva->live);
	INIT_LIST_HEAD(&sva->ending);
	init_waitqueue_head(&sva->idle);
	INIT_WORK(&sva->work, sva_work);
	sva->trial = TRIAL_NONE;
	strscpy(sva->name, pci_name(pdev), sizeof(sva->name));
	return sva;
}

void svio_sva_destroy(struct svio_sva *sva)
{
	kref_put(&sva->ref, sva_free);
}

int svio_sva_init(void)
{
	/*
	 * Of its own, to be counted in slabinfo; bonds are charged to the process's memory cgroup.
	 */
	bond_cache = KMEM_CACHE(svio_bond, SLAB_ACCOUNT | SLAB_NO_MERGE);
	if (!bond_cache)
		return -ENOMEM;
	sva_wq = alloc_workqueue("svio_sva", WQ_UNBOUND, 0);
	if (!sva_wq) {
		kmem_cache_destroy(bond_cache);
		return -ENOMEM;
	}
	return 0;
}

void svio_sva_exit(void)
{
	destroy_workqueue(sva_wq);
	/* Notifiers are freed by our code, after a grace period. */
	mmu_notifier_synchronize();
	kmem_cache_destroy(bond_cache);
}
