/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The smallest svio program: read block 0 of an NVMe namespace into ordinary DMA memory by polling.
 * Built outside the source tree, against the installed library:
 *
 *	cc nvme_hello.c $(pkg-config --cflags --libs svio) -o nvme_hello
 *	./nvme_hello 0000:01:00.0
 */
#include <stdio.h>
#include <svio_nvme.h>

static void done(void *ctx, int status)
{
	*(int *)ctx = status;
}

int main(int argc, char **argv)
{
	struct svio_device *dev = NULL;
	struct svio_ioas *ioas = NULL;
	struct svio_nvme *nvme = NULL;
	struct svio_nvme_qp *qp = NULL;
	struct svio_nvme_ns ns;
	int status = 1 << 16; /* no status yet */
	void *buf = NULL;

	if (argc != 2) {
		printf("svio %s; usage: %s DEVICE\n", svio_version(), argv[0]);
		return 2;
	}
	if (svio_mem_start(NULL) || svio_device_open(argv[1], NULL, &dev) || svio_ioas_create(NULL, &ioas) ||
	    svio_ioas_attach(ioas, dev) || svio_nvme_open(dev, ioas, NULL, &nvme) ||
	    svio_nvme_ns_get(nvme, 1, &ns) || svio_nvme_qp_create(nvme, NULL, &qp) ||
	    !(buf = svio_mem_alloc(ns.lba_size, 4096, -1)) ||
	    svio_nvme_read(qp, &ns, buf, 0, 1, 0, done, &status)) {
		fprintf(stderr, "%s\n", svio_last_error());
	} else {
		while (status == 1 << 16)
			svio_nvme_poll(qp, 0);
		printf("block 0 of %u bytes: %s, first byte %02x\n", ns.lba_size,
		       svio_nvme_status_text(status), *(unsigned char *)buf);
	}
	svio_mem_free(buf);
	svio_nvme_qp_destroy(qp);
	svio_nvme_close(nvme);
	if (ioas && dev)
		svio_ioas_detach(ioas, dev);
	svio_ioas_destroy(ioas);
	svio_device_close(dev);
	svio_mem_stop();
	return status;
}
