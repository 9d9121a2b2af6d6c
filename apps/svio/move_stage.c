/* SPDX-License-Identifier: BSD-3-Clause */
/* For tests: what happens at a point of a move. */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cli.h"
#include "move_stage.h"
#include "svio_vfio.h"

/* PCI command register: PCIe 5.0 §7.5.1.1.3. */
#define PCI_COMMAND	   0x04
#define PCI_COMMAND_MEMORY UINT32_C(0x2)
#define LOOK_MS		   5

static int decode(struct svio_device *dev, bool on)
{
	uint32_t command;
	int rc = svio_device_config_read(dev, PCI_COMMAND, 2, &command);

	command = on ? command | PCI_COMMAND_MEMORY : command & ~PCI_COMMAND_MEMORY;
	return rc ? rc : svio_device_config_write(dev, PCI_COMMAND, 2, command);
}

static int wait_for_others(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return svio_fail(errno, "%s: %s", path, strerror(errno));
	close(fd);
	while (access(path, F_OK) == 0)
		poll(NULL, 0, LOOK_MS);
	return 0;
}

static int act(struct svio_device *dev, int (*controller)(void *ctx), void *ctx, const char *action)
{
	if (strcmp(action, "reset") == 0)
		return svio_device_reset(dev);
	if (strcmp(action, "controller") == 0 && controller)
		return controller(ctx);
	if (strcmp(action, "off") == 0 || strcmp(action, "on") == 0)
		return decode(dev, action[1] == 'n');
	if (strncmp(action, "wait=", 5) == 0)
		return wait_for_others(action + 5);
	return svio_fail(EINVAL, "SVIO_MOVE_AT: no such action");
}

void move_stage(struct svio_device *dev, int (*controller)(void *ctx), void *ctx, const char *stage)
{
	static unsigned int done; /* a bit for each of the list */
	const char *list = getenv("SVIO_MOVE_AT");
	char *copy, *save = NULL;
	unsigned int i = 0;

	if (!list)
		return;
	copy = strdup(list);
	for (char *one = copy ? strtok_r(copy, ",", &save) : NULL; one && i < 32; one = strtok_r(NULL, ",", &save), i++) {
		char *action = strchr(one, ':');

		if (!action || (done & 1u << i) || (size_t)(action - one) != strlen(stage) || strncmp(one, stage, strlen(stage)) != 0)
			continue;
		done |= 1u << i;
		fprintf(stderr, "svio: test: %s\n", one);
		if (act(dev, controller, ctx, action + 1))
			fprintf(stderr, "svio: test: %s: %s\n", one, svio_last_error());
	}
	free(copy);
	svio_clear_error();
}
