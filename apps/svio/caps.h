/* SPDX-License-Identifier: BSD-3-Clause */
/* Capabilities of a function, decoded from a copy of its configuration space. */
#ifndef SVIO_CAPS_H
#define SVIO_CAPS_H

#include "cli.h"

/*
 * An array with one object per capability: { "id", "extended", "offset", "name", and what the capability says }.
 * cfg is a copy of the first len bytes of configuration space; nothing beyond is read.
 */
struct json_object *caps_decode(const uint8_t *cfg, size_t len);

/* The same for people, one line per capability. */
void caps_print(struct json_object *caps, FILE *out);

#endif
