/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Counts of a run: requests and their latency by kind of message, errors by cause, as a table and
 * as JSON. Any thread may count.
 */
#include <apr_strings.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "mdmfleet.h"

/* Latencies in microseconds, in buckets that are 1/64 of a power of two wide: percentiles are
 * right to 1.6 %. */
#define SUB_BITS 6
#define SUB (1 << SUB_BITS)
#define BUCKETS (SUB * 32)

typedef struct kind_stats_t {
    uint64_t count, errors, total;
    int64_t max;
    uint32_t buckets[BUCKETS];
} kind_stats_t;

typedef struct error_row_t {
    struct error_row_t *next;
    fleet_kind_t kind;
    const char *cause;
    int http;
    uint64_t count;
    const char *example;
} error_row_t;

typedef struct counter_t {
    struct counter_t *next;
    const char *what;
    uint64_t n;
} counter_t;

struct fleet_stats_t {
    apr_pool_t *pool;
    pthread_mutex_t mutex; /* a request takes far longer than this is held */
    kind_stats_t kinds[FLEET_KINDS];
    error_row_t *errors;
    counter_t *counters;
    uint64_t requests, error_count;
};

fleet_stats_t *fleet_stats_create(apr_pool_t *pool)
{
    fleet_stats_t *stats = apr_pcalloc(pool, sizeof(*stats));
    /* Of its own: any thread allocates from it, with the mutex held. */
    apr_pool_create(&stats->pool, pool);
    pthread_mutex_init(&stats->mutex, NULL);
    return stats;
}

static int bucket_of(int64_t us)
{
    int shift = 0;
    if (us < 0)
        us = 0;
    while ((us >> shift) >= 2 * SUB)
        shift++;
    shift = shift > 30 ? 30 : shift;
    us >>= shift;
    return us >= 2 * SUB ? BUCKETS - 1 : (int)(shift * SUB + us);
}

/* The middle of a bucket, in milliseconds. */
static double bucket_value(int bucket)
{
    int shift = bucket < 2 * SUB ? 0 : bucket / SUB - 1;
    double low = (double)((int64_t)(bucket - shift * SUB) << shift);
    return (low + (double)((int64_t)1 << shift) / 2) / 1000.0;
}

void fleet_stats_request(fleet_stats_t *stats, fleet_kind_t kind, apr_interval_time_t took)
{
    kind_stats_t *k = &stats->kinds[kind];
    pthread_mutex_lock(&stats->mutex);
    k->count++;
    k->total += (uint64_t)(took > 0 ? took : 0);
    if (took > k->max)
        k->max = took;
    k->buckets[bucket_of(took)]++;
    stats->requests++;
    pthread_mutex_unlock(&stats->mutex);
}

void fleet_stats_error(fleet_stats_t *stats, fleet_kind_t kind, const char *cause, int http,
                       const char *example)
{
    error_row_t **row;
    pthread_mutex_lock(&stats->mutex);
    stats->kinds[kind].errors++;
    stats->error_count++;
    for (row = &stats->errors; *row; row = &(*row)->next)
        if ((*row)->kind == kind && (*row)->http == http && !strcmp((*row)->cause, cause))
            break;
    if (!*row) {
        *row = apr_pcalloc(stats->pool, sizeof(**row));
        (*row)->kind = kind;
        (*row)->http = http;
        (*row)->cause = cause;
        (*row)->example = apr_pstrdup(stats->pool, example ? example : "");
    }
    (*row)->count++;
    pthread_mutex_unlock(&stats->mutex);
}

void fleet_stats_count(fleet_stats_t *stats, const char *what, uint64_t n)
{
    counter_t **row;
    pthread_mutex_lock(&stats->mutex);
    for (row = &stats->counters; *row; row = &(*row)->next)
        if (!strcmp((*row)->what, what))
            break;
    if (!*row) {
        *row = apr_pcalloc(stats->pool, sizeof(**row));
        (*row)->what = what;
    }
    (*row)->n += n;
    pthread_mutex_unlock(&stats->mutex);
}

fleet_progress_t fleet_stats_progress(fleet_stats_t *stats)
{
    fleet_progress_t progress;
    pthread_mutex_lock(&stats->mutex);
    progress.requests = stats->requests;
    progress.errors = stats->error_count;
    pthread_mutex_unlock(&stats->mutex);
    return progress;
}

uint64_t fleet_stats_errors(fleet_stats_t *stats)
{
    return fleet_stats_progress(stats).errors;
}

/* In milliseconds. */
static double percentile(const kind_stats_t *k, double share)
{
    uint64_t wanted = (uint64_t)((double)k->count * share + 0.999999), seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += k->buckets[i];
        if (seen >= wanted && seen > 0) {
            double value = bucket_value(i), max = (double)k->max / 1000.0;
            return value < max ? value : max;
        }
    }
    return (double)k->max / 1000.0;
}

static double mean(const kind_stats_t *k)
{
    return k->count ? (double)k->total / (double)k->count / 1000.0 : 0;
}

static const char *cause_text(const error_row_t *row, char *buffer, size_t size)
{
    if (row->http > 0)
        apr_snprintf(buffer, size, "%s %d", row->cause, row->http);
    else
        apr_snprintf(buffer, size, "%s", row->cause);
    return buffer;
}

void fleet_stats_print(fleet_stats_t *stats, apr_interval_time_t took, FILE *out)
{
    double seconds = (double)took / APR_USEC_PER_SEC;
    char text[80];
    fprintf(out, "%-14s %9s %8s %9s %9s %9s %9s\n", "message", "answered", "errors", "p50 ms",
            "p90 ms", "p99 ms", "max ms");
    for (int i = 0; i < FLEET_KINDS; i++) {
        const kind_stats_t *k = &stats->kinds[i];
        if (k->count == 0 && k->errors == 0)
            continue;
        fprintf(out, "%-14s %9llu %8llu %9.2f %9.2f %9.2f %9.2f\n", fleet_kind_name(i),
                (unsigned long long)k->count, (unsigned long long)k->errors, percentile(k, 0.50),
                percentile(k, 0.90), percentile(k, 0.99), (double)k->max / 1000.0);
    }
    for (const counter_t *c = stats->counters; c; c = c->next)
        fprintf(out, "%s: %llu\n", c->what, (unsigned long long)c->n);
    fprintf(out, "%llu requests in %.2f s, %.0f per second; %llu errors\n",
            (unsigned long long)stats->requests, seconds,
            seconds > 0 ? (double)stats->requests / seconds : 0.0,
            (unsigned long long)stats->error_count);
    for (const error_row_t *row = stats->errors; row; row = row->next)
        fprintf(out, "error: %s, %s: %llu%s%s\n", fleet_kind_name(row->kind),
                cause_text(row, text, sizeof(text)), (unsigned long long)row->count,
                *row->example ? "; for example: " : "", row->example);
}

static json_t *kind_json(const kind_stats_t *k)
{
    return json_pack("{s:I,s:I,s:{s:f,s:f,s:f,s:f,s:f}}", "answered", (json_int_t)k->count,
                     "errors", (json_int_t)k->errors, "latency_ms", "mean", mean(k), "p50",
                     percentile(k, 0.50), "p90", percentile(k, 0.90), "p99", percentile(k, 0.99),
                     "max", (double)k->max / 1000.0);
}

json_t *fleet_stats_json(fleet_stats_t *stats, apr_interval_time_t took)
{
    double seconds = (double)took / APR_USEC_PER_SEC;
    json_t *messages = json_object(), *errors = json_array(), *counters = json_object();
    char text[80];
    for (int i = 0; i < FLEET_KINDS; i++)
        if (stats->kinds[i].count > 0 || stats->kinds[i].errors > 0)
            json_object_set_new(messages, fleet_kind_name(i), kind_json(&stats->kinds[i]));
    for (const error_row_t *row = stats->errors; row; row = row->next)
        json_array_append_new(errors,
                              json_pack("{s:s,s:s,s:I,s:s+}", "message", fleet_kind_name(row->kind),
                                        "cause", cause_text(row, text, sizeof(text)), "count",
                                        (json_int_t)row->count, "example", row->example, ""));
    for (const counter_t *c = stats->counters; c; c = c->next)
        json_object_set_new(counters, c->what, json_integer((json_int_t)c->n));
    return json_pack("{s:f,s:I,s:f,s:I,s:o,s:o,s:o}", "seconds", seconds, "requests",
                     (json_int_t)stats->requests, "requests_per_second",
                     seconds > 0 ? (double)stats->requests / seconds : 0.0, "error_count",
                     (json_int_t)stats->error_count, "messages", messages, "counters", counters,
                     "errors", errors);
}
