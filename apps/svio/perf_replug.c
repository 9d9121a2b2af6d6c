/* SPDX-License-Identifier: BSD-3-Clause */
/* Waiting for a device after one has gone. */
#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "perf_replug.h"

#define CLASS_NVME   0x010802 /* NVMe 1.4 §2.1.5 */
#define LOOK_MS	     500
#define UEVENT_GROUP 1 /* the kernel's own events: Linux lib/kobject_uevent.c */

bool perf_replug_changed(const char *uevent, size_t len, struct svio_pci_addr *addr)
{
	const char *slash;
	char text[64];
	size_t n = strnlen(uevent, len);

	if (n == len || (strncmp(uevent, "remove@", 7) != 0 && strncmp(uevent, "add@", 4) != 0))
		return false;
	slash = strrchr(uevent, '/');
	if (!slash || strlen(slash + 1) >= sizeof(text))
		return false;
	strcpy(text, slash + 1);
	return svio_pci_parse_addr(text, addr) == 0;
}

static bool same(const struct svio_pci_addr *a, const struct svio_pci_addr *b)
{
	return a->domain == b->domain && a->bus == b->bus && a->dev == b->dev && a->fn == b->fn;
}

static struct perf_replug_seen *find_seen(const struct perf_replug *r,
					  const struct svio_pci_addr *addr)
{
	for (size_t i = 0; i < r->count; i++)
		if (same(&r->seen[i].addr, addr))
			return &r->seen[i];
	return NULL;
}

static bool is_vfio(const struct svio_pci_info *info)
{
	return strcmp(info->driver, "vfio-pci") == 0;
}

int perf_replug_begin(struct perf_replug *r, const char *name, bool bind_it)
{
	struct sockaddr_nl local = { .nl_family = AF_NETLINK, .nl_groups = UEVENT_GROUP };
	struct svio_pci_addr addr;

	*r = (struct perf_replug){ .netlink = -1, .bind = bind_it };
	if (snprintf(r->name, sizeof(r->name), "%s", name) >= (int)sizeof(r->name))
		return svio_fail(ENAMETOOLONG, "%s: name too long", name);
	r->any = strcmp(name, "any") == 0;
	r->pci = r->any || svio_pci_parse_addr(name, &addr) == 0;
	if (!r->pci)
		return 0;
	r->netlink = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
			    NETLINK_KOBJECT_UEVENT);
	if (r->netlink >= 0 && bind(r->netlink, (struct sockaddr *)&local, sizeof(local))) {
		close(r->netlink);
		r->netlink = -1;
	}
	return 0;
}

static int first_look(struct perf_replug *r)
{
	struct svio_pci_info *list;
	size_t count;
	int rc = svio_pci_scan(&list, &count);

	if (rc)
		return rc;
	r->seen = calloc(count + 1, sizeof(*r->seen));
	for (size_t i = 0; r->seen && i < count; i++)
		r->seen[r->count++] = (struct perf_replug_seen){ .addr = list[i].addr,
								 .there = true,
								 .bound = is_vfio(&list[i]) };
	free(list);
	r->looked = r->seen != NULL;
	return r->seen ? 0 : -ENOMEM;
}

void perf_replug_end(struct perf_replug *r)
{
	if (r->netlink >= 0)
		close(r->netlink);
	free(r->seen);
	*r = (struct perf_replug){ .netlink = -1 };
}

/* What went or came, from the kernel's messages: it has not been there all the time. */
static void hear(struct perf_replug *r)
{
	char message[8192];
	struct svio_pci_addr addr;
	ssize_t n;

	while ((n = recv(r->netlink, message, sizeof(message), 0)) > 0) {
		struct perf_replug_seen *seen;

		if (!perf_replug_changed(message, (size_t)n, &addr))
			continue;
		seen = find_seen(r, &addr);
		if (seen)
			seen->there = seen->bound = false;
	}
}

/*
 * Look at everything there is. A device may be taken when it is bound to vfio-pci and was away, or unbound, in between;
 * it may be bound by us only when it was away: one that was merely unbound is what the host wanted back.
 */
static int look(struct perf_replug *r, char *found, char *obstacle, size_t obstacle_size)
{
	struct svio_pci_info *list;
	struct svio_pci_addr wanted;
	size_t count;
	int rc = svio_pci_scan(&list, &count);

	if (rc)
		return rc;
	for (size_t i = 0; i < r->count; i++) {
		bool there = false;

		for (size_t k = 0; k < count; k++)
			if (same(&r->seen[i].addr, &list[k].addr)) {
				there = true;
				r->seen[i].bound &= is_vfio(&list[k]);
			}
		r->seen[i].there &= there;
		r->seen[i].bound &= there;
	}
	if (!r->any)
		svio_pci_parse_addr(r->name, &wanted);
	rc = -EAGAIN;
	for (size_t i = 0; i < count && rc == -EAGAIN; i++) {
		const struct perf_replug_seen *seen = find_seen(r, &list[i].addr);

		if (r->any ? list[i].class_code != CLASS_NVME : !same(&wanted, &list[i].addr))
			continue;
		if (seen && (is_vfio(&list[i]) ? seen->bound : seen->there))
			continue;
		if (!is_vfio(&list[i]) && !r->bind) {
			snprintf(obstacle, obstacle_size,
				 "%s is there, but %s%s; use --bind, or run: svio bind %s",
				 list[i].name, list[i].has_driver ? "bound to " : "has no driver",
				 list[i].driver, list[i].name);
			continue;
		}
		rc = is_vfio(&list[i]) ? 0 : svio_pci_bind(&list[i].addr, "vfio-pci", 0);
		if (!rc)
			snprintf(found, PERF_REPLUG_NAME, "%s", list[i].name);
		else
			/* It may have gone again, or be settling: another look will tell. */
			snprintf(obstacle, obstacle_size, "%s", svio_last_error());
		if (rc)
			rc = -EAGAIN;
	}
	free(list);
	return rc;
}

int perf_replug_wait(struct perf_replug *r, uint64_t until_ns, bool (*interrupted)(void),
		     char *found)
{
	char obstacle[SVIO_ERROR_MAX] = "no such device appeared";
	int rc;

	if (!r->pci) {
		snprintf(found, PERF_REPLUG_NAME, "%s", r->name);
		return 0;
	}
	rc = r->looked ? 0 : first_look(r);
	if (rc)
		return rc;
	for (;;) {
		struct pollfd pfd = { .fd = r->netlink, .events = POLLIN };
		uint64_t now;

		if (r->netlink >= 0)
			hear(r);
		rc = look(r, found, obstacle, sizeof(obstacle));
		if (rc != -EAGAIN)
			return rc;
		if (interrupted())
			return svio_fail(EINTR, "interrupted");
		now = svio_now_ns();
		if (now >= until_ns)
			return svio_fail(ETIMEDOUT, "waiting for %s: %s", r->name, obstacle);
		/* poll() ignores a negative descriptor: then this is the interval between two looks. */
		poll(&pfd, 1, (int)SVIO_MIN((until_ns - now) / 1000000 + 1, (uint64_t)LOOK_MS));
	}
}
