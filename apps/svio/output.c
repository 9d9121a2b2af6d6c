/* SPDX-License-Identifier: BSD-3-Clause */
/* Tables, sizes and JSON. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "cli.h"

#define MAX_COLUMNS 16

struct cli_table {
	size_t columns, rows, capacity;
	char **cells; /* rows * columns */
	size_t width[MAX_COLUMNS];
	bool right[MAX_COLUMNS];
};

static char *copy_text(const char *text)
{
	char *copy = strdup(text);

	if (!copy) {
		cli_error("out of memory");
		exit(CLI_FAILED);
	}
	return copy;
}

void cli_table_row(struct cli_table *table, const char *const *cells)
{
	if (table->rows == table->capacity) {
		size_t capacity = table->capacity ? table->capacity * 2 : 16;
		char **grown = reallocarray(table->cells, capacity * table->columns, sizeof(*grown));

		if (!grown) {
			cli_error("out of memory");
			exit(CLI_FAILED);
		}
		table->cells = grown;
		table->capacity = capacity;
	}
	for (size_t c = 0; c < table->columns; c++) {
		char *cell = copy_text(cells[c] ? cells[c] : "-");

		table->cells[table->rows * table->columns + c] = cell;
		table->width[c] = SVIO_MAX(table->width[c], strlen(cell));
	}
	table->rows++;
}

struct cli_table *cli_table_new(const char *const *headings, size_t columns)
{
	struct cli_table *table = cli_alloc(sizeof(*table));
	const char *plain[MAX_COLUMNS];

	table->columns = SVIO_MIN(columns, (size_t)MAX_COLUMNS);
	for (size_t c = 0; c < table->columns; c++) {
		table->right[c] = headings[c][0] == '>';
		plain[c] = headings[c] + table->right[c];
	}
	cli_table_row(table, plain);
	return table;
}

void cli_table_print(const struct cli_table *table, FILE *out)
{
	for (size_t r = 0; r < table->rows; r++) {
		char *const *row = &table->cells[r * table->columns];

		for (size_t c = 0; c < table->columns; c++) {
			int width = (int)table->width[c];

			if (table->right[c])
				fprintf(out, "%*s", width, row[c]);
			else if (c + 1 < table->columns)
				fprintf(out, "%-*s", width, row[c]);
			else
				fputs(row[c], out); /* no blanks at the end of a line */
			fputs(c + 1 < table->columns ? "  " : "\n", out);
		}
	}
}

void cli_table_free(struct cli_table *table)
{
	if (!table)
		return;
	for (size_t i = 0; i < table->rows * table->columns; i++)
		free(table->cells[i]);
	free(table->cells);
	free(table);
}

char *cli_size(uint64_t bytes, char *buf)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1024 && unit + 1 < SVIO_ARRAY_SIZE(units)) {
		value /= 1024;
		unit++;
	}
	/* One digit behind the point only where it says something. */
	if (bytes % (UINT64_C(1) << (10 * unit)) == 0)
		snprintf(buf, CLI_SIZE_LEN, "%.0f %s", value, units[unit]);
	else
		snprintf(buf, CLI_SIZE_LEN, "%.1f %s", value, units[unit]);
	return buf;
}

int cli_json_print(struct json_object *doc)
{
	const char *text = json_object_to_json_string_ext(doc, JSON_C_TO_STRING_PRETTY |
								       JSON_C_TO_STRING_SPACED |
								       JSON_C_TO_STRING_NOSLASHESCAPE);
	int rc = text ? CLI_OK : cli_error("out of memory");

	if (text && (puts(text) == EOF || fflush(stdout)))
		rc = cli_error("cannot write to standard output");
	json_object_put(doc);
	return rc;
}

void cli_json_str(struct json_object *obj, const char *key, const char *text)
{
	json_object_object_add(obj, key, text ? json_object_new_string(text) : NULL);
}

void cli_json_int(struct json_object *obj, const char *key, int64_t value)
{
	json_object_object_add(obj, key, json_object_new_int64(value));
}

void cli_json_u64(struct json_object *obj, const char *key, uint64_t value)
{
	json_object_object_add(obj, key, json_object_new_uint64(value));
}

void cli_json_bool(struct json_object *obj, const char *key, bool value)
{
	json_object_object_add(obj, key, json_object_new_boolean(value));
}

void cli_json_hex(struct json_object *obj, const char *key, uint64_t value, int digits)
{
	char text[24];

	snprintf(text, sizeof(text), "0x%0*" PRIx64, digits, value);
	cli_json_str(obj, key, text);
}
