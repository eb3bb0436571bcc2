/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Command reports: what a device answered, and what it is to do next. */
#include <apr_strings.h>
#include <string.h>

#include "association.h"
#include "webhook.h"

typedef struct report_t {
    const service_t *service;
    const mdm_message_t *report;
    const trust_certificate_t *cert;
    int associated;
    const char *next_uuid;
    service_reply_t *reply;
    const char *event; /* for webhooks, or NULL */
} report_t;

static int has_result(const mdm_message_t *report)
{
    return report->status_kind != MDM_STATUS_IDLE && report->command_uuid != NULL;
}

/* The association, and the result if there is one to store: one transaction. */
static apr_status_t store_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    report_t *work = baton;
    const mdm_message_t *report = work->report;
    apr_status_t status =
        association_check(tx, work->service, report->enrollment.device_id, work->cert, pool);

    work->reply->why = NULL;
    work->event = NULL;
    if (status == APR_SUCCESS && has_result(report)) {
        status = store_result_add(tx, report);
        if (status == APR_ENOENT) {
            work->reply->why =
                "the command was never queued for this enrollment: result not stored";
            status = APR_SUCCESS;
        }
    }
    return status == APR_SUCCESS ? webhook_note(tx, work->service, report, &work->event, pool)
                                 : status;
}

/* One select for an empty queue, a second one for a command's text: a large column is never read
 * by the query that looks for it. */
static apr_status_t next_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    report_t *work = baton;
    const mdm_message_t *report = work->report;
    service_reply_t *reply = work->reply;
    apr_status_t status = store_queue_load_next(tx, &report->enrollment, work->cert->sha256,
                                                report->status_kind == MDM_STATUS_NOT_NOW,
                                                &work->associated, &work->next_uuid, pool);

    if (status != APR_SUCCESS || !work->associated || work->next_uuid == NULL) {
        return status;
    }
    status = store_command_load(tx, work->next_uuid, &reply->body, &reply->len, pool);
    return status == APR_ENOENT ? APR_SUCCESS : status; /* swept in between */
}

/* An Idle report stores nothing, unless its association may be taken retroactively. */
static apr_status_t run(report_t *work, apr_pool_t *pool)
{
    store_t *store = work->service->store;
    apr_status_t status = APR_SUCCESS;

    if (has_result(work->report) || webhook_stores(work->service, work->report)) {
        status = store_write(store, store_work, work, pool);
    }
    if (status == APR_SUCCESS) {
        status = store_read(store, next_work, work, pool);
    }
    if (status == APR_SUCCESS && !work->associated && work->service->retroactive) {
        status = store_write(store, store_work, work, pool);
        if (status == APR_SUCCESS) {
            status = store_read(store, next_work, work, pool);
        }
    }
    return status == APR_SUCCESS && !work->associated ? MDM_EREFUSED : status;
}

apr_status_t service_report(const service_t *service, const mdm_message_t *report,
                            const trust_certificate_t *cert, service_reply_t *reply,
                            apr_pool_t *pool)
{
    report_t work = {service, report, cert, 0, NULL, reply, NULL};
    apr_status_t status;

    memset(reply, 0, sizeof(*reply));
    status = run(&work, pool);
    switch (status) {
    case APR_SUCCESS:
        if (report->status_kind != MDM_STATUS_IDLE && report->command_uuid == NULL) {
            reply->why = "the report names no CommandUUID: result not stored";
        }
        webhook_announce(service, report, work.event, pool);
        if (service->seen != NULL) {
            service->seen(service->seen_baton, report->enrollment.id);
        }
        break;
    case MDM_EREFUSED:
        memset(reply, 0, sizeof(*reply));
        reply->why = "the certificate is not associated with this enrollment";
        break;
    default:
        memset(reply, 0, sizeof(*reply));
        reply->why = "the database is not available";
    }
    return status;
}
