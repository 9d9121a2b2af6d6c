/* SPDX-License-Identifier: BSD-3-Clause */
/* The rounds of a migration as a picture: how much, and how long. Logarithmic: the first round dwarfs the others. */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include "control.h"
#include "migrate_report.h"

enum { WIDTH = 780, LEFT = 76, RIGHT = 16, TOP = 74, PANEL = 170, BETWEEN = 56, HEIGHT = TOP + 2 * PANEL + BETWEEN + 48 };
#define SENT	"#4477aa"
#define STOPPED "#cc3311"
#define WRITTEN "#ee9900"
#define PAGE	4096.0

struct panel {
	FILE *f;
	double top;	  /* y of the frame */
	double low, high; /* values at its bottom and top */
	double step;	  /* width of a round */
};

static struct json_object *round_at(struct json_object *list, size_t i)
{
	return json_object_array_get_idx(list, i);
}

static double x_of(const struct panel *p, size_t i)
{
	return LEFT + p->step * (double)i;
}

static double y_of(const struct panel *p, double value)
{
	if (value <= p->low)
		return p->top + PANEL;
	return p->top + PANEL * (1 - log(value / p->low) / log(p->high / p->low));
}

static void bytes_text(double value, char *text, size_t size)
{
	(void)size; /* CLI_SIZE_LEN, both */
	cli_size((uint64_t)value, text);
}

static void ms_text(double value, char *text, size_t size)
{
	if (value >= 1000)
		snprintf(text, size, "%g s", value / 1000);
	else
		snprintf(text, size, "%g ms", value);
}

/* A frame, and a line at each power of `base`. */
static void axis(struct panel *p, const char *title, double low, double highest, double base,
		 void (*label)(double value, char *text, size_t size))
{
	char text[CLI_SIZE_LEN];

	p->low = low;
	for (p->high = low * base; p->high < highest; p->high *= base)
		;
	fprintf(p->f, "<text x=\"%d\" y=\"%.1f\" font-weight=\"bold\">%s</text>\n", LEFT, p->top - 8, title);
	for (double v = low; v <= p->high * 1.001; v *= base) {
		label(v, text, sizeof(text));
		fprintf(p->f, "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>"
			      "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
			LEFT, WIDTH - RIGHT, y_of(p, v), y_of(p, v), LEFT - 6, y_of(p, v) + 4, text);
	}
	fprintf(p->f, "<rect x=\"%d\" y=\"%.1f\" width=\"%d\" height=\"%d\" fill=\"none\" stroke=\"#888\"/>\n", LEFT, p->top,
		WIDTH - LEFT - RIGHT, PANEL);
}

static void bar(const struct panel *p, size_t i, double value, bool stopped, const char *class, const char *tip)
{
	double y = y_of(p, value);

	fprintf(p->f, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"><title>%s</title></rect>\n", class,
		x_of(p, i) + p->step * 0.15, y, p->step * 0.7, p->top + PANEL - y, stopped ? STOPPED : SENT, tip);
}

/* Of every round but stop-and-copy, after which nothing is left. */
static void dots(const struct panel *p, struct json_object *list, size_t count, const char *key, double unit)
{
	fprintf(p->f, "<polyline fill=\"none\" stroke=\"" WRITTEN "\" stroke-width=\"1.5\" points=\"");
	for (size_t i = 0; i < count; i++)
		fprintf(p->f, "%.1f,%.1f ", x_of(p, i) + p->step / 2, y_of(p, (double)control_u64(round_at(list, i), key, 0) * unit));
	fprintf(p->f, "\"/>\n");
	for (size_t i = 0; i < count; i++)
		fprintf(p->f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"" WRITTEN "\"/>\n", x_of(p, i) + p->step / 2,
			y_of(p, (double)control_u64(round_at(list, i), key, 0) * unit));
}

static void numbers(const struct panel *p, size_t n, bool stopped)
{
	size_t every = (n + 31) / 32;

	for (size_t i = 0; i < n; i++) {
		double x = x_of(p, i) + p->step / 2, y = p->top + PANEL + 16;

		if (stopped && i + 1 == n)
			fprintf(p->f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">stop</text>\n", x, y);
		else if (i % every == 0)
			fprintf(p->f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%zu</text>\n", x, y, i + 1);
	}
	fprintf(p->f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">round</text>\n", LEFT + (WIDTH - LEFT - RIGHT) / 2.0,
		p->top + PANEL + 34);
}

static void legend(FILE *f)
{
	static const struct {
		const char *color, *text;
		int x;
	} marks[] = { { SENT, "while the process works", LEFT },
		      { STOPPED, "while it is stopped", LEFT + 200 },
		      { WRITTEN, "left after the round (written meanwhile)", LEFT + 370 } };

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(marks); i++)
		fprintf(f, "<rect x=\"%d\" y=\"30\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%d\" y=\"41\">%s</text>\n", marks[i].x,
			marks[i].color, marks[i].x + 18, marks[i].text);
}

static void draw(FILE *f, struct json_object *obj, struct json_object *list, size_t n)
{
	struct panel size = { .f = f, .top = TOP, .step = (double)(WIDTH - LEFT - RIGHT) / (double)SVIO_MAX(n, (size_t)1) };
	struct panel time = { .f = f, .top = TOP + PANEL + BETWEEN, .step = size.step };
	const char *phase = control_text(obj, "phase");
	bool stopped = n && control_bool(round_at(list, n - 1), "stopped");
	double most = 1, longest = SVIO_MAX(1.0, (double)control_u64(obj, "downtime_us", 0) / 1000);
	char tip[96];

	for (size_t i = 0; i < n; i++) {
		struct json_object *r = round_at(list, i);

		most = SVIO_MAX(most, PAGE * (double)control_u64(r, "pages", 0));
		most = SVIO_MAX(most, PAGE * (double)control_u64(r, "dirty_pages", 0));
		longest = SVIO_MAX(longest, (double)control_u64(r, "us", 0) / 1000);
		longest = SVIO_MAX(longest, (double)control_u64(r, "expected_downtime_us", 0) / 1000);
	}
	fprintf(f, "<text x=\"%d\" y=\"18\" font-size=\"14\">migration: %s; %zu rounds in %.1f ms, downtime %.2f ms</text>\n", LEFT,
		phase ? phase : "?", n, (double)control_u64(obj, "total_us", 0) / 1000,
		(double)control_u64(obj, "downtime_us", 0) / 1000);
	legend(f);
	axis(&size, "memory sent in the round (bars), left after it (line)", PAGE, most, 16, bytes_text);
	axis(&time, "time of the round, and downtime (bars); downtime, if stopped after the round (line)", 0.1, longest, 10, ms_text);
	for (size_t i = 0; i < n; i++) {
		struct json_object *r = round_at(list, i);
		bool last = stopped && i + 1 == n;
		double ms = (double)(last ? control_u64(obj, "downtime_us", 0) : control_u64(r, "us", 0)) / 1000;

		snprintf(tip, sizeof(tip), "round %zu: %" PRIu64 " pages, %" PRIu64 " bytes on the wire", i + 1,
			 control_u64(r, "pages", 0), control_u64(r, "wire_bytes", 0));
		bar(&size, i, PAGE * (double)control_u64(r, "pages", 0), last, "round", tip);
		snprintf(tip, sizeof(tip), "%s %zu: %.2f ms", last ? "downtime, round" : "round", i + 1, ms);
		bar(&time, i, ms, last, "time", tip);
	}
	dots(&size, list, n - stopped, "dirty_pages", PAGE);
	dots(&time, list, n - stopped, "expected_downtime_us", 0.001);
	numbers(&time, n, stopped);
}

int migrate_report_svg(struct json_object *obj, const char *path)
{
	struct json_object *list;
	FILE *f = fopen(path, "we");

	if (!f)
		return cli_error("%s: %s", path, strerror(errno));
	if (!json_object_object_get_ex(obj, "rounds", &list) || !json_object_is_type(list, json_type_array))
		list = NULL;
	fprintf(f, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
		   "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
		   "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
		WIDTH, HEIGHT, WIDTH, HEIGHT);
	draw(f, obj, list, list ? json_object_array_length(list) : 0);
	fprintf(f, "</svg>\n");
	if (fclose(f))
		return cli_error("%s: %s", path, strerror(errno));
	return CLI_OK;
}
