/* SPDX-License-Identifier: BSD-3-Clause */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "dsa.h"

void td_map_portals(struct td *td)
{
	struct svio_vfu_region_info info;
	int fd;

	CU_ASSERT_EQUAL_FATAL(tc_region_info(&td->tc, DSA_BAR_PORTALS, &info, &fd), 0);
	CU_ASSERT_FATAL(fd >= 0);
	td->portals_len = info.size;
	td->portals = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CU_ASSERT_FATAL(td->portals != MAP_FAILED);
	close(fd);
}

void td_start(struct td *td, const char *spec)
{
	memset(td, 0, sizeof(*td));
	CU_ASSERT_EQUAL_FATAL(svio_vdev_model_register(&svio_dsa_model), 0);
	tc_start(&td->tc, spec, 0);
	tc_master(&td->tc);
	td_map_portals(td);
}

void td_stop(struct td *td)
{
	munmap(td->portals, td->portals_len);
	tc_stop(&td->tc);
}

uint32_t td_cmd(struct td *td, uint32_t cmd, uint32_t operand)
{
	uint32_t sts;

	tc_w32(&td->tc, DSA_REG_CMD, DSA_CMD(cmd, operand));
	for (int i = 0; i < 1000; i++) {
		sts = tc_r32(&td->tc, DSA_REG_CMDSTS);
		if (!(sts & DSA_CMDSTS_ACTIVE))
			return DSA_CMDSTS_ERR(sts);
	}
	return UINT32_MAX;
}

void td_config(struct td *td, unsigned int wq, uint32_t size, uint32_t mode_flags)
{
	uint32_t at = TD_WQCFG + wq * 32;

	tc_w32(&td->tc, at + DSA_WQCFG_SIZE, size);
	tc_w32(&td->tc, at + DSA_WQCFG_MODE, DSA_WQCFG_DEDICATED | DSA_WQCFG_PRIORITY(5) | mode_flags);
	tc_w32(&td->tc, at + DSA_WQCFG_LIMITS, DSA_WQCFG_MAX_XFER(31) | DSA_WQCFG_MAX_BATCH(10));
	tc_w32(&td->tc, TD_GRPCFG + wq * DSA_GRPCFG_STRIDE + DSA_GRPCFG_WQS, 1u << wq);
	tc_w32(&td->tc, TD_GRPCFG + wq * DSA_GRPCFG_STRIDE + DSA_GRPCFG_ENGINES, 1u << wq);
	td->next[wq] = 0;
}

int td_feature_set(struct td *td, uint32_t feature, void *data, size_t len)
{
	int err = tc_feature(&td->tc, feature | SVIO_VFU_FEATURE_SET, data, len, (uint32_t)(8 + len));

	if (!err && td->tc.len == 8 + len)
		memcpy(data, td->tc.data + 8, len);
	return err;
}

uint32_t td_bind(struct td *td)
{
	struct svio_sva_bind b = { .bond_fd = 7 };

	CU_ASSERT_EQUAL_FATAL(td_feature_set(td, SVIO_VFIO_FEATURE_SVA_BIND, &b, sizeof(b)), 0);
	CU_ASSERT_EQUAL(b.bond_fd, -1);
	CU_ASSERT(b.pasid > 0);
	return b.pasid;
}

void td_up(struct td *td, uint32_t pasid, uint32_t flags)
{
	td_config(td, 0, 64, flags | (pasid ? DSA_WQCFG_PASID_EN | DSA_WQCFG_PASID(pasid) : 0));
	CU_ASSERT_EQUAL_FATAL(td_cmd(td, DSA_CMD_ENABLE_DEVICE, 0), 0);
	CU_ASSERT_EQUAL_FATAL(td_cmd(td, DSA_CMD_ENABLE_WQ, 0), 0);
}

struct dsa_desc td_desc(uint32_t op, uint32_t flags, const void *src, void *dst, uint32_t size, struct dsa_completion *cr)
{
	struct dsa_desc d = {
		.op_flags = svio_cpu_to_le32(DSA_DESC_OP(op, flags | DSA_FLAG_CR_VALID | DSA_FLAG_CR_REQUEST)),
		.cr_addr = svio_cpu_to_le64((uintptr_t)cr),
		.src = svio_cpu_to_le64((uintptr_t)src),
		.dst = svio_cpu_to_le64((uintptr_t)dst),
		.size = svio_cpu_to_le32(size),
	};

	return d;
}

void td_submit(struct td *td, unsigned int wq, const struct dsa_desc *d)
{
	uint8_t *slot = td->portals + wq * DSA_PORTAL_STRIDE + td->next[wq] * sizeof(*d);
	uint64_t first;

	td->next[wq] = (td->next[wq] + 1) % DSA_PORTAL_SLOTS;
	memcpy(slot + 8, (const uint8_t *)d + 8, sizeof(*d) - 8);
	memcpy(&first, d, 8);
	__atomic_store_n((uint64_t *)(void *)slot, first, __ATOMIC_RELEASE);
}

uint8_t td_wait(struct td *td, struct dsa_completion *cr)
{
	for (int i = 0; i < 20000 && !*(volatile uint8_t *)&cr->status; i++)
		if (td->tc.auto_dma)
			tc_r32(&td->tc, DSA_REG_GENSTS); /* the client answers DMA messages while it waits for a reply */
		else
			tc_rounds(&td->tc, 1);
	return __atomic_load_n(&cr->status, __ATOMIC_ACQUIRE);
}

uint8_t td_do(struct td *td, const struct dsa_desc *d, struct dsa_completion *cr)
{
	memset(cr, 0, sizeof(*cr));
	td_submit(td, 0, d);
	return td_wait(td, cr);
}
