/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Is the running system using a function? Its block devices and network interfaces are asked.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "pci_priv.h"

/* ---- which devices are below the function ------------------------------------------------------------ */

/* Does `path`, with links resolved, lie below directory `top` (already resolved)? */
static bool is_below(const char *path, const char *top)
{
	char real[PATH_MAX];
	size_t len = strlen(top);

	return realpath(path, real) && strncmp(real, top, len) == 0 && real[len] == '/';
}

/*
 * With NVMe multipath the disk is no child of its controller but of /sys/devices/virtual/nvme-subsystem/nvme-subsysN, which
 * has a link to each of its controllers (Linux drivers/nvme/host/core.c, nvme_init_subsystem). A partition is one further down.
 */
static bool subsystem_reaches(const char *block, const char *top)
{
	char dir[PATH_MAX], link[PATH_MAX];
	struct dirent *entry;
	bool found = false;
	char *slash;
	DIR *d;

	if (!realpath(block, dir))
		return false;
	for (;;) {
		slash = strrchr(dir, '/');
		if (!slash || slash == dir)
			return false;
		*slash = '\0';
		slash = strrchr(dir, '/');
		if (slash && strncmp(slash + 1, "nvme-subsys", 11) == 0 &&
		    strcmp(slash + 1, "nvme-subsystem") != 0)
			break;
	}
	d = opendir(dir);
	if (!d)
		return false;
	while (!found && (entry = readdir(d)) != NULL) {
		if (strncmp(entry->d_name, "nvme", 4) == 0 &&
		    snprintf(link, sizeof(link), "%s/%s", dir, entry->d_name) < (int)sizeof(link))
			found = is_below(link, top);
	}
	closedir(d);
	return found;
}

/* ---- block devices ----------------------------------------------------------------------------------- */

/*
 * One line of mountinfo (proc_pid_mountinfo(5)): "id parent major:minor root mountpoint options [...] - type source ...".
 * Btrfs has a device number of its own there, so the source counts as well.
 */
static bool mount_line_names(char *line, const char *devno, const char *name, char *where, size_t len)
{
	char *save, *number = NULL, *point = NULL, *source = NULL, *word;
	int field = 0, behind = 0;

	for (word = strtok_r(line, " \n", &save); word; word = strtok_r(NULL, " \n", &save), field++) {
		if (field == 2)
			number = word;
		else if (field == 4)
			point = word;
		else if (behind == 2) {
			source = word;
			break;
		} else if (behind || strcmp(word, "-") == 0)
			behind++;
	}
	if (!number || !point)
		return false;
	if (strcmp(number, devno) != 0 &&
	    !(source && strncmp(source, "/dev/", 5) == 0 && strcmp(source + 5, name) == 0))
		return false;
	snprintf(where, len, "%s", point);
	return true;
}

static bool block_mounted(const char *name, const char *devno, char *where, size_t len)
{
	char path[PATH_MAX], *line = NULL;
	size_t capacity = 0;
	bool found = false;
	FILE *f;

	if (svio__path(path, "/proc/self/mountinfo") || !(f = fopen(path, "re")))
		return false;
	while (!found && getline(&line, &capacity, f) > 0)
		found = mount_line_names(line, devno, name, where, len);
	free(line);
	fclose(f);
	return found;
}

static bool block_swap(const char *name)
{
	char path[PATH_MAX], line[PATH_MAX], device[PATH_MAX];
	bool found = false;
	FILE *f;

	if (svio__path(path, "/proc/swaps") || !(f = fopen(path, "re")))
		return false;
	while (!found && fgets(line, sizeof(line), f))
		found = sscanf(line, "/dev/%4095s", device) == 1 && strcmp(device, name) == 0;
	fclose(f);
	return found;
}

/* The first device (dm, md, bcache) that is built on this one. */
static bool block_holder(const char *name, char *holder, size_t len)
{
	char path[PATH_MAX];
	struct dirent *entry;
	bool found = false;
	DIR *d;

	if (svio__path(path, "/sys/class/block/%s/holders", name) || !(d = opendir(path)))
		return false;
	while (!found && (entry = readdir(d)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(holder, len, "%s", entry->d_name);
		found = true;
	}
	closedir(d);
	return found;
}

static int block_in_use(const char *function, const char *name)
{
	char path[PATH_MAX], devno[32], what[256];

	if (svio__path(path, "/sys/class/block/%s/dev", name) ||
	    svio__read_text(path, devno, sizeof(devno)))
		return 0;
	if (block_mounted(name, devno, what, sizeof(what)))
		return svio_fail(EBUSY, "%s is in use: /dev/%s is mounted on %s; run: umount %s",
				 function, name, what, what);
	if (block_swap(name))
		return svio_fail(EBUSY, "%s is in use: /dev/%s is swap; run: swapoff /dev/%s",
				 function, name, name);
	if (block_holder(name, what, sizeof(what)))
		return svio_fail(EBUSY, "%s is in use: %s is built on /dev/%s; take it down first (dmsetup, mdadm)",
				 function, what, name);
	if (svio__block_claimed(name))
		return svio_fail(EBUSY, "%s is in use: the kernel holds /dev/%s open "
				 "(a mount in another namespace, perhaps); run: fuser -vm /dev/%s",
				 function, name, name);
	return 0;
}

/* ---- network interfaces ------------------------------------------------------------------------------ */

/* An address that somebody chose: not the link-local one that every IPv6 interface gives itself. */
static bool is_configured(const struct sockaddr *sa)
{
	if (!sa)
		return false;
	if (sa->sa_family == AF_INET)
		return true;
	return sa->sa_family == AF_INET6 &&
	       !IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr);
}

static int net_address_in_use(const char *function, const char *name)
{
	struct ifaddrs *all, *ifa;
	int rc = 0;

	if (getifaddrs(&all))
		return svio_fail(errno, "%s: cannot read the addresses of %s: %s", function, name,
				 strerror(errno));
	for (ifa = all; ifa && !rc; ifa = ifa->ifa_next)
		if (strcmp(ifa->ifa_name, name) == 0 && ifa->ifa_flags & IFF_UP &&
		    is_configured(ifa->ifa_addr))
			rc = svio_fail(EBUSY, "%s is in use: network interface %s is up and has an address; "
				       "run: ip link set %s down", function, name, name);
	freeifaddrs(all);
	return rc;
}

/* Bridges, bonds and teams are linked as "master", VLANs and macvlans as "upper_<name>". */
static int net_in_use(const char *function, const char *name)
{
	char path[PATH_MAX];
	struct dirent *entry;
	int rc = 0;
	DIR *d;

	if (svio__path(path, "/sys/class/net/%s", name) || !(d = opendir(path)))
		return 0;
	while (!rc && (entry = readdir(d)) != NULL)
		if (strcmp(entry->d_name, "master") == 0 || strncmp(entry->d_name, "upper_", 6) == 0)
			rc = svio_fail(EBUSY, "%s is in use: network interface %s is part of another (%s); "
				       "take that down first", function, name, entry->d_name);
	closedir(d);
	return rc ? rc : net_address_in_use(function, name);
}

/* ---- all of it --------------------------------------------------------------------------------------- */

static int each_of_class(const char *class, const char *function, const char *top,
			 int (*check)(const char *function, const char *name))
{
	char path[PATH_MAX];
	struct dirent *entry;
	int rc = 0;
	DIR *d;

	if (svio__path(path, "/sys/class/%s", class))
		return -ENAMETOOLONG;
	d = opendir(path);
	if (!d)
		return errno == ENOENT ? 0 : svio_fail(errno, "cannot read %s: %s", path, strerror(errno));
	while (!rc && (entry = readdir(d)) != NULL) {
		if (entry->d_name[0] == '.' || strlen(entry->d_name) > NAME_MAX ||
		    svio__path(path, "/sys/class/%s/%s", class, entry->d_name))
			continue;
		if (is_below(path, top) || subsystem_reaches(path, top))
			rc = check(function, entry->d_name);
	}
	closedir(d);
	return rc;
}

int svio_pci_in_use(const struct svio_pci_addr *addr)
{
	char path[PATH_MAX], top[PATH_MAX], name[SVIO_PCI_ADDR_STRLEN];
	int rc = svio__device_path(path, addr, "");

	svio_pci_format_addr(addr, name);
	if (rc)
		return rc;
	if (!realpath(path, top))
		return svio_fail(errno == ENOENT ? ENODEV : errno,
				 "%s: there is no such PCI function; run: svio list --all", name);
	rc = each_of_class("block", name, top, block_in_use);
	return rc ? rc : each_of_class("net", name, top, net_in_use);
}
