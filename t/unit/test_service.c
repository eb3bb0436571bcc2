/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Tests the rules of the protocol: which certificate may speak for which enrollment, what each
 * check-in message does to the database, command reports and the order of the queue, enqueueing,
 * and last-seen times. Messages go through the real parsers, rows into a real database file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <apr_atomic.h>
#include <apr_general.h>
#include <apr_hash.h>
#include <apr_thread_proc.h>
#include <openssl/ec.h>
#include <openssl/evp.h>

#include "../../src/store/dialect.h"
#include "db.h"
#include "service.h"
#include "service_lastseen.h"

#define STRING(key, value) "<key>" key "</key><string>" value "</string>"
#define DATA(key, base64) "<key>" key "</key><data>" base64 "</data>"

#define D1 STRING("UDID", "D-1")
#define D2 STRING("UDID", "D-2")
#define U1 D1 STRING("UserID", "U-1") STRING("UserShortName", "ann") STRING("UserLongName", "Ann B")
#define U2 D1 STRING("UserID", "U-2")
#define SHARED                                                                                     \
    D1 STRING("UserID", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF") STRING("UserShortName", "bob")
#define E1 STRING("EnrollmentID", "E-1")
#define V1 E1 STRING("EnrollmentUserID", "V-1")
#define PUSH STRING("Topic", "com.example") STRING("PushMagic", "magic") DATA("Token", "q80A")

static db_t db;
static apr_pool_t *pool;
static service_t service;
static service_reply_t reply;
static apr_array_header_t *outcome;
static trust_certificate_t *cert1, *cert2, *cert3;
static apr_array_header_t *seen;

static EVP_PKEY *key;

static trust_certificate_t *new_certificate(void)
{
    static int serial = 1;
    X509 *x509 = X509_new();
    X509_NAME *name = X509_NAME_new();
    trust_certificate_t *cert = NULL;
    unsigned char *der = NULL;
    const char *why = NULL;
    int len;

    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)"device", -1, -1,
                               0);
    X509_set_version(x509, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x509), serial++);
    X509_set_subject_name(x509, name);
    X509_set_issuer_name(x509, name);
    X509_gmtime_adj(X509_getm_notBefore(x509), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
    X509_set_pubkey(x509, key);
    assert_true(X509_sign(x509, key, EVP_sha256()) > 0);
    X509_NAME_free(name);
    len = i2d_X509(x509, &der);
    assert_true(len > 0);
    X509_free(x509);
    assert_int_equal(trust_certificate_from_der(&cert, der, (apr_size_t)len, &why, pool),
                     APR_SUCCESS);
    OPENSSL_free(der);
    return cert;
}

static void note_seen(void *baton, const char *id)
{
    (void)baton;
    APR_ARRAY_PUSH(seen, const char *) = apr_pstrdup(pool, id);
}

static int setup(void **state)
{
    (void)state;
    db_setup(&db);
    pool = db.pool;
    memset(&service, 0, sizeof(service));
    service.store = db_store(&db);
    cert1 = new_certificate();
    cert2 = new_certificate();
    cert3 = new_certificate();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    db_teardown(&db);
    return 0;
}

/* -- What devices and administrators say ---------------------------------------------------- */

static const char *plist(const char *inside)
{
    return apr_pstrcat(pool,
                       "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<plist version=\"1.0\"><dict>",
                       inside, "</dict></plist>\n", NULL);
}

static mdm_message_t *checkin_message(const char *fields, const char *type, const char *more)
{
    const char *body = plist(
        apr_pstrcat(pool, "<key>MessageType</key><string>", type, "</string>", fields, more, NULL));
    mdm_message_t *message = NULL;
    const char *why = NULL;

    if (mdm_checkin_parse(&message, body, strlen(body), &why, pool) != APR_SUCCESS) {
        fail_msg("%s: %s", why, body);
    }
    return message;
}

static apr_status_t checkin(const char *fields, const char *type, const char *more,
                            const trust_certificate_t *cert)
{
    apr_status_t status;

    memset(&reply, 'x', sizeof(reply));
    status = service_checkin(&service, checkin_message(fields, type, more), cert, &reply, pool);
    if (status != APR_SUCCESS) {
        assert_non_null(reply.why);
        assert_null(reply.body);
    } else if (reply.body != NULL) {
        assert_int_equal(strlen(reply.body), reply.len);
    } else {
        assert_int_equal(reply.len, 0);
    }
    return status;
}

#define ok(fields, type, more, cert)                                                               \
    assert_int_equal(checkin(fields, type, more, cert), APR_SUCCESS)
#define refused(fields, type, more, cert)                                                          \
    assert_int_equal(checkin(fields, type, more, cert), MDM_EREFUSED)

static void enroll(const char *fields, const trust_certificate_t *cert)
{
    ok(fields, "Authenticate", STRING("SerialNumber", "S-1"), cert);
    ok(fields, "TokenUpdate", PUSH, cert);
}

static mdm_command_t *command_of(const char *uuid, const char *more)
{
    const char *body = plist(
        apr_pstrcat(pool, "<key>CommandUUID</key><string>", uuid,
                    "</string><key>Command</key><dict>" STRING("RequestType", "DeviceInformation"),
                    more, "</dict>\r\n\t", NULL));
    mdm_command_t *command = NULL;
    const char *why = NULL;

    assert_int_equal(mdm_command_parse(&command, body, strlen(body), &why, pool), APR_SUCCESS);
    return command;
}

static mdm_command_t *command(const char *uuid)
{
    return command_of(uuid, "");
}

/* @param names  ids with commas between */
static apr_status_t enqueue(const mdm_command_t *what, const char *names)
{
    apr_array_header_t *ids = apr_array_make(pool, 4, sizeof(const char *));
    char *last;

    for (char *id = apr_strtok(apr_pstrdup(pool, names), ",", &last); id != NULL;
         id = apr_strtok(NULL, ",", &last)) {
        APR_ARRAY_PUSH(ids, const char *) = id;
    }
    outcome = service_results(ids, pool);
    return service_enqueue(&service, what, outcome, pool);
}

static void queue(const char *uuid, const char *names)
{
    assert_int_equal(enqueue(command(uuid), names), APR_SUCCESS);
}

static void assert_queued(const char *expected)
{
    const char *text = "";

    for (int i = 0; i < outcome->nelts; i++) {
        service_result_t *one = &APR_ARRAY_IDX(outcome, i, service_result_t);

        assert_null(one->push_error);
        assert_null(one->push_result);
        text = apr_psprintf(pool, "%s%s%s:%d", text, i ? " " : "", one->id,
                            one->command_error == NULL);
    }
    assert_string_equal(text, expected);
}

static apr_status_t report(const char *fields, const char *status, const char *uuid,
                           const trust_certificate_t *cert)
{
    const char *body = plist(apr_pstrcat(pool, fields, "<key>Status</key><string>", status,
                                         "</string>", uuid ? "<key>CommandUUID</key><string>" : "",
                                         uuid ? uuid : "", uuid ? "</string>" : "", NULL));
    mdm_message_t *message = NULL;
    const char *why = NULL;
    apr_status_t result;

    assert_int_equal(mdm_report_parse(&message, body, strlen(body), &why, pool), APR_SUCCESS);
    memset(&reply, 'x', sizeof(reply));
    result = service_report(&service, message, cert, &reply, pool);
    if (result != APR_SUCCESS) {
        assert_non_null(reply.why);
        assert_null(reply.body);
    }
    return result;
}

/* The reply hands out this command, byte for byte; NULL: none. */
static void assert_next(const char *uuid)
{
    if (uuid == NULL) {
        assert_null(reply.body);
        assert_int_equal(reply.len, 0);
    } else {
        assert_non_null(reply.body);
        assert_string_equal(reply.body, command(uuid)->raw);
        assert_int_equal(reply.len, command(uuid)->raw_len);
    }
}

#define says(fields, status, uuid, next)                                                           \
    do {                                                                                           \
        assert_int_equal(report(fields, status, uuid, cert1), APR_SUCCESS);                        \
        assert_next(next);                                                                         \
    } while (0)

#define assert_count(what, expected) assert_db(&db, "SELECT count(*) FROM " what, expected)

/* -- Certificate association ---------------------------------------------------------------- */

static void test_claim(void **state)
{
    (void)state;
    ok(D1, "Authenticate", "", cert1);
    ok(D1, "Authenticate", "", cert1);
    assert_db(&db, "SELECT id || sha256 FROM cert_auth_associations",
              apr_pstrcat(pool, "D-1", cert1->sha256, NULL));
    /* no reuse, and nothing of the refused message stays */
    refused(D2, "Authenticate", "", cert1);
    assert_count("devices", "1");
    assert_count("cert_auth_associations", "1");
    /* another one joins, and the older one stays valid */
    ok(D1, "Authenticate", "", cert2);
    assert_count("cert_auth_associations", "2");
    ok(D1, "TokenUpdate", PUSH, cert1);
    ok(D1, "TokenUpdate", PUSH, cert2);
    refused(D1, "TokenUpdate", PUSH, cert3);
    refused(D2, "Authenticate", "", cert2);
    ok(D2, "Authenticate", "", cert3);
}

static void test_pair_must_exist(void **state)
{
    static const char *const device_types[] = {"TokenUpdate",       "CheckOut",
                                               "SetBootstrapToken", "GetBootstrapToken",
                                               "GetToken",          "DeclarativeManagement"};
    const char *more = PUSH STRING("TokenServiceType", "x") STRING("Endpoint", "tokens");

    (void)state;
    enroll(D1, cert1);
    enroll(D2, cert2);
    queue("C-1", "D-1");
    db_exec(&db, "UPDATE devices SET token_update = 'untouched'");
    for (int empty = 0; empty < 2; empty++) {
        service.empty_digest = empty;
        for (size_t i = 0; i < sizeof(device_types) / sizeof(device_types[0]); i++) {
            refused(D1, device_types[i], more, cert2); /* another device's */
            refused(D1, device_types[i], more, cert3); /* nobody's */
            assert_null(strstr(reply.why, "D-2"));
        }
        refused(U1, "UserAuthenticate", "", cert2);
        refused(U1, "TokenUpdate", PUSH, cert2);
        refused(U1, "CheckOut", "", cert3);
        assert_int_equal(report(D1, "Idle", NULL, cert2), MDM_EREFUSED);
        assert_int_equal(report(D1, "Acknowledged", "C-1", cert2), MDM_EREFUSED);
        assert_int_equal(report(D1, "Acknowledged", NULL, cert3), MDM_EREFUSED);
        assert_int_equal(report(U1, "NotNow", "C-1", cert3), MDM_EREFUSED);
    }
    assert_count("command_results", "0");
    assert_count("users", "0");
    assert_count("cert_auth_associations", "2");
    assert_count("devices WHERE token_update = 'untouched'", "2");
    assert_count("enrollments WHERE enabled = 1", "2");
    says(D1, "Idle", NULL, "C-1");
}

/* Devices that were there before their certificates were known. */
static void forget_associations(void)
{
    enroll(D1, cert1);
    enroll(D2, cert2);
    db_exec(&db, "DELETE FROM cert_auth_associations");
}

static void test_retroactive_off(void **state)
{
    (void)state;
    forget_associations();
    refused(D1, "TokenUpdate", PUSH, cert1);
    assert_int_equal(report(D1, "Idle", NULL, cert1), MDM_EREFUSED);
    assert_count("cert_auth_associations", "0");
}

static void test_retroactive_on(void **state)
{
    static const char *const types[] = {"TokenUpdate", "CheckOut", "SetBootstrapToken",
                                        "GetBootstrapToken"};

    (void)state;
    forget_associations();
    service.retroactive = 1;
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        db_exec(&db, "DELETE FROM cert_auth_associations");
        ok(D1, types[i], PUSH, cert1);
        assert_db(&db, "SELECT id || sha256 FROM cert_auth_associations",
                  apr_pstrcat(pool, "D-1", cert1->sha256, NULL));
        refused(D1, types[i], PUSH, cert3); /* has one: never another this way */
        refused(D2, types[i], PUSH, cert1); /* somebody else's */
        assert_int_equal(report(D1, "Idle", NULL, cert3), MDM_EREFUSED);
        assert_int_equal(report(D2, "Idle", NULL, cert1), MDM_EREFUSED);
        assert_int_equal(report(D2, "Acknowledged", "C", cert1), MDM_EREFUSED);
        assert_count("cert_auth_associations", "1");
    }
    ok(D1, "Authenticate", "", cert3); /* but by Authenticate */
    /* the user channel takes it for its device */
    db_exec(&db, "DELETE FROM cert_auth_associations");
    ok(U1, "TokenUpdate", PUSH, cert1);
    assert_db(&db, "SELECT id FROM cert_auth_associations", "D-1");
    ok(D1, "TokenUpdate", PUSH, cert1);
}

static void test_retroactive_report(void **state)
{
    static const char *const statuses[] = {"Idle", "Acknowledged", "NotNow", "Error"};

    (void)state;
    forget_associations();
    service.retroactive = 1;
    queue("C-1", "D-1");
    for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++) {
        db_exec(&db, "DELETE FROM cert_auth_associations; DELETE FROM command_results;"
                     " UPDATE enrollment_queue SET active = 1");
        says(D1, statuses[i], i ? "C-1" : NULL, i ? NULL : "C-1");
        assert_count("cert_auth_associations", "1");
        assert_count("command_results", i ? "1" : "0");
    }
    db_exec(&db, "DELETE FROM cert_auth_associations; DELETE FROM command_results;"
                 " UPDATE enrollment_queue SET active = 1");
    says(D1, "Acknowledged", NULL, "C-1"); /* no CommandUUID */
    assert_count("cert_auth_associations", "1");
}

/* A message that is refused for another reason takes no certificate either. */
static void test_retroactive_with_failure(void **state)
{
    (void)state;
    service.retroactive = 1;
    assert_int_equal(checkin(D1, "TokenUpdate", PUSH, cert1), MDM_EINPUT);
    assert_int_equal(checkin(D1, "SetBootstrapToken", DATA("BootstrapToken", "QQ=="), cert1),
                     MDM_EINPUT);
    assert_count("cert_auth_associations", "0");
}

static void test_identify(void **state)
{
    const char *id = NULL;

    (void)state;
    assert_int_equal(service_identify(&service, cert1, &id, pool), MDM_EREFUSED);
    assert_null(id);
    enroll(D1, cert1);
    assert_int_equal(service_identify(&service, cert1, &id, pool), APR_SUCCESS);
    assert_string_equal(id, "D-1");
    assert_int_equal(service_identify(&service, cert2, &id, pool), MDM_EREFUSED);
}

typedef struct racer_t {
    const mdm_message_t *message;
    const trust_certificate_t *cert;
    apr_uint32_t *ready;
    apr_status_t status;
} racer_t;

static void *APR_THREAD_FUNC race(apr_thread_t *thread, void *baton)
{
    racer_t *racer = baton;
    service_reply_t own;

    apr_atomic_inc32(racer->ready);
    while (apr_atomic_read32(racer->ready) < 2) {
    }
    racer->status =
        service_checkin(&service, racer->message, racer->cert, &own, apr_thread_pool_get(thread));
    return NULL;
}

static void race_for(const char *type, const char *more)
{
    trust_certificate_t *cert = new_certificate();
    apr_uint32_t ready = 0;
    racer_t racers[2] = {{checkin_message(D1, type, more), cert, &ready, -1},
                         {checkin_message(D2, type, more), cert, &ready, -1}};
    apr_thread_t *threads[2];

    for (int i = 0; i < 2; i++) {
        assert_int_equal(apr_thread_create(&threads[i], NULL, race, &racers[i], pool), APR_SUCCESS);
    }
    for (int i = 0; i < 2; i++) {
        apr_status_t status;

        apr_thread_join(&status, threads[i]);
    }
    if (!(racers[0].status == APR_SUCCESS && racers[1].status == MDM_EREFUSED) &&
        !(racers[1].status == APR_SUCCESS && racers[0].status == MDM_EREFUSED)) {
        fail_msg("%s: one is to win, and they got %d and %d", type, (int)racers[0].status,
                 (int)racers[1].status);
    }
    assert_db(&db,
              apr_psprintf(pool, "SELECT count(*) FROM cert_auth_associations WHERE sha256 = '%s'",
                           cert->sha256),
              "1");
}

static void test_race(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        race_for("Authenticate", "");
    }
    enroll(D1, cert1); /* it may have lost each time */
    enroll(D2, cert2);
    service.retroactive = 1;
    for (int i = 0; i < 20; i++) {
        db_exec(&db, "DELETE FROM cert_auth_associations");
        race_for("TokenUpdate", PUSH);
    }
}

/* -- Check-in messages ---------------------------------------------------------------------- */

static void test_authenticate(void **state)
{
    const mdm_message_t *message;

    (void)state;
    ok(D1, "Authenticate", STRING("SerialNumber", "S-1"), cert1);
    assert_null(reply.body);
    message = checkin_message(D1, "Authenticate", STRING("SerialNumber", "S-1"));
    assert_db(&db, "SELECT authenticate FROM devices", message->raw);
    assert_db(&db, "SELECT identity_cert FROM devices", trust_certificate_to_pem(cert1, pool));
    assert_db(&db, "SELECT serial_number FROM devices", "S-1");
    assert_db(&db,
              "SELECT (authenticate_at >= datetime('now', '-9 seconds')) ||"
              " (unlock_token IS NULL) || (token_update IS NULL) FROM devices",
              "111");
    assert_count("enrollments", "0");
    /* a renewed certificate, and no serial number */
    ok(D1, "Authenticate", "", cert2);
    assert_db(&db, "SELECT identity_cert FROM devices", trust_certificate_to_pem(cert2, pool));
    assert_count("devices WHERE serial_number IS NULL", "1");
    assert_count("devices", "1");
}

static void test_authenticate_again(void **state)
{
    (void)state;
    enroll(D1, cert1);
    enroll(D2, cert2);
    ok(U1, "TokenUpdate", PUSH, cert1);
    ok(U2, "TokenUpdate", PUSH, cert1);
    ok(D1, "SetBootstrapToken", DATA("BootstrapToken", "QUJD"), cert1);
    ok(D2, "SetBootstrapToken", DATA("BootstrapToken", "QUJD"), cert2);
    queue("C-1", "D-1,D-2,D-1:U-1");
    queue("C-2", "D-1,D-2,D-1:U-1");
    queue("C-3", "D-1,D-2,D-1:U-1,D-1:U-2");
    says(D1, "Acknowledged", "C-1", "C-2");
    says(D1, "NotNow", "C-2", "C-3");

    ok(D1, "Authenticate", "", cert1);
    assert_db(&db, "SELECT id FROM devices WHERE bootstrap_token_b64 IS NOT NULL", "D-2");
    assert_db(&db, "SELECT id FROM devices WHERE bootstrap_token_at IS NOT NULL", "D-2");
    assert_db(&db, "SELECT DISTINCT id FROM enrollment_queue WHERE active = 1", "D-2");
    assert_count("enrollment_queue", "10");
    assert_count("command_results", "2");
    assert_db(&db, "SELECT id FROM enrollments WHERE enabled = 1", "D-2");
    assert_db(&db, "SELECT id FROM enrollments WHERE token_update_tally <> 0", "D-2");
    says(D1, "Idle", NULL, NULL);

    /* the tally begins anew; a user channel comes back by its own TokenUpdate only */
    ok(D1, "TokenUpdate", PUSH, cert1);
    assert_db(&db,
              "SELECT id || ' ' || enabled || ' ' || token_update_tally FROM enrollments"
              " ORDER BY id",
              "D-1 1 1\nD-1:U-1 0 0\nD-1:U-2 0 0\nD-2 1 1");
    says(D1, "Idle", NULL, NULL);
    queue("C-4", "D-1");
    says(D1, "Idle", NULL, "C-4");
    assert_int_equal(report(D2, "Idle", NULL, cert2), APR_SUCCESS);
    assert_next("C-1");
}

static void test_token_update(void **state)
{
    (void)state;
    ok(D1, "Authenticate", "", cert1);
    ok(D1, "TokenUpdate", PUSH, cert1);
    assert_null(reply.body);
    assert_db(&db,
              "SELECT id || '|' || device_id || '|' || ifnull(user_id, 'NULL') || '|' || type ||"
              " '|' || topic || '|' || push_magic || '|' || token_hex || '|' || enabled || '|' ||"
              " token_update_tally FROM enrollments",
              "D-1|D-1|NULL|Device|com.example|magic|abcd00|1|1");
    assert_db(&db, "SELECT token_update FROM devices",
              checkin_message(D1, "TokenUpdate", PUSH)->raw);
    assert_count("devices WHERE token_update_at >= datetime('now', '-9 seconds')", "1");
    assert_count("enrollments WHERE last_seen_at >= datetime('now', '-9 seconds')", "1");

    db_exec(&db, "UPDATE enrollments SET enabled = 0, last_seen_at = '2000-01-01 00:00:00'");
    ok(D1, "TokenUpdate", STRING("Topic", "t2") STRING("PushMagic", "m2") DATA("Token", "/w=="),
       cert1);
    assert_db(&db,
              "SELECT topic || '|' || push_magic || '|' || token_hex || '|' || enabled || '|' ||"
              " token_update_tally FROM enrollments",
              "t2|m2|ff|1|2");
    assert_count("enrollments WHERE last_seen_at >= datetime('now', '-9 seconds')", "1");
    ok(D1, "TokenUpdate", PUSH, cert1);
    assert_db(&db, "SELECT token_update_tally FROM enrollments", "3");
}

static void test_unlock_token(void **state)
{
    (void)state;
    ok(D1, "Authenticate", "", cert1);
    ok(D1, "TokenUpdate", PUSH DATA("UnlockToken", "AAEAAg=="), cert1);
    assert_db(&db, "SELECT hex(unlock_token) FROM devices", "00010002");
    assert_count("devices WHERE unlock_token_at IS NOT NULL", "1");
    ok(D1, "TokenUpdate", PUSH, cert1);
    assert_db(&db, "SELECT hex(unlock_token) FROM devices", "00010002");
    ok(D1, "TokenUpdate", PUSH DATA("UnlockToken", ""), cert1);
    assert_db(&db, "SELECT hex(unlock_token) FROM devices", "00010002");
    ok(D1, "TokenUpdate", PUSH DATA("UnlockToken", "AA=="), cert1);
    assert_db(&db, "SELECT hex(unlock_token) FROM devices", "00");
}

static void test_token_update_without_authenticate(void **state)
{
    (void)state;
    refused(D1, "TokenUpdate", PUSH, cert1);
    assert_int_equal(checkin(D1, "TokenUpdate", PUSH, NULL), MDM_EINPUT);
    assert_int_equal(checkin(U1, "TokenUpdate", PUSH, NULL), MDM_EINPUT);
    assert_count("enrollments", "0");
    assert_count("users", "0");
    assert_count("devices", "0");
}

static void test_user_channel(void **state)
{
    (void)state;
    ok(D1, "Authenticate", "", cert1);
    ok(U1, "TokenUpdate", PUSH, cert1);
    assert_db(&db,
              "SELECT id || '|' || device_id || '|' || user_short_name || '|' || user_long_name"
              " FROM users",
              "D-1:U-1|D-1|ann|Ann B");
    assert_db(&db, "SELECT token_update FROM users", checkin_message(U1, "TokenUpdate", PUSH)->raw);
    assert_db(&db,
              "SELECT id || '|' || device_id || '|' || user_id || '|' || type || '|' || enabled ||"
              " '|' || token_update_tally FROM enrollments",
              "D-1:U-1|D-1|D-1:U-1|User|1|1");
    assert_count("devices WHERE token_update IS NULL", "1");
    ok(U1, "TokenUpdate", PUSH, cert1);
    ok(U2, "TokenUpdate", PUSH, cert1); /* without names */
    assert_db(&db, "SELECT group_concat(token_update_tally) FROM enrollments", "2,1");
    assert_count("users WHERE user_short_name IS NULL AND user_long_name IS NULL", "1");

    /* its queue is its own */
    ok(D1, "TokenUpdate", PUSH, cert1);
    queue("C-1", "D-1:U-1");
    says(D1, "Idle", NULL, NULL);
    says(U2, "Idle", NULL, NULL);
    says(U1, "Idle", NULL, "C-1");
    says(D1, "Acknowledged", "C-1", NULL);
    assert_count("command_results", "0");
    says(U1, "Acknowledged", "C-1", NULL);
    assert_db(&db, "SELECT id FROM command_results", "D-1:U-1");
}

static void test_shared_ipad(void **state)
{
    (void)state;
    enroll(D1, cert1);
    ok(SHARED, "TokenUpdate", PUSH, cert1);
    assert_db(&db,
              "SELECT id || '|' || device_id || '|' || user_id || '|' || type FROM enrollments"
              " WHERE user_id IS NOT NULL",
              "D-1:bob|D-1|D-1:bob|Shared iPad");
    assert_db(&db, "SELECT id || '|' || user_short_name FROM users", "D-1:bob|bob");
    queue("C-1", "D-1:bob");
    says(SHARED, "Idle", NULL, "C-1");
}

static void test_user_enrollment(void **state)
{
    (void)state;
    enroll(E1, cert1);
    ok(V1, "TokenUpdate", PUSH, cert1);
    assert_db(&db,
              "SELECT id || '|' || device_id || '|' || ifnull(user_id, 'NULL') || '|' || type"
              " FROM enrollments ORDER BY id",
              "E-1|E-1|NULL|User Enrollment (Device)\nE-1:V-1|E-1|E-1:V-1|User Enrollment");
    assert_db(&db, "SELECT id FROM devices", "E-1");
    assert_db(&db, "SELECT id FROM cert_auth_associations", "E-1");
    ok(V1, "CheckOut", "", cert1);
    assert_db(&db, "SELECT id FROM enrollments WHERE enabled = 1", "E-1");
}

static void test_check_out(void **state)
{
    const char *const rows = "SELECT id || ' ' || enabled || ' ' || token_update_tally"
                             " FROM enrollments ORDER BY id";

    (void)state;
    enroll(D1, cert1);
    enroll(D2, cert2);
    ok(U1, "TokenUpdate", PUSH, cert1);
    ok(U2, "TokenUpdate", PUSH, cert1);
    queue("C-1", "D-1,D-1:U-1");
    ok(U1, "CheckOut", "", cert1);
    assert_null(reply.body);
    assert_db(&db, rows, "D-1 1 1\nD-1:U-1 0 0\nD-1:U-2 1 1\nD-2 1 1");
    ok(D1, "CheckOut", "", cert1);
    assert_null(reply.body);
    assert_db(&db, rows, "D-1 0 0\nD-1:U-1 0 0\nD-1:U-2 0 0\nD-2 1 1");
    ok(D1, "CheckOut", "", cert1);

    /* still served, and commands still reach its queue */
    says(D1, "Idle", NULL, "C-1");
    says(U1, "Idle", NULL, "C-1");
    queue("C-2", "D-1");
    says(D1, "Acknowledged", "C-1", "C-2");
    assert_db(&db, rows, "D-1 0 0\nD-1:U-1 0 0\nD-1:U-2 0 0\nD-2 1 1");
}

static void test_bootstrap_token(void **state)
{
    (void)state;
    ok(D1, "Authenticate", "", cert1);
    ok(D1, "GetBootstrapToken", "", cert1);
    assert_null(reply.body);
    ok(D1, "SetBootstrapToken", DATA("BootstrapToken", "\n AAEC\n /w== \n"), cert1);
    assert_null(reply.body);
    assert_db(&db, "SELECT bootstrap_token_b64 FROM devices", "AAEC/w==");
    assert_count("devices WHERE bootstrap_token_at IS NOT NULL", "1");
    ok(D1, "GetBootstrapToken", "", cert1);
    assert_non_null(reply.body);
    assert_memory_equal(reply.body, "<?xml", 5);
    assert_non_null(strstr(reply.body, "<key>BootstrapToken</key>"));
    assert_non_null(strstr(reply.body, "AAEC/w=="));

    ok(D1, "SetBootstrapToken", "", cert1);
    assert_count("devices WHERE bootstrap_token_b64 IS NULL AND bootstrap_token_at IS NULL", "1");
    ok(D1, "GetBootstrapToken", "", cert1);
    assert_null(reply.body);
    ok(D1, "SetBootstrapToken", DATA("BootstrapToken", "QQ=="), cert1);
    ok(D1, "SetBootstrapToken", DATA("BootstrapToken", ""), cert1);
    assert_db_null(&db, "SELECT bootstrap_token_b64 FROM devices");
    ok(D1, "SetBootstrapToken", "", cert1); /* nothing to clear */

    service.retroactive = 1; /* takes the way of a transaction */
    ok(D1, "SetBootstrapToken", DATA("BootstrapToken", "QQ=="), cert1);
    ok(D1, "GetBootstrapToken", "", cert1);
    assert_non_null(strstr(reply.body, "QQ=="));
}

static void test_user_authenticate_declines(void **state)
{
    (void)state;
    enroll(D1, cert1);
    for (int retroactive = 0; retroactive < 2; retroactive++) {
        service.retroactive = retroactive;
        assert_int_equal(checkin(U1, "UserAuthenticate", "", cert1), MDM_EDECLINED);
        ok(U1, "UserAuthenticate", STRING("DigestResponse", "answer"), cert1);
        assert_null(reply.body);
    }
    assert_count("users", "0");
}

static void test_user_authenticate_empty_digest(void **state)
{
    (void)state;
    enroll(D1, cert1);
    service.empty_digest = 1;
    ok(U1, "UserAuthenticate", "", cert1);
    assert_non_null(reply.body);
    assert_memory_equal(reply.body, "<?xml", 5);
    assert_non_null(strstr(reply.body, "<key>DigestChallenge</key>"));
    assert_true(strstr(reply.body, "<string></string>") || strstr(reply.body, "<string/>"));
    assert_db(&db, "SELECT user_authenticate FROM users",
              checkin_message(U1, "UserAuthenticate", "")->raw);
    assert_count("users WHERE user_authenticate_digest IS NULL", "1");

    ok(U1, "UserAuthenticate", STRING("DigestResponse", "answer"), cert1);
    assert_null(reply.body);
    assert_db(&db, "SELECT user_authenticate_digest FROM users",
              checkin_message(U1, "UserAuthenticate", STRING("DigestResponse", "answer"))->raw);
    assert_db(&db, "SELECT user_authenticate FROM users",
              checkin_message(U1, "UserAuthenticate", "")->raw);
    assert_count("users WHERE user_authenticate_at IS NOT NULL"
                 " AND user_authenticate_digest_at IS NOT NULL",
                 "1");
    assert_count("enrollments", "1");
    ok(U1, "TokenUpdate", PUSH, cert1);
    assert_count("users WHERE user_authenticate IS NOT NULL AND token_update IS NOT NULL", "1");
    assert_int_equal(
        checkin(STRING("UDID", "D-9") STRING("UserID", "U"), "UserAuthenticate", "", NULL),
        MDM_EINPUT);
}

static void test_get_token(void **state)
{
    const service_token_t token = {(const unsigned char *)"\0\1\2\377", 4};

    (void)state;
    enroll(D1, cert1);
    assert_int_equal(checkin(D1, "GetToken", STRING("TokenServiceType", "com.apple.maid"), cert1),
                     MDM_EINPUT);
    service.get_token = apr_hash_make(pool);
    apr_hash_set(service.get_token, "com.apple.maid", APR_HASH_KEY_STRING, &token);
    ok(D1, "GetToken", STRING("TokenServiceType", "com.apple.maid"), cert1);
    assert_non_null(strstr(reply.body, "<key>TokenData</key>"));
    assert_non_null(strstr(reply.body, "AAEC/w=="));
    assert_int_equal(checkin(D1, "GetToken", STRING("TokenServiceType", "other"), cert1),
                     MDM_EINPUT);
    assert_int_equal(checkin(D1, "GetToken", "", cert1), MDM_EINPUT);
}

static void test_declarative_management(void **state)
{
    (void)state;
    enroll(D1, cert1);
    assert_int_equal(checkin(D1, "DeclarativeManagement", STRING("Endpoint", "tokens"), cert1),
                     MDM_ENOTCONFIGURED);
    ok(U1, "TokenUpdate", PUSH, cert1);
    assert_int_equal(checkin(U1, "DeclarativeManagement", STRING("Endpoint", "tokens"), cert1),
                     MDM_ENOTCONFIGURED);
}

static void test_migration(void **state)
{
    (void)state;
    enroll(D1, NULL);
    assert_count("cert_auth_associations", "0");
    assert_count("devices WHERE identity_cert IS NULL", "1");
    assert_count("enrollments WHERE enabled = 1", "1");
    ok(D1, "SetBootstrapToken", DATA("BootstrapToken", "QQ=="), NULL);
    ok(U1, "TokenUpdate", PUSH, NULL);

    db_exec(&db, "DELETE FROM devices");
    enroll(D1, cert1);
    ok(D1, "Authenticate", STRING("SerialNumber", "S-9"), NULL);
    assert_db(&db, "SELECT identity_cert FROM devices", trust_certificate_to_pem(cert1, pool));
    assert_db(&db, "SELECT serial_number FROM devices", "S-9");
    assert_count("cert_auth_associations", "1");
    service.retroactive = 1;
    ok(D2, "Authenticate", "", NULL);
    ok(D2, "TokenUpdate", PUSH, NULL);
    assert_count("cert_auth_associations", "1");
    assert_int_equal(report(D2, "Idle", NULL, cert2), APR_SUCCESS);
    assert_count("cert_auth_associations", "2");
}

static void test_seen(void **state)
{
    (void)state;
    seen = apr_array_make(pool, 8, sizeof(const char *));
    service.seen = note_seen;
    refused(D1, "TokenUpdate", PUSH, cert1);
    assert_int_equal(report(D1, "Idle", NULL, cert1), MDM_EREFUSED);
    assert_int_equal(seen->nelts, 0);
    enroll(D1, cert1);
    ok(U1, "TokenUpdate", PUSH, cert1);
    seen->nelts = 0;
    says(U1, "Idle", NULL, NULL);
    says(D1, "Acknowledged", "unknown", NULL);
    assert_int_equal(seen->nelts, 2);
    assert_string_equal(APR_ARRAY_IDX(seen, 0, const char *), "D-1:U-1");
    assert_string_equal(APR_ARRAY_IDX(seen, 1, const char *), "D-1");
}

/* -- Reports and the queue ------------------------------------------------------------------ */

static const char *result_row(const char *uuid)
{
    return db_value(&db, apr_psprintf(pool,
                                      "SELECT r.status || ' ' || r.not_now_tally || ' ' ||"
                                      " (r.not_now_at IS NOT NULL) || ' ' || q.active"
                                      " FROM command_results AS r NATURAL JOIN"
                                      " (SELECT id, command_uuid, active FROM enrollment_queue)"
                                      " AS q WHERE command_uuid = '%s'",
                                      uuid));
}

static void test_empty_queue(void **state)
{
    (void)state;
    enroll(D1, cert1);
    says(D1, "Idle", NULL, NULL);
    assert_null(reply.why);
}

static void test_results(void **state)
{
    static const char *const finals[] = {"Acknowledged", "Error", "CommandFormatError",
                                         "SomethingNew"};

    (void)state;
    enroll(D1, cert1);
    for (int i = 0; i < 4; i++) {
        queue(apr_psprintf(pool, "C-%d", i), "D-1");
    }
    for (int i = 0; i < 4; i++) {
        const char *uuid = apr_psprintf(pool, "C-%d", i);

        says(D1, "Idle", NULL, uuid);
        says(D1, "Idle", NULL, uuid); /* handed out until it is answered */
        says(D1, finals[i], uuid, i < 3 ? apr_psprintf(pool, "C-%d", i + 1) : NULL);
        assert_string_equal(result_row(uuid), apr_psprintf(pool, "%s 0 0 0", finals[i]));
    }
    assert_db(&db, "SELECT result FROM command_results WHERE command_uuid = 'C-0'",
              plist(D1 STRING("Status", "Acknowledged") STRING("CommandUUID", "C-0")));
    says(D1, "Idle", NULL, NULL);
    /* repeats overwrite */
    says(D1, "Error", "C-0", NULL);
    assert_string_equal(result_row("C-0"), "Error 0 0 0");
    says(D1, "Acknowledged", "C-0", NULL);
    says(D1, "Acknowledged", "C-0", NULL);
    assert_string_equal(result_row("C-0"), "Acknowledged 0 0 0");
    assert_count("command_results", "4");
}

static void test_not_now(void **state)
{
    const char *first;

    (void)state;
    enroll(D1, cert1);
    queue("C-1", "D-1");
    queue("C-2", "D-1");
    queue("C-3", "D-1");
    says(D1, "Idle", NULL, "C-1");
    says(D1, "NotNow", "C-1", "C-2");
    assert_string_equal(result_row("C-1"), "NotNow 1 1 1");
    db_exec(&db, "UPDATE command_results SET not_now_at = '2001-01-01 00:00:00'");
    says(D1, "NotNow", "C-2", "C-3");
    says(D1, "NotNow", "C-3", NULL);
    /* any other report offers them again, in their order */
    says(D1, "Idle", NULL, "C-1");
    says(D1, "NotNow", "C-1", NULL);
    assert_string_equal(result_row("C-1"), "NotNow 2 1 1");
    first = db_value(&db, "SELECT not_now_at FROM command_results WHERE command_uuid = 'C-1'");
    assert_string_equal(first, "2001-01-01 00:00:00"); /* the first time stays */
    says(D1, "Acknowledged", "C-2", "C-1");
    says(D1, "Acknowledged", "C-1", "C-3");
    assert_string_equal(result_row("C-1"), "Acknowledged 2 1 0");
    /* never replaces a final status, and is no failure */
    says(D1, "NotNow", "C-1", NULL);
    assert_string_equal(result_row("C-1"), "Acknowledged 2 1 0");
    assert_db(&db, "SELECT result FROM command_results WHERE command_uuid = 'C-1'",
              plist(D1 STRING("Status", "Acknowledged") STRING("CommandUUID", "C-1")));
    says(D1, "SomethingNew", "C-3", NULL);
    says(D1, "NotNow", "C-3", NULL);
    assert_string_equal(result_row("C-3"), "SomethingNew 1 1 0");
    says(D1, "Idle", NULL, NULL);
}

static void test_not_now_and_new(void **state)
{
    (void)state;
    enroll(D1, cert1);
    queue("C-1", "D-1");
    says(D1, "NotNow", "C-1", NULL);
    queue("C-2", "D-1");
    says(D1, "NotNow", "C-1", "C-2"); /* not the skipped one */
    says(D1, "Idle", NULL, "C-1");
    says(D1, "NotNow", NULL, "C-2"); /* no CommandUUID, but still NotNow */
}

static void test_reports_of_nothing(void **state)
{
    (void)state;
    enroll(D1, cert1);
    enroll(D2, cert2);
    queue("C-1", "D-1");
    queue("C-2", "D-2");
    says(D1, "Acknowledged", "unknown", "C-1");
    assert_non_null(reply.why);
    says(D1, "NotNow", "unknown", "C-1");
    says(D1, "Acknowledged", "C-2", "C-1"); /* somebody else's */
    says(D1, "Acknowledged", NULL, "C-1");
    assert_non_null(reply.why);
    says(D1, "Error", NULL, "C-1");
    /* a user channel that has sent no TokenUpdate */
    says(U1, "Idle", NULL, NULL);
    says(U1, "Acknowledged", "C-1", NULL);
    says(U1, "NotNow", "C-1", NULL);
    assert_non_null(reply.why);
    assert_count("command_results", "0");
    assert_count("enrollment_queue WHERE active = 1", "2");
    /* Idle with a CommandUUID is just Idle */
    says(D1, "Idle", "C-1", "C-1");
    assert_count("command_results", "0");
}

/* A device between Authenticate and TokenUpdate has an association and no enrollment. */
static void test_report_before_token_update(void **state)
{
    (void)state;
    ok(D1, "Authenticate", "", cert1);
    says(D1, "Idle", NULL, NULL);
    says(D1, "Acknowledged", "C-1", NULL);
    assert_count("command_results", "0");
}

static void test_result_is_one_transaction(void **state)
{
    (void)state;
    enroll(D1, cert1);
    queue("C-1", "D-1");
    db_exec(&db, "CREATE TRIGGER no_finish BEFORE UPDATE OF active ON enrollment_queue"
                 " BEGIN SELECT RAISE(ABORT, 'no'); END");
    assert_int_equal(report(D1, "Acknowledged", "C-1", cert1), MDM_EUNAVAILABLE);
    assert_count("command_results", "0");
    db_exec(&db, "DROP TRIGGER no_finish");
    says(D1, "Acknowledged", "C-1", NULL);
    assert_string_equal(result_row("C-1"), "Acknowledged 0 0 0");
}

static void test_outage(void **state)
{
    (void)state;
    enroll(D1, cert1);
    queue("C-1", "D-1");
    db_exec(&db, "PRAGMA legacy_alter_table = ON; ALTER TABLE cert_auth_associations RENAME TO x");
    for (int retroactive = 0; retroactive < 2; retroactive++) {
        const char *id;

        service.retroactive = retroactive;
        assert_int_equal(checkin(D1, "TokenUpdate", PUSH, cert1), MDM_EUNAVAILABLE);
        assert_int_equal(checkin(D1, "GetBootstrapToken", "", cert1), MDM_EUNAVAILABLE);
        assert_int_equal(checkin(D2, "Authenticate", "", cert2), MDM_EUNAVAILABLE);
        assert_int_equal(report(D1, "Idle", NULL, cert1), MDM_EUNAVAILABLE);
        assert_int_equal(report(D1, "Acknowledged", "C-1", cert1), MDM_EUNAVAILABLE);
        assert_int_equal(service_identify(&service, cert1, &id, pool), MDM_EUNAVAILABLE);
    }
    db_exec(&db, "PRAGMA legacy_alter_table = ON; ALTER TABLE x RENAME TO cert_auth_associations");
    says(D1, "Idle", NULL, "C-1");
    db_exec(&db, "PRAGMA legacy_alter_table = ON; ALTER TABLE enrollments RENAME TO x");
    assert_int_equal(enqueue(command("C-2"), "D-1"), MDM_EUNAVAILABLE);
    db_exec(&db, "PRAGMA legacy_alter_table = ON; ALTER TABLE x RENAME TO enrollments");
    assert_count("commands", "1");
    assert_count("devices", "1");
}

static void test_priority_and_order(void **state)
{
    (void)state;
    enroll(D1, cert1);
    /* names that sort otherwise than they came */
    for (int i = 0; i < 200; i++) {
        queue(apr_psprintf(pool, "C-%d", i * 37 % 200), "D-1");
    }
    db_exec(&db, "UPDATE enrollment_queue SET created_at = '2001-01-01 00:00:00'");
    db_exec(&db, "UPDATE enrollment_queue SET priority = 5 WHERE command_uuid = 'C-150';"
                 " UPDATE enrollment_queue SET priority = 9 WHERE command_uuid = 'C-3';"
                 " UPDATE enrollment_queue SET priority = -1 WHERE command_uuid = 'C-0'");
    says(D1, "Idle", NULL, "C-3");
    says(D1, "Acknowledged", "C-3", "C-150");
    assert_int_equal(report(D1, "Acknowledged", "C-150", cert1), APR_SUCCESS);
    for (int i = 1; i < 200; i++) {
        const char *uuid = apr_psprintf(pool, "C-%d", i * 37 % 200);

        if (strcmp(uuid, "C-3") != 0 && strcmp(uuid, "C-150") != 0) {
            assert_next(uuid);
            assert_int_equal(report(D1, "Acknowledged", uuid, cert1), APR_SUCCESS);
        }
    }
    assert_next("C-0");
    says(D1, "Acknowledged", "C-0", NULL);
}

/* The lookup must not read a device's history: it walks its index, in order. */
static void test_query_plan(void **state)
{
    static const statement_t statements[] = {STMT_QUEUE_LOAD_NEXT, STMT_QUEUE_LOAD_NEXT_NOT_NOW};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        const char *sql = dialect_statement(dialect_get("sqlite3"), statements[i]);
        char *text = apr_pstrcat(pool, "EXPLAIN QUERY PLAN ", sql, NULL);
        const char *plan = "";
        apr_dbd_row_t *row = NULL;
        apr_dbd_results_t *results = NULL;
        const apr_dbd_driver_t *driver = db_driver(pool);
        apr_dbd_t *handle = db_open(&db, driver, pool);
        char *at;

        while ((at = strstr(text, "{p}")) != NULL) {
            memmove(at, at + 3, strlen(at + 3) + 1);
        }
        while ((at = strstr(text, "%s")) != NULL) {
            at[0] = '?';
            at[1] = ' ';
        }
        assert_int_equal(apr_dbd_select(driver, pool, handle, &results, text, 1), 0);
        for (int n = 1; apr_dbd_get_row(driver, pool, results, &row, n) == 0; n++) {
            plan = apr_pstrcat(pool, plan, apr_dbd_get_entry(driver, row, 3), "\n", NULL);
            row = NULL;
        }
        apr_dbd_close(driver, handle);
        if (strstr(plan, "SEARCH q USING INDEX enrollment_queue_next (id=? AND active=?)") ==
                NULL ||
            strstr(plan, "SCAN q") || strstr(plan, "SCAN r") || strstr(plan, "TEMP B-TREE")) {
            fail_msg("%s", plan);
        }
    }
}

/* -- Enqueue -------------------------------------------------------------------------------- */

static void test_enqueue(void **state)
{
    (void)state;
    enroll(D1, cert1);
    enroll(D2, cert2);
    assert_int_equal(enqueue(command("C-1"), "D-2,X-1,D-1,D-2,X-1,D-1"), APR_SUCCESS);
    assert_queued("D-2:1 X-1:0 D-1:1");
    assert_db(&db, "SELECT id FROM enrollment_queue ORDER BY id", "D-1\nD-2");
    assert_db(&db, "SELECT request_type FROM commands", "DeviceInformation");
    assert_db(&db, "SELECT command FROM commands", command("C-1")->raw);
    assert_count("enrollment_queue WHERE active = 1 AND priority = 0", "2");
}

static void test_enqueue_unknown(void **state)
{
    (void)state;
    ok(D1, "Authenticate", "", cert1); /* not yet enrolled */
    assert_int_equal(enqueue(command("C-1"), "D-1,X-1,D-1:U-1"), APR_ENOENT);
    assert_queued("D-1:0 X-1:0 D-1:U-1:0");
    assert_count("commands", "0");
    assert_count("enrollment_queue", "0");
    ok(D1, "TokenUpdate", PUSH, cert1);
    assert_int_equal(enqueue(command("C-1"), "d-1,D-1 , D-1"), APR_ENOENT);
    assert_int_equal(enqueue(command("C-1"), ""), APR_ENOENT);
    assert_int_equal(enqueue(command("C-1"), "D-1"), APR_SUCCESS);
}

static void test_enqueue_again(void **state)
{
    (void)state;
    enroll(D1, cert1);
    enroll(D2, cert2);
    queue("C-1", "D-1");
    assert_int_equal(enqueue(command("C-1"), "D-1,D-2"), APR_SUCCESS);
    assert_queued("D-1:1 D-2:1");
    assert_count("enrollment_queue", "2");
    says(D1, "Acknowledged", "C-1", NULL);
    assert_int_equal(enqueue(command("C-1"), "D-1"), APR_SUCCESS);
    assert_queued("D-1:1");
    says(D1, "Idle", NULL, NULL); /* not queued again */
    assert_count("enrollment_queue", "2");

    enroll(E1, cert3);
    assert_int_equal(enqueue(command_of("C-1", STRING("More", "x")), "D-1,E-1"), MDM_ECONFLICT);
    assert_count("enrollment_queue", "2");
    assert_db(&db, "SELECT command FROM commands", command("C-1")->raw);
}

static void enqueue_many(int count)
{
    apr_array_header_t *ids = apr_array_make(pool, count + 1, sizeof(const char *));
    const char *uuid = apr_psprintf(pool, "C-%d", count);
    int known = 0;

    for (int i = count; i > 0; i--) {
        APR_ARRAY_PUSH(ids, const char *) = apr_psprintf(pool, "D-%05d", i);
    }
    APR_ARRAY_PUSH(ids, const char *) = "X-1";
    outcome = service_results(ids, pool);
    assert_int_equal(service_enqueue(&service, command(uuid), outcome, pool), APR_SUCCESS);
    assert_int_equal(outcome->nelts, count + 1);
    for (int i = 0; i < outcome->nelts; i++) {
        assert_ptr_equal(APR_ARRAY_IDX(outcome, i, service_result_t).id,
                         APR_ARRAY_IDX(ids, i, const char *));
        known += APR_ARRAY_IDX(outcome, i, service_result_t).command_error == NULL;
    }
    assert_int_equal(known, count);
    assert_non_null(APR_ARRAY_IDX(outcome, count, service_result_t).command_error);
    assert_db(
        &db,
        apr_psprintf(pool, "SELECT count(*) FROM enrollment_queue WHERE command_uuid = '%s'", uuid),
        apr_itoa(pool, count));
}

static void test_enqueue_many(void **state)
{
    (void)state;
    db_fill(&db, 20000);
    enqueue_many(1000);
    enqueue_many(20000);
    enqueue_many(20000); /* a repetition */
}

/* -- Last seen ------------------------------------------------------------------------------ */

static void test_last_seen(void **state)
{
    service_lastseen_t *lastseen = NULL;

    (void)state;
    db_fill(&db, 1500);
    db_exec(&db, "CREATE TABLE log (id TEXT);"
                 " CREATE TRIGGER seen AFTER UPDATE OF last_seen_at ON enrollments"
                 " BEGIN INSERT INTO log (id) VALUES (new.id); END");
    assert_int_equal(service_lastseen_create(&lastseen, service.store, pool), APR_SUCCESS);
    assert_int_equal(service_lastseen_flush(lastseen), APR_SUCCESS); /* nothing noted */
    for (int i = 0; i < 3000; i++) {
        service_lastseen_note(lastseen, apr_psprintf(pool, "D-%05d", 1 + i % 1000));
        service_lastseen_note(lastseen, "D-00001");
    }
    service_lastseen_note(lastseen, "X-1"); /* unknown */
    assert_count("log", "0");
    assert_int_equal(service_lastseen_flush(lastseen), APR_SUCCESS);
    assert_count("log", "1000");
    assert_db(&db, "SELECT count(DISTINCT id) FROM log", "1000");
    assert_count("enrollments WHERE last_seen_at >= datetime('now', '-9 seconds')", "1000");
    assert_count("enrollments", "1500");
    assert_int_equal(service_lastseen_flush(lastseen), APR_SUCCESS);
    assert_count("log", "1000");

    /* what could not be written comes next time, once */
    service_lastseen_note(lastseen, "D-00001");
    service_lastseen_note(lastseen, "D-01200");
    db_exec(&db, "ALTER TABLE log RENAME TO away");
    db_exec(&db, "DROP TRIGGER seen; CREATE TRIGGER seen BEFORE UPDATE ON enrollments"
                 " BEGIN SELECT RAISE(ABORT, 'no'); END");
    assert_int_equal(service_lastseen_flush(lastseen), MDM_EUNAVAILABLE);
    assert_int_equal(service_lastseen_flush(lastseen), MDM_EUNAVAILABLE);
    service_lastseen_note(lastseen, "D-01200");
    service_lastseen_note(lastseen, "D-01201");
    db_exec(&db, "DROP TRIGGER seen; UPDATE enrollments SET last_seen_at = '2000-01-01 00:00:00';"
                 " DELETE FROM away; CREATE TRIGGER seen AFTER UPDATE OF last_seen_at ON"
                 " enrollments BEGIN INSERT INTO away (id) VALUES (new.id); END");
    assert_int_equal(service_lastseen_flush(lastseen), APR_SUCCESS);
    assert_db(&db, "SELECT id FROM away ORDER BY id", "D-00001\nD-01200\nD-01201");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_claim),
        TEST(test_pair_must_exist),
        TEST(test_retroactive_off),
        TEST(test_retroactive_on),
        TEST(test_retroactive_report),
        TEST(test_retroactive_with_failure),
        TEST(test_identify),
        TEST(test_race),
        TEST(test_authenticate),
        TEST(test_authenticate_again),
        TEST(test_token_update),
        TEST(test_unlock_token),
        TEST(test_token_update_without_authenticate),
        TEST(test_user_channel),
        TEST(test_shared_ipad),
        TEST(test_user_enrollment),
        TEST(test_check_out),
        TEST(test_bootstrap_token),
        TEST(test_user_authenticate_declines),
        TEST(test_user_authenticate_empty_digest),
        TEST(test_get_token),
        TEST(test_declarative_management),
        TEST(test_migration),
        TEST(test_seen),
        TEST(test_empty_queue),
        TEST(test_results),
        TEST(test_not_now),
        TEST(test_not_now_and_new),
        TEST(test_reports_of_nothing),
        TEST(test_report_before_token_update),
        TEST(test_result_is_one_transaction),
        TEST(test_outage),
        TEST(test_priority_and_order),
        TEST(test_query_plan),
        TEST(test_enqueue),
        TEST(test_enqueue_unknown),
        TEST(test_enqueue_again),
        TEST(test_enqueue_many),
        TEST(test_last_seen),
    };
    int failed;

    apr_initialize();
    key = EVP_EC_gen("P-256");
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    EVP_PKEY_free(key);
    apr_terminate();
    return failed;
}
