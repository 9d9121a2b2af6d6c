/* SPDX-License-Identifier: BSD-3-Clause */
/* Numbers and sizes as users type them. Strict: what is not wholly a number is refused. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "svio_base.h"

/* strtoull() would take signs and blanks; we do not. */
static int parse_digits(const char *text, uint64_t *value, const char **rest)
{
	int base = 10;
	char *end;

	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
		if (!isxdigit((unsigned char)text[2]))
			return -EINVAL;
		base = 16;
	} else if (!isdigit((unsigned char)text[0])) {
		return -EINVAL;
	}
	errno = 0;
	*value = strtoull(text, &end, base);
	if (errno == ERANGE)
		return -ERANGE;
	*rest = end;
	return 0;
}

int svio_parse_u64(const char *text, uint64_t max, uint64_t *value)
{
	const char *rest;
	uint64_t v;
	int rc = parse_digits(text, &v, &rest);

	if (rc)
		return rc;
	if (*rest != '\0')
		return -EINVAL;
	if (v > max)
		return -ERANGE;
	*value = v;
	return 0;
}

int svio_parse_size(const char *text, uint64_t *bytes)
{
	static const char units[] = "kmgt";
	unsigned int shift = 0;
	const char *rest, *unit;
	uint64_t v;
	int rc = parse_digits(text, &v, &rest);

	if (rc)
		return rc;
	if (*rest != '\0' && (unit = strchr(units, tolower((unsigned char)*rest))) != NULL) {
		shift = 10 * (unsigned int)(unit - units + 1);
		rest++;
		if (strcasecmp(rest, "ib") == 0)
			rest += 2;
	}
	if (strcasecmp(rest, "b") == 0)
		rest++;
	if (*rest != '\0')
		return -EINVAL;
	if (shift && v >> (64 - shift))
		return -ERANGE;
	*bytes = v << shift;
	return 0;
}
