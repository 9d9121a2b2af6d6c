/* SPDX-License-Identifier: BSD-3-Clause */
/* Who holds a block device or a VFIO group: asked by trying to open it, since only the kernel knows. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "pci_priv.h"

bool svio__block_claimed(const char *name)
{
	char path[PATH_MAX];
	int fd;

	if (svio__path(path, "/dev/%s", name))
		return false;
	/* O_EXCL on a block device: EBUSY when the kernel has claimed it or a part of it (open(2)). */
	fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		close(fd);
	return fd < 0 && errno == EBUSY;
}

static bool process_has_open(const char *pid, const char *file)
{
	char dir[PATH_MAX], target[PATH_MAX];
	struct dirent *entry;
	bool found = false;
	ssize_t n;
	DIR *d;

	if (svio__path(dir, "/proc/%s/fd", pid) || !(d = opendir(dir)))
		return false;
	while (!found && (entry = readdir(d)) != NULL) {
		n = readlinkat(dirfd(d), entry->d_name, target, sizeof(target) - 1);
		if (n <= 0)
			continue;
		target[n] = '\0';
		found = strcmp(target, file) == 0;
	}
	closedir(d);
	return found;
}

pid_t svio__vfio_group_user(int group)
{
	char path[PATH_MAX], file[64];
	struct dirent *entry;
	pid_t user = -1;
	uint64_t pid;
	DIR *d;
	int fd;

	if (svio__path(path, "/dev/vfio/%d", group))
		return 0;
	/* A group opens once: EBUSY tells that somebody has it (Linux drivers/vfio/group.c). */
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	if (fd >= 0 || errno != EBUSY)
		return 0;
	snprintf(file, sizeof(file), "/dev/vfio/%d", group);
	if (svio__path(path, "/proc") || !(d = opendir(path)))
		return -1;
	while (user < 0 && (entry = readdir(d)) != NULL)
		if (!svio_parse_u64(entry->d_name, INT_MAX, &pid) && process_has_open(entry->d_name, file))
			user = (pid_t)pid;
	closedir(d);
	return user;
}
