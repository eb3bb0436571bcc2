/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Tests what is decided about a push before anything is sent: whose push data is missing, which
 * topic has no certificate, which token is dead; and push certificates. The pusher is real, but
 * nothing runs it and nothing listens where it would send to: what it is given runs into its
 * timeout. What comes back from a push service is tested by t/api/push.t.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <apr_general.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <pthread.h>

#include "db.h"
#include "service.h"

#define TOPIC "com.apple.mgmt.T"

static db_t db;
static apr_pool_t *pool;
static service_t service;
static apr_array_header_t *outcome;

static int setup(void **state)
{
    static const apns_config_t config = {
        .url = "https://127.0.0.1:9", .connections = 1, .queue_max = 2};
    store_config_t where;
    const char *why = NULL;

    (void)state;
    db_setup(&db);
    pool = db.pool;
    where = db_config(&db);
    db_store(&db);
    db_fill(&db, 3);
    memset(&service, 0, sizeof(service));
    service.store = db_store_with(&where, pool); /* whose connections know all tables */
    service.push_timeout = apr_time_from_msec(200);
    if (apns_create(&service.apns, &config, &why, pool) != APR_SUCCESS) {
        fail_msg("apns_create: %s", why);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    db_teardown(&db);
    return 0;
}

/* A certificate of this subject UID, valid for so many seconds, and its key, as PEM. */
static const char *make_pem(const char *uid, long seconds)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x509 = X509_new();
    X509_NAME *name = X509_NAME_new();
    BIO *bio = BIO_new(BIO_s_mem());
    const char *pem;
    char *bytes;
    long len;

    X509_NAME_add_entry_by_txt(name, "UID", MBSTRING_UTF8, (const unsigned char *)uid, -1, -1, 0);
    X509_set_version(x509, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
    X509_set_subject_name(x509, name);
    X509_set_issuer_name(x509, name);
    X509_gmtime_adj(X509_getm_notBefore(x509), -7200);
    X509_gmtime_adj(X509_getm_notAfter(x509), seconds);
    X509_set_pubkey(x509, key);
    assert_true(X509_sign(x509, key, EVP_sha256()) > 0);
    assert_true(PEM_write_bio_X509(bio, x509));
    assert_true(PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL));
    len = BIO_get_mem_data(bio, &bytes);
    pem = apr_pstrmemdup(pool, bytes, (apr_size_t)len);
    BIO_free(bio);
    X509_NAME_free(name);
    X509_free(x509);
    EVP_PKEY_free(key);
    return pem;
}

static apr_status_t put(const char *pem, trust_pushcert_t *cert)
{
    const char *why = NULL;
    apr_status_t status = service_push_cert_store(&service, pem, strlen(pem), cert, &why, pool);

    if (status != APR_SUCCESS) {
        assert_non_null(why);
    }
    return status;
}

/* @param names  ids with commas between */
static apr_status_t push(const char *names, const char **why)
{
    apr_array_header_t *ids = apr_array_make(pool, 4, sizeof(const char *));
    char *last;

    for (char *id = apr_strtok(apr_pstrdup(pool, names), ",", &last); id != NULL;
         id = apr_strtok(NULL, ",", &last)) {
        APR_ARRAY_PUSH(ids, const char *) = id;
    }
    outcome = service_results(ids, pool);
    return service_push(&service, outcome, why, pool);
}

static const service_result_t *result(int number)
{
    return &APR_ARRAY_IDX(outcome, number, service_result_t);
}

static void assert_error(const char *id, const char *part)
{
    const char *why;

    assert_int_equal(push(id, &why), APR_SUCCESS);
    assert_int_equal(outcome->nelts, 1);
    assert_non_null(result(0)->push_error);
    if (strstr(result(0)->push_error, part) == NULL) {
        fail_msg("%s is not in: %s", part, result(0)->push_error);
    }
    assert_null(result(0)->push_result);
}

static void test_unknown(void **state)
{
    const char *why;

    (void)state;
    assert_error("X-1", "push data missing for id");
    assert_error("\x01", "push data missing for id");
    assert_error("\xff", "push data missing for id");
    assert_int_equal(push("X-1,X-2,X-1", &why), APR_SUCCESS);
    assert_int_equal(outcome->nelts, 2);
    assert_int_equal(push("", &why), APR_SUCCESS);
    assert_int_equal(outcome->nelts, 0);
}

static void test_certificates(void **state)
{
    trust_pushcert_t cert;
    const char *why;

    (void)state;
    db_exec(&db, "UPDATE enrollments SET topic = '" TOPIC "' WHERE id <> 'D-00002'");
    assert_error("D-00001", "no push certificate for topic " TOPIC);
    assert_int_equal(put("x", &cert), MDM_EINPUT);
    assert_int_equal(put(make_pem("com.example", 3600), &cert), MDM_EINPUT);
    assert_db(&db, "SELECT count(*) FROM push_certs", "0");
    assert_int_equal(put(make_pem(TOPIC, 3600), &cert), APR_SUCCESS);
    assert_string_equal(cert.topic, TOPIC);
    assert_true(cert.not_after > apr_time_now());
    assert_false(apns_has_certificate(service.apns, TOPIC, 0));
    assert_int_equal(push("D-00001,D-00002,D-00003", &why), APR_SUCCESS);
    assert_true(apns_has_certificate(service.apns, TOPIC, 0));
    assert_non_null(strstr(result(1)->push_error, "no push certificate for topic t"));
    assert_null(strstr(result(0)->push_error, "certificate"));
    assert_string_equal(result(0)->push_error, result(2)->push_error);

    /* a new one is noticed by its version; one that has expired is taken */
    assert_int_equal(put(make_pem(TOPIC, -3600), &cert), APR_SUCCESS);
    assert_true(cert.not_after < apr_time_now());
    assert_db(&db, "SELECT stale_token FROM push_certs", "1");
    assert_int_equal(push("D-00001", &why), APR_SUCCESS);
    assert_true(apns_has_certificate(service.apns, TOPIC, 1));
    assert_false(apns_has_certificate(service.apns, TOPIC, 0));

    /* one that somebody else put there */
    db_exec(&db, "UPDATE push_certs SET key_pem = '-----nothing', stale_token = 7");
    assert_error("D-00001", "the push certificate cannot be used");
    assert_int_equal(service_push_cert_load(&service, TOPIC, &cert, &why, pool), MDM_EINPUT);
    assert_int_equal(service_push_cert_load(&service, "t", &cert, &why, pool), APR_ENOENT);
}

static void test_dead(void **state)
{
    trust_pushcert_t cert;

    (void)state;
    db_exec(&db, "UPDATE enrollments SET topic = '" TOPIC "'; INSERT INTO mdm_dead_tokens"
                 " (id, token_hex, reason) VALUES ('D-00001', 'ab', '410 Unregistered'),"
                 " ('D-00002', 'cd', '410 Unregistered')");
    assert_int_equal(put(make_pem(TOPIC, 3600), &cert), APR_SUCCESS);
    assert_error("D-00001", "410 Unregistered");
    assert_error("D-00002", ""); /* sent, and not answered */
    assert_null(strstr(result(0)->push_error, "410"));
}

/* Another caller, which waits for two pushes. */
static void *fill_queue(void *data)
{
    apns_push_t *pushes = data;

    for (int i = 0; i < 2; i++) {
        pushes[i] = (apns_push_t){.topic = TOPIC, .token = "00", .magic = ""};
    }
    while (APR_STATUS_IS_EAGAIN(apns_send(service.apns, pushes, 2, apr_time_from_sec(2)))) {
        apr_sleep(apr_time_from_msec(1)); /* the other caller was there first */
    }
    return NULL;
}

static void test_full(void **state)
{
    apns_push_t pushes[2];
    trust_pushcert_t cert;
    pthread_t thread;
    const char *why = NULL;
    apr_status_t status = APR_SUCCESS;

    (void)state;
    db_exec(&db, "UPDATE enrollments SET topic = '" TOPIC "'");
    assert_int_equal(put(make_pem(TOPIC, 3600), &cert), APR_SUCCESS);
    assert_int_equal(push("D-00001,D-00002,D-00003", &why), APR_SUCCESS); /* alone: any number */
    assert_non_null(strstr(result(2)->push_error, "no answer in time"));
    assert_int_equal(pthread_create(&thread, NULL, fill_queue, pushes), 0);
    for (int i = 0; i < 20 && status == APR_SUCCESS; i++) { /* until the other one is there */
        apr_sleep(apr_time_from_msec(50));
        status = push("D-00001", &why);
    }
    assert_true(APR_STATUS_IS_EAGAIN(status));
    assert_non_null(strstr(why, "too many pushes"));
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(push("D-00001", &why), APR_SUCCESS);
}

static void test_enqueued(void **state)
{
    const char *why;

    (void)state;
    outcome = service_results(apr_array_make(pool, 1, sizeof(const char *)), pool);
    APR_ARRAY_PUSH(outcome, service_result_t) =
        (service_result_t){.id = "X-1", .command_error = "no"};
    APR_ARRAY_PUSH(outcome, service_result_t) = (service_result_t){.id = "D-00001"};
    assert_int_equal(service_push(&service, outcome, &why, pool), APR_SUCCESS);
    assert_null(result(0)->push_error);
    assert_non_null(result(1)->push_error);
}

static void test_outage(void **state)
{
    const char *why = NULL;
    trust_pushcert_t cert;

    (void)state;
    db_exec(&db, "PRAGMA legacy_alter_table = ON; ALTER TABLE push_certs RENAME TO x");
    assert_int_equal(push("D-00001", &why), MDM_EUNAVAILABLE);
    assert_non_null(why);
    assert_int_equal(put(make_pem(TOPIC, 3600), &cert), MDM_EUNAVAILABLE);
    assert_int_equal(service_push_cert_load(&service, TOPIC, &cert, &why, pool), MDM_EUNAVAILABLE);
    service.store = NULL;
    assert_int_equal(push("D-00001", &why), MDM_EUNAVAILABLE);
    service.apns = NULL;
    assert_int_equal(push("D-00001", &why), MDM_EUNAVAILABLE);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_unknown), TEST(test_certificates), TEST(test_dead),
        TEST(test_full),    TEST(test_enqueued),     TEST(test_outage),
    };
    int failed;

    apr_initialize();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    apr_terminate();
    return failed;
}
