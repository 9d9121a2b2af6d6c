/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A simulated device: server and client are two threads of this process (for ThreadSanitizer, too).
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include "client.h"
#include "probe.h"

extern const struct svio_vdev_model svio_edu_model;

/* One request over a blocking socket; returns the reply's bytes behind the header. */
static ssize_t ask(int fd, uint16_t cmd, const void *p, size_t len, int send_fd, void *out, size_t room)
{
	struct svio_vfu_hdr h = { .id = 1, .cmd = cmd, .size = (uint32_t)(sizeof(h) + len) };
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov[2] = { { &h, sizeof(h) }, { (void *)(uintptr_t)p, len } };
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = 2 };

	if (send_fd >= 0) {
		struct cmsghdr *cm = (struct cmsghdr *)(void *)control;

		mh.msg_control = control;
		mh.msg_controllen = sizeof(control);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cm), &send_fd, sizeof(int));
	}
	if (sendmsg(fd, &mh, 0) != (ssize_t)h.size || recv(fd, &h, sizeof(h), MSG_WAITALL) != sizeof(h))
		return -1;
	if (h.flags & SVIO_VFU_ERROR)
		return -(ssize_t)h.error;
	if (h.size - sizeof(h) > room)
		return -1;
	return h.size > sizeof(h) ? recv(fd, out, h.size - sizeof(h), MSG_WAITALL) : 0;
}

static void reg_write(int fd, uint64_t off, uint32_t width, uint64_t v, uint32_t region)
{
	struct {
		struct svio_vfu_region_rw rw;
		uint64_t v;
	} __attribute__((packed)) m = { { off, region, width }, v };
	struct svio_vfu_region_rw out;

	CU_ASSERT_EQUAL(ask(fd, SVIO_VFU_REGION_WRITE, &m, sizeof(m.rw) + width, -1, &out, sizeof(out)), sizeof(out));
}

static uint32_t reg_read(int fd, uint64_t off)
{
	struct svio_vfu_region_rw rw = { off, 0, 4 };
	struct {
		struct svio_vfu_region_rw rw;
		uint32_t v;
	} __attribute__((packed)) out = { 0 };

	CU_ASSERT_EQUAL(ask(fd, SVIO_VFU_REGION_READ, &rw, sizeof(rw), -1, &out, sizeof(out)), sizeof(out));
	return out.v;
}

static void test_edu(void)
{
	struct svio_vfu_version v = { .minor = 1 };
	struct svio_vfu_dma_map m = { .argsz = 32, .flags = 3, .iova = 0x10000, .size = 0x4000 };
	int fds = unit_count_fds(), fd, mfd;
	struct svio_vdev_sim *sim;
	uint8_t *mem, out[64];

	CU_ASSERT_EQUAL_FATAL(svio_vdev_model_register(&svio_edu_model), 0);
	CU_ASSERT_EQUAL(svio_vdev_sim_start("nosuch", 0, &fd, &sim), -ENOENT);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_sim_start("edu", 0, &fd, &sim), 0);
	CU_ASSERT_EQUAL(ask(fd, SVIO_VFU_VERSION, &v, sizeof(v), -1, out, sizeof(out)), 4);
	CU_ASSERT_EQUAL(reg_read(fd, 0), 0x010000edu);
	mfd = tc_memfd(0x4000, 0, (void **)&mem); /* unsealed: this process trusts itself */
	CU_ASSERT_EQUAL(ask(fd, SVIO_VFU_DMA_MAP, &m, sizeof(m), mfd, out, sizeof(out)), 0);
	reg_write(fd, 4, 2, 6, 7);
	for (unsigned int i = 0; i < 200; i++) {
		for (unsigned int b = 0; b < 256; b++)
			mem[b] = (uint8_t)(b + i);
		reg_write(fd, 0x80, 8, 0x10000, 0);
		reg_write(fd, 0x88, 8, 0x40000, 0);
		reg_write(fd, 0x90, 8, 256, 0);
		reg_write(fd, 0x98, 8, 1, 0);
		while (reg_read(fd, 0x98) & 1)
			;
		reg_write(fd, 0x80, 8, 0x40000, 0);
		reg_write(fd, 0x88, 8, 0x12000, 0);
		reg_write(fd, 0x98, 8, 3, 0);
		while (reg_read(fd, 0x98) & 1)
			;
		CU_ASSERT_EQUAL(memcmp(mem, mem + 0x2000, 256), 0);
	}
	close(fd);
	svio_vdev_sim_stop(sim);
	munmap(mem, 0x4000);
	close(mfd);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	/* stopped while the client is still there */
	CU_ASSERT_EQUAL_FATAL(svio_vdev_sim_start("edu", 0, &fd, &sim), 0);
	CU_ASSERT_EQUAL(ask(fd, SVIO_VFU_VERSION, &v, sizeof(v), -1, out, sizeof(out)), 4);
	svio_vdev_sim_stop(sim);
	CU_ASSERT_EQUAL(recv(fd, out, 1, 0), 0);
	close(fd);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
}

/* Doorbells by plain stores from one thread to the model's poll() in the other. */
static void test_doorbell(void)
{
	struct svio_vfu_version v = { .minor = 1 };
	struct svio_vfu_region_info info = { .argsz = 64, .index = 0 };
	char control[CMSG_SPACE(sizeof(int))];
	struct svio_vfu_hdr h = { .id = 1, .cmd = SVIO_VFU_GET_REGION_INFO, .size = sizeof(h) + sizeof(info) };
	struct iovec iov[2] = { { &h, sizeof(h) }, { &info, sizeof(info) } };
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = 2 };
	struct svio_vdev_sim *sim;
	uint32_t *db;
	uint8_t out[64];
	int fd, bar;

	CU_ASSERT_EQUAL_FATAL(svio_vdev_model_register(&probe_model), 0);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_sim_start("probe", 0, &fd, &sim), 0);
	CU_ASSERT_EQUAL(ask(fd, SVIO_VFU_VERSION, &v, sizeof(v), -1, out, sizeof(out)), 4);
	CU_ASSERT_EQUAL(sendmsg(fd, &mh, 0), 48);
	iov[0] = (struct iovec){ &h, sizeof(h) };
	iov[1] = (struct iovec){ out, 64 };
	mh.msg_control = control;
	mh.msg_controllen = sizeof(control);
	CU_ASSERT_EQUAL_FATAL(recvmsg(fd, &mh, MSG_CMSG_CLOEXEC), 16 + 64); /* one sendmsg(): arrives whole */
	memcpy(&bar, CMSG_DATA((struct cmsghdr *)(void *)control), sizeof(int));
	db = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, bar, 0x1000);
	CU_ASSERT_FATAL(db != MAP_FAILED);
	for (uint32_t i = 1; i < 5000; i++)
		__atomic_store_n(db, i, __ATOMIC_RELEASE);
	CU_ASSERT_EQUAL(reg_read(fd, 0x1000), 4999);
	munmap(db, 4096);
	close(bar);
	svio_vdev_sim_stop(sim);
	close(fd);
}

static const struct unit_test tests[] = {
	{ "edu in a thread: DMA both ways through unsealed memory", test_edu },
	{ "doorbells by plain stores", test_doorbell },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	return unit_run("vdev/sim", tests);
}
