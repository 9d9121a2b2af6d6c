/* SPDX-License-Identifier: BSD-3-Clause */
/* "model,key=value,flag": the options of a device, and which of them its model asked for. */
#include <stdlib.h>
#include <string.h>
#include "args.h"

int svio__vd_args_parse(const char *spec, struct svio_vdev_args *args)
{
	char *p, *next;

	memset(args, 0, sizeof(*args));
	args->text = strdup(spec);
	if (!args->text)
		return -ENOMEM;
	args->model = args->text;
	next = strchr(args->text, ',');
	while (next) {
		*next = '\0';
		p = next + 1;
		next = strchr(p, ',');
		if (next)
			*next = '\0';
		if (!*p || *p == '=') {
			svio__vd_args_free(args);
			return svio_fail(
				EINVAL,
				"\"%s\": an option without a name; write key=value,key=value",
				spec);
		}
		if (args->num == VD_MAX_ARGS) {
			svio__vd_args_free(args);
			return svio_fail(EINVAL, "\"%s\": more than %d options", spec, VD_MAX_ARGS);
		}
		args->arg[args->num].key = p;
		args->arg[args->num].value = "";
		p = strchr(p, '=');
		if (p) {
			*p = '\0';
			args->arg[args->num].value = p + 1;
		}
		for (unsigned int i = 0; i < args->num; i++) {
			if (strcmp(args->arg[i].key, args->arg[args->num].key) == 0) {
				int err = svio_fail(EINVAL, "option %s is given twice",
						    args->arg[i].key);

				svio__vd_args_free(args);
				return err;
			}
		}
		args->num++;
	}
	return 0;
}

void svio__vd_args_free(struct svio_vdev_args *args)
{
	free(args->text);
	args->text = NULL;
	args->num = 0;
}

int svio__vd_args_unused(const struct svio_vdev_args *args, const char *help)
{
	for (unsigned int i = 0; i < args->num; i++)
		if (!args->arg[i].used)
			return svio_fail(EINVAL, "%s has no option \"%s\"; it knows: %s",
					 args->model, args->arg[i].key, help ? help : "none");
	return 0;
}

const char *svio_vdev_arg(struct svio_vdev_args *args, const char *key)
{
	for (unsigned int i = 0; i < args->num; i++) {
		if (strcmp(args->arg[i].key, key) == 0) {
			args->arg[i].used = true;
			return args->arg[i].value;
		}
	}
	return NULL;
}

int svio_vdev_arg_u64(struct svio_vdev_args *args, const char *key, uint64_t def, uint64_t min,
		      uint64_t max, uint64_t *value)
{
	const char *text = svio_vdev_arg(args, key);
	uint64_t v;
	int err;

	if (!text) {
		*value = def;
		return 0;
	}
	err = svio_parse_u64(text, max, &v);
	if (!err && v < min)
		err = -ERANGE;
	if (err)
		return svio_fail(err, "%s: %s=%s is not a number from %llu to %llu", args->model,
				 key, text, (unsigned long long)min, (unsigned long long)max);
	*value = v;
	return 0;
}

int svio_vdev_arg_size(struct svio_vdev_args *args, const char *key, uint64_t def, uint64_t *bytes)
{
	const char *text = svio_vdev_arg(args, key);
	uint64_t v;
	int err;

	if (!text) {
		*bytes = def;
		return 0;
	}
	err = svio_parse_size(text, &v);
	if (err)
		return svio_fail(err, "%s: %s=%s is not a size; write 4096, 64k, 1M or 2G",
				 args->model, key, text);
	*bytes = v;
	return 0;
}

int svio_vdev_arg_bool(struct svio_vdev_args *args, const char *key, bool *value)
{
	const char *text = svio_vdev_arg(args, key);

	if (!text || !strcmp(text, "0") || !strcmp(text, "no"))
		*value = false;
	else if (!*text || !strcmp(text, "1") || !strcmp(text, "yes"))
		*value = true;
	else
		return svio_fail(EINVAL, "%s: %s=%s is neither yes nor no", args->model, key, text);
	return 0;
}
