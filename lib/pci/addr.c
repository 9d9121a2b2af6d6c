/* SPDX-License-Identifier: BSD-3-Clause */
/* Addresses as text: domain:bus:device.function, all hexadecimal. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "svio_pci.h"

/* Between 1 and `digits` hexadecimal digits, then the delimiter (which may be NUL). NULL when it is not that. */
static const char *parse_hex(const char *p, int digits, char delimiter, uint32_t *value)
{
	uint32_t v = 0;
	int n = 0;

	for (; n < digits && isxdigit((unsigned char)*p); n++, p++)
		v = v << 4 | (uint32_t)(isdigit((unsigned char)*p) ? *p - '0' :
								     tolower((unsigned char)*p) - 'a' + 10);
	if (n == 0 || *p != delimiter)
		return NULL;
	*value = v;
	return p + 1;
}

int svio_pci_parse_addr(const char *text, struct svio_pci_addr *addr)
{
	const char *p = text, *colon = strchr(text, ':');
	uint32_t domain = 0, bus = 0, dev = 0, fn = 0;

	/* Two colons: the domain is there. VMD's domains have five digits, so up to eight are taken. */
	if (colon && strchr(colon + 1, ':')) {
		p = parse_hex(p, 8, ':', &domain);
		if (!p)
			return -EINVAL;
	}
	p = parse_hex(p, 2, ':', &bus);
	if (p)
		p = parse_hex(p, 2, '.', &dev);
	if (p)
		p = parse_hex(p, 1, '\0', &fn);
	if (!p || dev > 0x1f || fn > 7)
		return -EINVAL;
	*addr = (struct svio_pci_addr){
		.domain = domain, .bus = (uint8_t)bus, .dev = (uint8_t)dev, .fn = (uint8_t)fn
	};
	return 0;
}

char *svio_pci_format_addr(const struct svio_pci_addr *addr, char *buf)
{
	snprintf(buf, SVIO_PCI_ADDR_STRLEN, "%04" PRIx32 ":%02x:%02x.%x", addr->domain, addr->bus,
		 addr->dev, addr->fn);
	return buf;
}
