/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Starts apnsd from a test or a measurement, and issues the certificates for it. Whatever goes
 * wrong here ends the program: it is not what is tested.
 */
#ifndef PEER_APNSD_H
#define PEER_APNSD_H

#include <apr_strings.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static inline void peer_need(int good, const char *what)
{
    if (!good) {
        perror(what);
        abort();
    }
}

/* ---- certificates -------------------------------------------------------------------------- */

typedef struct pki_t {
    X509 *ca;
    EVP_PKEY *ca_key;
    EVP_PKEY *key; /* of all others */
} pki_t;

/** What to issue; NULL: without. */
typedef struct pki_recipe_t {
    const char *cn;
    const char *uid;
    const char *san; /* "DNS:localhost,IP:127.0.0.1" */
    long serial;
    long until; /* seconds from now; 0: an hour */
    EVP_PKEY *key;
} pki_recipe_t;

static inline X509 *pki_issue(const pki_t *pki, const pki_recipe_t *recipe)
{
    X509 *x509 = X509_new();
    X509_NAME *name = X509_NAME_new();
    X509V3_CTX ctx;
    int is_ca = pki->ca == NULL;
    EVP_PKEY *key = recipe->key != NULL ? recipe->key : is_ca ? pki->ca_key : pki->key;

    if (recipe->uid != NULL) {
        X509_NAME_add_entry_by_NID(name, NID_userId, MBSTRING_UTF8, (unsigned char *)recipe->uid,
                                   -1, -1, 0);
    }
    if (recipe->cn != NULL) {
        X509_NAME_add_entry_by_NID(name, NID_commonName, MBSTRING_UTF8, (unsigned char *)recipe->cn,
                                   -1, -1, 0);
    }
    X509_set_version(x509, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x509), recipe->serial);
    X509_set_subject_name(x509, name);
    X509_set_issuer_name(x509, is_ca ? name : X509_get_subject_name(pki->ca));
    X509_gmtime_adj(X509_getm_notBefore(x509), -2 * 3600L);
    X509_gmtime_adj(X509_getm_notAfter(x509), recipe->until != 0 ? recipe->until : 3600L);
    X509_set_pubkey(x509, key);
    X509V3_set_ctx(&ctx, is_ca ? x509 : pki->ca, x509, NULL, NULL, 0);
    if (is_ca || recipe->san != NULL) {
        X509_EXTENSION *extension =
            X509V3_EXT_conf_nid(NULL, &ctx, is_ca ? NID_basic_constraints : NID_subject_alt_name,
                                is_ca ? "critical,CA:TRUE" : recipe->san);

        peer_need(extension != NULL, "extension");
        X509_add_ext(x509, extension, -1);
        X509_EXTENSION_free(extension);
    }
    peer_need(X509_sign(x509, pki->ca_key, EVP_sha256()) > 0, "X509_sign");
    X509_NAME_free(name);
    return x509;
}

static inline void pki_make(pki_t *pki, const char *name)
{
    const pki_recipe_t recipe = {.cn = name, .serial = 1};

    memset(pki, 0, sizeof(*pki));
    pki->ca_key = EVP_EC_gen("P-256");
    pki->key = EVP_EC_gen("P-256");
    peer_need(pki->ca_key != NULL && pki->key != NULL, "EVP_EC_gen");
    pki->ca = pki_issue(pki, &recipe);
}

static inline void pki_free(pki_t *pki)
{
    X509_free(pki->ca);
    EVP_PKEY_free(pki->ca_key);
    EVP_PKEY_free(pki->key);
}

static inline const char *pki_text(BIO *bio, apr_pool_t *pool)
{
    char *data;
    long len = BIO_get_mem_data(bio, &data);
    const char *text = apr_pstrmemdup(pool, data, (apr_size_t)len);

    BIO_free(bio);
    return text;
}

static inline const char *pki_cert_pem(X509 *x509, apr_pool_t *pool)
{
    BIO *bio = BIO_new(BIO_s_mem());

    PEM_write_bio_X509(bio, x509);
    return pki_text(bio, pool);
}

static inline const char *pki_key_pem(EVP_PKEY *key, apr_pool_t *pool)
{
    BIO *bio = BIO_new(BIO_s_mem());

    PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
    return pki_text(bio, pool);
}

/** Issue a certificate, as PEM. */
static inline const char *pki_issue_pem(const pki_t *pki, const pki_recipe_t *recipe,
                                        apr_pool_t *pool)
{
    X509 *x509 = pki_issue(pki, recipe);
    const char *pem = pki_cert_pem(x509, pool);

    X509_free(x509);
    return pem;
}

static inline const char *peer_write(const char *dir, const char *name, const char *text,
                                     apr_pool_t *pool)
{
    const char *path = apr_pstrcat(pool, dir, "/", name, NULL);
    FILE *file = fopen(path, "w");

    peer_need(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0, path);
    return path;
}

/* ---- the server ---------------------------------------------------------------------------- */

typedef struct peer_apnsd_t {
    pid_t pid; /* 0: not running */
    int port;
} peer_apnsd_t;

/** Start a program that prints its port; APNSD names another one than the build's. */
static inline void peer_start(peer_apnsd_t *peer, const char *const *options)
{
    const char *argv[24] = {getenv("APNSD") ? getenv("APNSD") : "t/peer/apnsd"};
    char line[16];
    int fds[2];
    FILE *from;

    for (int i = 0; i < 22 && options[i] != NULL; i++) {
        argv[i + 1] = options[i];
    }
    peer_need(pipe(fds) == 0, "pipe");
    peer->pid = fork();
    peer_need(peer->pid >= 0, "fork");
    if (peer->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM); /* whatever becomes of the test */
        dup2(fds[1], 1);
        close(fds[0]);
        close(fds[1]);
        execv(argv[0], (char **)argv);
        perror(argv[0]);
        _exit(127);
    }
    close(fds[1]);
    from = fdopen(fds[0], "r");
    peer_need(from != NULL && fgets(line, sizeof(line), from) != NULL, "apnsd does not start");
    fclose(from);
    peer->port = atoi(line);
}

/** End it, and wait until it has. */
static inline void peer_stop(peer_apnsd_t *peer, int signal_number)
{
    int status;

    if (peer->pid > 0) {
        kill(peer->pid, signal_number);
        waitpid(peer->pid, &status, 0);
        peer->pid = 0;
    }
}

#endif
