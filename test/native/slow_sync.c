/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk that takes its time, simulated: to be preloaded into `svio serve`. fdatasync() adds a byte to the file $SVIO_SLOW_SYNC, and does
 * not return while $SVIO_SLOW_SYNC.gate exists.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int fdatasync(int fd)
{
	const char *path = getenv("SVIO_SLOW_SYNC");
	char gate[4096];
	int counter;

	if (!path)
		return fsync(fd);
	counter = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (counter >= 0) {
		if (write(counter, "x", 1) != 1)
			abort();
		close(counter);
	}
	snprintf(gate, sizeof(gate), "%s.gate", path);
	while (access(gate, F_OK) == 0)
		usleep(1000);
	return fsync(fd);
}
