/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The database: connections, transactions, the schema, and each thing the service reads or
 * writes. Knows neither what a message means nor httpd. A store may be used by many threads; a
 * transaction belongs to the thread that runs it.
 *
 * Every function returns MDM_EUNAVAILABLE if the database failed or could not be reached; that is
 * never mixed up with APR_ENOENT, which says that the database answered and has no such row.
 */
#ifndef STORE_H
#define STORE_H

#include <apr_pools.h>
#include <apr_tables.h>
#include <apr_time.h>

#include "mdm_message.h"
#include "mdm_status.h"

typedef struct store_t store_t;
typedef struct store_tx_t store_tx_t;

typedef struct store_config_t {
    const char *driver;          /* an apr_dbd driver: sqlite3, pgsql, mysql */
    const char *params;          /* its parameters; for sqlite3 the file */
    const char *prefix;          /* of every table, view and index; "" for none */
    int max;                     /* most connections */
    apr_interval_time_t wait;    /* how long to wait for a free connection */
    apr_interval_time_t timeout; /* how long a server may take to answer a call; 0: for ever */
    apr_interval_time_t idle;    /* how long an unused connection is kept */
    int read_only;               /* nothing will be written: the database itself sees to it */
} store_config_t;

/** Whether this build and machine can use the driver.
 *
 * @return MDM_EINPUT with the reason and the remedy in *why
 */
apr_status_t store_driver_check(const char *driver, const char **why, apr_pool_t *pool);

/** Whether this can be a prefix: it becomes a part of the statements, without quotes.
 *
 * @return MDM_EINPUT with the reason in *why
 */
apr_status_t store_prefix_check(const char *prefix, const char **why, apr_pool_t *pool);

/** Make a store; connects at first use. Not to be shared across a fork.
 *
 * @param out   closed with the pool
 * @return MDM_EINPUT with the reason in *why, if the driver or the prefix cannot be used
 */
apr_status_t store_open(store_t **out, const store_config_t *config, const char **why,
                        apr_pool_t *pool);

/** Create what is missing of the schema, in one transaction. */
apr_status_t store_schema_create(store_t *store, apr_pool_t *pool);

/** Check that each table has each column that is used.
 *
 * @return MDM_ESCHEMA, with what is missing in *why
 */
apr_status_t store_schema_check(store_t *store, const char **why, apr_pool_t *pool);

/** Told of each step of an upgrade and, behind it, each of its statements; one of the two is NULL.
 *
 * @param what  the step, in words
 * @param sql   in one line, without a semicolon
 */
typedef void store_schema_told_t(void *baton, const char *what, const char *sql);

/** Tell what store_schema_upgrade() would do: nothing if the schema is complete.
 *
 * @param rows  whether to look for rows that need it, too, which reads whole tables
 * @param tell  may be told everything once more from the beginning if the connection was dead
 */
apr_status_t store_schema_status(store_t *store, int rows, store_schema_told_t *tell, void *baton,
                                 apr_pool_t *pool);

/** Bring the schema, ours or another server's, up to what store_schema_create() makes: missing
 * tables, columns of another type, missing indexes, finished commands that count as waiting. Drops
 * no data, and does nothing where nothing is missing. Waits, without a bound, for another one that
 * is at work. Where the database commits each statement, one that was broken off is completed by
 * the next.
 *
 * @param tell  is told before it is done; everything that is left, if it was tried again
 */
apr_status_t store_schema_upgrade(store_t *store, store_schema_told_t *tell, void *baton,
                                  apr_pool_t *pool);

/** Work on the database. May be run again after a failure, so it must set its outputs anew each
 * time and have no other effect. Returns the status the whole is to have; everything but
 * APR_SUCCESS rolls a transaction back.
 *
 * @param pool  for what is to outlive the work: the one given to store_read() or store_write()
 */
typedef apr_status_t store_work_t(store_tx_t *tx, void *baton, apr_pool_t *pool);

/** Run work that only reads, without a transaction. Run once more on a fresh connection if the
 * connection was dead. */
apr_status_t store_read(store_t *store, store_work_t *work, void *baton, apr_pool_t *pool);

/** Run work in one transaction. Repeated with a bound if the database was busy or found a
 * deadlock, and once on a fresh connection if it died before the commit. */
apr_status_t store_write(store_t *store, store_work_t *work, void *baton, apr_pool_t *pool);

/* Certificate associations: device-channel id and SHA-256 of the certificate, in hex. */

/** @return APR_ENOENT if the pair is not associated */
apr_status_t store_association_load(store_tx_t *tx, const char *id, const char *sha256);
/** @return APR_ENOENT if no id has this certificate */
apr_status_t store_association_load_by_certificate(store_tx_t *tx, const char *sha256,
                                                   const char **id, apr_pool_t *pool);
/** As store_association_load_by_certificate(), but no other transaction can associate the
 * certificate before this one ends. */
apr_status_t store_association_claim(store_tx_t *tx, const char *sha256, const char **id,
                                     apr_pool_t *pool);
/** @return APR_ENOENT if this id has no certificate */
apr_status_t store_association_load_by_id(store_tx_t *tx, const char *id);
apr_status_t store_association_add(store_tx_t *tx, const char *id, const char *sha256);

/* Devices, users, enrollments. */

/** @return APR_ENOENT if the device never sent an Authenticate */
apr_status_t store_device_load(store_tx_t *tx, const char *id);
/** Insert or renew the device's row; clears its bootstrap token. A NULL certificate (migration)
 * keeps the one that is there. */
apr_status_t store_device_authenticate(store_tx_t *tx, const mdm_message_t *message,
                                       const char *certificate_pem);
/** Deactivate the unfinished commands of a device and of its user channels. */
apr_status_t store_device_clear_queue(store_tx_t *tx, const char *device_id);
/** Disable the enrollments of a device and of its user channels. */
apr_status_t store_device_disable(store_tx_t *tx, const char *device_id);
apr_status_t store_device_token_update(store_tx_t *tx, const mdm_message_t *message,
                                       apr_pool_t *pool);
/** Store the token, or clear it if base64 is NULL. @return APR_ENOENT if there is no such device */
apr_status_t store_device_bootstrap_token(store_tx_t *tx, const char *id, const char *base64);
/** @return APR_ENOENT if none is stored */
apr_status_t store_device_load_bootstrap_token(store_tx_t *tx, const char *id, const char **base64,
                                               apr_pool_t *pool);
apr_status_t store_user_token_update(store_tx_t *tx, const mdm_message_t *message);
apr_status_t store_user_authenticate(store_tx_t *tx, const mdm_message_t *message);
apr_status_t store_enrollment_token_update(store_tx_t *tx, const mdm_message_t *message);
apr_status_t store_enrollment_disable(store_tx_t *tx, const char *id);
/** Sort ids (const char *), as a write over many must have them: two that lock the same rows in the
 * same order cannot block each other. */
void store_sort_ids(apr_array_header_t *ids);
/** Note that these enrollments (const char *, unknown ones are ignored) were seen just now. */
apr_status_t store_enrollments_seen(store_tx_t *tx, const apr_array_header_t *ids);
/** Which of the ids (const char *) are enrollments.
 * @param known  a new array of const char *, in the pool */
apr_status_t store_enrollments_load(store_tx_t *tx, const apr_array_header_t *ids,
                                    apr_array_header_t **known, apr_pool_t *pool);

/* Pushing. */

/** Where to push to. All members are text as stored; nothing but const char *, in this order. */
typedef struct store_push_t {
    const char *id;
    const char *topic;
    const char *magic;
    const char *token; /* in hex */
    const char *stale; /* of the topic's certificate: its version; NULL if there is none */
    const char *dead;  /* why the push service will not take this token any more; NULL if it may */
} store_push_t;

/** Load where to push to for those ids (const char *) that are enrollments, disabled ones too.
 * @param found  a new array of store_push_t, in the pool, in no particular order */
apr_status_t store_push_load(store_tx_t *tx, const apr_array_header_t *ids,
                             apr_array_header_t **found, apr_pool_t *pool);

/** Note that the push service will never take this token again, until the enrollment's next
 * TokenUpdate. Nothing is noted if the enrollment has another token by now, or on a database that
 * lacks the table for it.
 *
 * @param since  when it died: an enrollment whose last TokenUpdate is later is left alone; 0: not
 *               known, and no matter
 */
apr_status_t store_push_dead(store_tx_t *tx, const char *id, const char *token, const char *reason,
                             apr_time_t since, apr_pool_t *pool);

/** A topic's certificate and key for the push service. */
typedef struct store_push_cert_t {
    const char *cert_pem;
    const char *key_pem;
    apr_int64_t version; /* higher each time it is replaced */
} store_push_cert_t;

/** Store a topic's certificate in place of the one that is there. */
apr_status_t store_push_cert_store(store_tx_t *tx, const char *topic, const char *cert_pem,
                                   const char *key_pem);
/** @return APR_ENOENT if there is none */
apr_status_t store_push_cert_load(store_tx_t *tx, const char *topic, store_push_cert_t *cert,
                                  apr_pool_t *pool);
/** The topic behind this one ("" for the first) that has a certificate.
 * @return APR_ENOENT if that was the last */
apr_status_t store_push_cert_next(store_tx_t *tx, const char *after, const char **topic,
                                  apr_pool_t *pool);

/* Commands, the queue, results. */

/** Store the command unless its UUID exists.
 * @return MDM_ECONFLICT if it exists with other bytes */
apr_status_t store_command_add(store_tx_t *tx, const mdm_command_t *command, apr_pool_t *pool);
/** Queue a stored command for enrollments (const char *) that exist; those that have it already
 * are left alone. */
apr_status_t store_queue_add(store_tx_t *tx, const char *command_uuid,
                             const apr_array_header_t *ids);
/** Store a report's result; a final one also finishes the command's place in the queue.
 * @return APR_ENOENT if the command was never queued for this enrollment */
apr_status_t store_result_add(store_tx_t *tx, const mdm_message_t *report);

/** Whether the certificate is the device's, and the command to hand out next, in one select.
 *
 * @param skip_not_now  leave out commands that were last answered with NotNow
 * @param associated    0 or 1
 * @param command_uuid  NULL if there is none
 */
apr_status_t store_queue_load_next(store_tx_t *tx, const mdm_enrollment_t *enrollment,
                                   const char *sha256, int skip_not_now, int *associated,
                                   const char **command_uuid, apr_pool_t *pool);
/** @return APR_ENOENT if there is no such command */
apr_status_t store_command_load(store_tx_t *tx, const char *command_uuid, const char **raw,
                                apr_size_t *raw_len, apr_pool_t *pool);

/** An enrollment's token_update_tally. @return APR_ENOENT */
apr_status_t store_enrollment_load_tally(store_tx_t *tx, const char *id, int *tally,
                                         apr_pool_t *pool);

/* Webhook events that wait for their delivery. A webhook is known by its URL, an event by a number
 * (seq, as text): of two events of which one was committed before the other came, that one's is
 * smaller. */

/** Whether the database has the tables for it; without, the others must not be called. */
int store_outbox_exists(store_tx_t *tx);
/** Likewise, for who has no transaction; 1 if the database cannot be asked. */
int store_has_webhooks(store_t *store, apr_pool_t *pool);
apr_status_t store_outbox_add(store_tx_t *tx, const char *webhook, const char *id,
                              const char *topic, const char *event);
/* What one call finds at most. */
#define STORE_OUTBOX_DUE_MAX 100
#define STORE_OUTBOX_RUN_MAX 1000

/** An event that is due; as store_push_t. */
typedef struct store_due_t {
    const char *seq;
    const char *id; /* of the enrollment */
} store_due_t;

/** Append the events that are due (store_due_t), the longest waiting first: at most
 * STORE_OUTBOX_DUE_MAX. */
apr_status_t store_outbox_due(store_tx_t *tx, const char *webhook, apr_array_header_t *rows,
                              apr_pool_t *pool);
/** Add a batch: events of several enrollments as one text, never due before they are split. */
apr_status_t store_outbox_add_batch(store_tx_t *tx, const char *webhook, const char *topic,
                                    const char *events);
/** The first batch behind this one; "0" is before all. @return APR_ENOENT if there is none */
apr_status_t store_outbox_batch(store_tx_t *tx, const char *webhook, const char *after,
                                const char **seq, apr_pool_t *pool);
/** An event of a batch; nothing but const char *, in this order. */
typedef struct store_event_t {
    const char *webhook;
    const char *id;
    const char *topic;
    const char *event;
} store_event_t;
/** Replace a batch by its events (store_event_t), which are due then; together they must be small
 * enough for the database's longest statement. @return APR_ENOENT if it is gone */
apr_status_t store_outbox_split(store_tx_t *tx, const char *seq, const apr_array_header_t *events);
/** Have an enrollment's events for a while, unless another owner has them or they must wait.
 * @param owner  not beginning with "-"; it does not know that it has them already
 * @param busy   how long to leave alone those that another owner has
 * @param left   0 if they are the owner's now, else how long to leave them alone */
apr_status_t store_outbox_lease(store_tx_t *tx, const char *webhook, const char *id,
                                const char *owner, apr_interval_time_t length,
                                apr_interval_time_t busy, apr_interval_time_t *left,
                                apr_pool_t *pool);
/** Have them for longer. @return APR_ENOENT if they are the owner's no more */
apr_status_t store_outbox_renew(store_tx_t *tx, const char *webhook, const char *id,
                                const char *owner, apr_interval_time_t length, apr_pool_t *pool);
/** Let others have them; also forgets failures. */
apr_status_t store_outbox_release(store_tx_t *tx, const char *webhook, const char *id,
                                  const char *owner);
/** Likewise, but none was tried: failures are not forgotten. */
apr_status_t store_outbox_return(store_tx_t *tx, const char *webhook, const char *id,
                                 const char *owner);
/** How often the first event failed, and how long ago it did so first.
 * @return APR_ENOENT if they are the owner's no more */
apr_status_t store_outbox_load_failures(store_tx_t *tx, const char *webhook, const char *id,
                                        const char *owner, int *failures,
                                        apr_interval_time_t *since, apr_pool_t *pool);
/** Let nobody have them until the delay is over.
 * @return APR_ENOENT if they are the owner's no more */
apr_status_t store_outbox_wait(store_tx_t *tx, const char *webhook, const char *id,
                               const char *owner, int failures, apr_interval_time_t since,
                               apr_interval_time_t delay, apr_pool_t *pool);
/** Append the first events (const char *) of an enrollment, in their order, due or not: at most
 * STORE_OUTBOX_RUN_MAX. */
apr_status_t store_outbox_run(store_tx_t *tx, const char *webhook, const char *id,
                              apr_array_header_t *seqs, apr_pool_t *pool);
/** The first of an enrollment's events behind this one. @return APR_ENOENT if there is none */
apr_status_t store_outbox_after(store_tx_t *tx, const char *webhook, const char *id,
                                const char *after, const char **seq, apr_pool_t *pool);
/** @return APR_ENOENT if it is gone */
apr_status_t store_outbox_load(store_tx_t *tx, const char *seq, const char **event,
                               apr_pool_t *pool);
apr_status_t store_outbox_delete(store_tx_t *tx, const char *seq);
/** Have an event that was postponed be due now. */
apr_status_t store_outbox_hurry(store_tx_t *tx, const char *seq);
apr_status_t store_outbox_postpone(store_tx_t *tx, const char *seq, apr_interval_time_t delay,
                                   apr_pool_t *pool);
/** Keep it, but deliver it no more. */
apr_status_t store_outbox_bury(store_tx_t *tx, const char *seq, const char *error,
                               apr_pool_t *pool);

/* History: commands that are finished, or were taken back, and their results. */

/** Whether finding it is an index hit.
 * @return MDM_ESCHEMA if it is not, on another server's database */
apr_status_t store_history_check(store_t *store, apr_pool_t *pool);

/** Delete a small batch of commands whose final result is older than age: their places in the
 * queue, their results, and commands that nobody has any more. Nothing a device waits for is
 * touched or locked. Only one node at a time does so: another finds nothing.
 *
 * @param deleted  rows; 0: nothing is left, or another node is at it
 */
apr_status_t store_history_finished(store_t *store, apr_interval_time_t age, int *deleted,
                                    apr_pool_t *pool);
/** Likewise for commands that a new enrollment took back, of the few enrollments behind one.
 *
 * @param after  an enrollment's id; "": from the first on
 * @param last   behind which to go on, in the pool or the one given
 * @return APR_ENOENT if there are none behind it
 */
apr_status_t store_history_cleared(store_t *store, apr_interval_time_t age, const char *after,
                                   const char **last, int *deleted, apr_pool_t *pool);

#endif
