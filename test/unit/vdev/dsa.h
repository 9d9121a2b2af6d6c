/* SPDX-License-Identifier: BSD-3-Clause */
/* Driving the DSA model as a driver would, by the raw client: registers by messages, descriptors through the shared portal. */
#ifndef VDEV_TEST_DSA_H
#define VDEV_TEST_DSA_H

#include "client.h"
#include "dsa_spec.h"
#include "svio_dsa_model.h"
#include "svio_vdev_iommu.h"
#include "svio_vfio.h"

#define TD_GRPCFG 0x400u
#define TD_WQCFG  0x800u

struct td {
	struct tc tc;
	uint8_t *portals; /* BAR2, mapped */
	size_t portals_len;
	unsigned int next[16]; /* slot, by WQ */
};

enum td_mode { TD_IOVA, TD_PASID };

void td_start(struct td *td, const char *spec);
void td_map_portals(struct td *td);
void td_stop(struct td *td);

/* 0 or enum dsa_cmd_err, waited for. */
uint32_t td_cmd(struct td *td, uint32_t cmd, uint32_t operand);
/* WQ i of size entries alone in group i with engine i; not enabled. */
void td_config(struct td *td, unsigned int wq, uint32_t size, uint32_t mode_flags);
/* Bind this process: its PASID. */
uint32_t td_bind(struct td *td);
/* Device with one WQ of 64 entries, enabled; flags: DSA_WQCFG_BLOCK_ON_FAULT. PASID 0 = without. */
void td_up(struct td *td, uint32_t pasid, uint32_t flags);

struct dsa_desc td_desc(uint32_t op, uint32_t flags, const void *src, void *dst, uint32_t size, struct dsa_completion *cr);
void td_submit(struct td *td, unsigned int wq, const struct dsa_desc *d);
/* Turns until the record's status is not 0: the status; 0 when it does not come. */
uint8_t td_wait(struct td *td, struct dsa_completion *cr);
uint8_t td_do(struct td *td, const struct dsa_desc *d, struct dsa_completion *cr);

int td_feature_set(struct td *td, uint32_t feature, void *data, size_t len);

#endif
