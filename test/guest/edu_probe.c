/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The edu driver on a device: QEMU's own through kernel VFIO (in the lab), or our model (sim:edu,dma_mask=…, natively).
 *
 *	edu_probe DEVICE	the device has dma_mask=0xffffffffffff; prints "ok - …" or "not ok - …" a check
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "svio_edu.h"

static int failures;

static void __attribute__((format(printf, 2, 3))) check(bool good, const char *fmt, ...)
{
	va_list ap;

	printf("%s - edu: ", good ? "ok" : "not ok");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	failures += !good;
}

static void use(struct svio_edu *edu, const char *how)
{
	uint32_t f = 1, want = 1;
	uint8_t *buf = svio_mem_alloc(2 * SVIO_EDU_BUF, 4096, -1);
	bool same = true;

	if (!buf) {
		check(false, "%s: memory: %s", how, svio_last_error());
		return;
	}
	for (uint32_t n = 1; n <= 14; n++) {
		want *= n;
		same &= svio_edu_factorial(edu, n, &f) == 0 && f == want;
	}
	check(same, "%s: factorials of 1 to 14 (the last: %u)", how, f);
	for (uint32_t i = 0; i < SVIO_EDU_BUF; i++)
		buf[i] = (uint8_t)(i * 5 + (i >> 8));
	check(svio_edu_copy_in(edu, 0, buf, SVIO_EDU_BUF) == 0, "%s: 4096 bytes to the device", how);
	check(svio_edu_copy_out(edu, buf + SVIO_EDU_BUF, 0, SVIO_EDU_BUF) == 0 &&
		      memcmp(buf, buf + SVIO_EDU_BUF, SVIO_EDU_BUF) == 0,
	      "%s: and back, byte for byte", how);
	memset(buf + SVIO_EDU_BUF, 0, SVIO_EDU_BUF);
	check(svio_edu_copy_out(edu, buf + SVIO_EDU_BUF + 3, 100, 57) == 0 &&
		      memcmp(buf + 100, buf + SVIO_EDU_BUF + 3, 57) == 0 && buf[SVIO_EDU_BUF + 2] == 0 &&
		      buf[SVIO_EDU_BUF + 60] == 0,
	      "%s: 57 bytes from the middle, and nothing beside them", how);
	check(svio_edu_copy_in(edu, 4000, buf, 97) == -EINVAL, "%s: beyond the buffer is refused", how);
	check(svio_edu_copy_in(edu, 0, &f, 4) == -EFAULT, "%s: memory that is not mapped is refused", how);
	svio_mem_free(buf);
}

int main(int argc, char **argv)
{
	struct svio_device *dev = NULL;
	struct svio_ioas *ioas = NULL;
	struct svio_edu *edu;
	int rc;

	if (argc != 2)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	rc = svio_mem_start(NULL);
	if (!rc)
		rc = svio_device_open(argv[1], NULL, &dev);
	if (!rc)
		rc = svio_ioas_create(NULL, &ioas);
	if (!rc)
		rc = svio_ioas_attach(ioas, dev);
	check(!rc, "%s opened%s%s", argv[1], rc ? ": " : "", rc ? svio_last_error() : "");
	if (rc)
		return 1;
	for (uint32_t flags = 0; flags <= SVIO_EDU_INTERRUPT; flags += SVIO_EDU_INTERRUPT) {
		rc = svio_edu_open(dev, ioas, flags, &edu);
		check(!rc, "driver started%s%s", rc ? ": " : "", rc ? svio_last_error() : "");
		if (rc)
			break;
		check(svio_edu_version(edu) == 0x0100, "interface version 1.0");
		svio_edu_set_dma_mask(edu, 0xffffffffffff);
		use(edu, flags ? "by interrupt" : "polled");
		svio_edu_close(edu);
	}
	svio_ioas_detach(ioas, dev);
	svio_device_close(dev);
	check(svio_ioas_destroy(ioas) == 0, "everything returned");
	svio_mem_stop();
	return failures ? 1 : 0;
}
