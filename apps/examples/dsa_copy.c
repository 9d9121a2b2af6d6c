/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A device copies between two malloced buffers: no DMA memory, no mapping, no root with a simulated device.
 *
 *	cc dsa_copy.c $(pkg-config --cflags --libs svio) -o dsa_copy
 *	./dsa_copy sim:dsa                    # or user:/path.sock, or 0000:6a:01.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <svio_dsa.h>

int main(int argc, char **argv)
{
	char *from = malloc(1 << 20), *to = malloc(1 << 20);
	struct svio_dsa_op copy = { .op = SVIO_DSA_COPY, .src = from, .dst = to, .len = 1 << 20 };
	struct svio_device *dev;
	struct svio_sva_bond *bond;
	struct svio_dsa *dsa;
	struct svio_dsa_wq *wq;

	memset(from, 'x', 1 << 20);
	if (svio_device_open(argc > 1 ? argv[1] : "sim:dsa", NULL, &dev) || svio_sva_bind(dev, NULL, 0, &bond) ||
	    svio_dsa_open(dev, NULL, &dsa) || svio_dsa_wq_create(dsa, bond, NULL, &wq) || svio_dsa_run(wq, &copy, NULL))
		return fprintf(stderr, "%s\n", svio_last_error()), 1;
	printf("1 MiB, PASID %u: %s\n", bond->pasid, memcmp(from, to, 1 << 20) ? "wrong" : "copied");
	svio_dsa_wq_destroy(wq);
	svio_dsa_close(dsa);
	svio_sva_unbind(bond);
	svio_device_close(dev);
	free(from);
	free(to);
	return 0;
}
