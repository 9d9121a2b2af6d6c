/* SPDX-License-Identifier: BSD-3-Clause */
/* Reading and writing the small text files that the kernel's PCI interface consists of. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "pci_priv.h"

static const char *root_dir = "";

void svio__pci_set_root(const char *root)
{
	root_dir = root;
}

int svio__path(char *buf, const char *fmt, ...)
{
	va_list ap;
	int n, m;

	n = snprintf(buf, PATH_MAX, "%s", root_dir);
	if (n < 0 || n >= PATH_MAX)
		return -ENAMETOOLONG;
	va_start(ap, fmt);
	m = vsnprintf(buf + n, (size_t)(PATH_MAX - n), fmt, ap);
	va_end(ap);
	return m < 0 || m >= PATH_MAX - n ? -ENAMETOOLONG : 0;
}

int svio__device_path(char *buf, const struct svio_pci_addr *addr, const char *file)
{
	char name[SVIO_PCI_ADDR_STRLEN];

	return svio__path(buf, "/sys/bus/pci/devices/%s%s%s", svio_pci_format_addr(addr, name),
			  file[0] ? "/" : "", file);
}

int svio__read_text(const char *path, char *buf, size_t len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), err = 0;
	char *newline;
	ssize_t n;

	buf[0] = '\0';
	if (fd < 0)
		return -errno;
	n = read(fd, buf, len - 1);
	if (n < 0)
		err = -errno;
	close(fd);
	if (err)
		return err;
	buf[n] = '\0';
	newline = strchr(buf, '\n');
	if (newline)
		*newline = '\0';
	else if ((size_t)n == len - 1)
		return -EOVERFLOW;
	return 0;
}

int svio__read_number(const char *path, int64_t *value)
{
	char text[32], *end;
	int rc = svio__read_text(path, text, sizeof(text));

	if (rc)
		return rc;
	errno = 0;
	*value = strtoll(text, &end, 0);
	if (errno || end == text || *end != '\0')
		return -EINVAL;
	return 0;
}

int svio__write_text(const char *path, const char *text)
{
	size_t len = strlen(text);
	int fd = open(path, O_WRONLY | O_CLOEXEC), err = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = write(fd, text, len);
	if (n < 0)
		err = -errno;
	else if ((size_t)n != len)
		err = -EIO;
	close(fd);
	return err;
}

int svio__read_link_name(const char *path, char *buf, size_t len)
{
	char target[PATH_MAX];
	const char *slash;
	ssize_t n = readlink(path, target, sizeof(target) - 1);

	if (n < 0)
		return -errno;
	target[n] = '\0';
	slash = strrchr(target, '/');
	if (snprintf(buf, len, "%s", slash ? slash + 1 : target) >= (int)len)
		return -EOVERFLOW;
	return 0;
}
