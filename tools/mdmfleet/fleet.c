/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The fleet and its directory: authority, keys, certificates, and each device's state, so that a
 * later run continues as the same devices.
 *
 *   fleet.json     seed, topic, user channels per device
 *   ca.pem         the authority that issued the certificates
 *   ca.key         its key, if it is the fleet's own
 *   keys.pem       the keys that the devices share
 *   devices.jsonl  one device a line: identifiers, key, certificate; behind it one line for each
 *                  of its user channels; only ever appended to
 *   state.jsonl    a line for each of those: enrolled, sessions, commands answered
 */
#include <apr_strings.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mdmfleet.h"

#define MAX_DEVICES 1000000
#define SET_MAX 4096 /* UUIDs remembered per device */

/* ---- sets of UUIDs ------------------------------------------------------------------------ */

uint64_t fleet_hash(const char *text)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 1099511628211u;
    return hash;
}

static int set_find(const fleet_set_t *set, uint64_t item)
{
    for (int i = 0; i < set->n; i++)
        if (set->items[i] == item)
            return i;
    return -1;
}

int fleet_set_has(const fleet_set_t *set, uint64_t item)
{
    return set_find(set, item) >= 0;
}

void fleet_set_add(fleet_set_t *set, uint64_t item)
{
    if (set_find(set, item) >= 0)
        return;
    if (set->n == SET_MAX) {
        set->items[set->next] = item;
        set->next = (set->next + 1) % SET_MAX;
        return;
    }
    if (set->n == set->size) {
        set->size = set->size ? set->size * 2 : 8;
        set->items = realloc(set->items, (size_t)set->size * sizeof(*set->items));
        if (!set->items)
            fleet_die("out of memory");
    }
    set->items[set->n++] = item;
}

void fleet_set_remove(fleet_set_t *set, uint64_t item)
{
    int at = set_find(set, item);
    if (at >= 0) {
        set->items[at] = set->items[--set->n];
        set->next = 0;
    }
}

/* ---- files -------------------------------------------------------------------------------- */

static const char *path_of(const fleet_t *fleet, const char *name)
{
    return apr_pstrcat(fleet->pool, fleet->dir, "/", name, NULL);
}

static FILE *open_file(const char *path, const char *mode)
{
    FILE *file = fopen(path, mode);
    if (!file)
        fleet_die("cannot open %s: %s", path, strerror(errno));
    return file;
}

static void close_file(FILE *file, const char *path)
{
    if (ferror(file) || fclose(file) != 0)
        fleet_die("cannot write %s: %s", path, strerror(errno));
}

static int exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

static const char *openssl_reason(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    return reason ? reason : "OpenSSL does not say why";
}

static EVP_PKEY *read_key(const char *path)
{
    FILE *file = open_file(path, "r");
    EVP_PKEY *key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
    if (!key)
        fleet_die("%s holds no usable private key: %s", path, openssl_reason());
    fclose(file);
    return key;
}

static X509 *read_certificate(const char *path)
{
    FILE *file = open_file(path, "r");
    X509 *x509 = PEM_read_X509(file, NULL, NULL, NULL);
    if (!x509)
        fleet_die("%s holds no certificate: %s", path, openssl_reason());
    fclose(file);
    return x509;
}

static void write_key(const char *path, EVP_PKEY *key, const char *mode)
{
    mode_t old = umask(077);
    FILE *file = open_file(path, mode);
    umask(old);
    if (!PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL))
        fleet_die("cannot write a key to %s: %s", path, openssl_reason());
    close_file(file, path);
}

static void write_certificate(const char *path, X509 *x509)
{
    FILE *file = open_file(path, "w");
    if (!PEM_write_X509(file, x509))
        fleet_die("cannot write a certificate to %s: %s", path, openssl_reason());
    close_file(file, path);
}

static void copy_certificate(const char *to, const char *from)
{
    X509 *x509 = read_certificate(from);
    write_certificate(to, x509);
    X509_free(x509);
}

/* ---- authority and certificates ----------------------------------------------------------- */

static EVP_PKEY *make_key(const char *type)
{
    EVP_PKEY *key = !strcmp(type, "ec") ? EVP_EC_gen("P-256") : EVP_RSA_gen(2048);
    if (!key)
        fleet_die("cannot make a key: %s", openssl_reason());
    return key;
}

static void add_extension(X509 *x509, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509_EXTENSION *extension;
    X509V3_set_ctx(&ctx, issuer, x509, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    if (!extension || !X509_add_ext(x509, extension, -1))
        fleet_die("cannot make a certificate: %s", openssl_reason());
    X509_EXTENSION_free(extension);
}

static void add_name(X509_NAME *name, const char *key, const char *value)
{
    X509_NAME_add_entry_by_txt(name, key, MBSTRING_UTF8, (const unsigned char *)value, -1, -1, 0);
}

/* A certificate without extensions and signature, valid for ten years from yesterday. */
static X509 *begin_certificate(EVP_PKEY *key)
{
    X509 *x509 = X509_new();
    unsigned char serial[16];
    BIGNUM *number;
    if (!x509 || RAND_bytes(serial, sizeof(serial)) != 1)
        fleet_die("cannot make a certificate: %s", openssl_reason());
    serial[0] = (unsigned char)((serial[0] & 0x3f) | 0x40);
    number = BN_bin2bn(serial, sizeof(serial), NULL);
    BN_to_ASN1_INTEGER(number, X509_get_serialNumber(x509));
    BN_free(number);
    X509_set_version(x509, X509_VERSION_3);
    X509_gmtime_adj(X509_getm_notBefore(x509), -86400L);
    X509_gmtime_adj(X509_getm_notAfter(x509), 3650L * 86400L);
    X509_set_pubkey(x509, key);
    return x509;
}

static void end_certificate(X509 *x509, EVP_PKEY *ca_key)
{
    if (!X509_sign(x509, ca_key, EVP_sha256()))
        fleet_die("cannot sign a certificate with the authority's key: %s", openssl_reason());
}

static void make_authority(fleet_t *fleet, const char *type)
{
    EVP_PKEY *key = make_key(type);
    X509 *x509 = begin_certificate(key);
    X509_NAME *name = X509_get_subject_name(x509);
    add_name(name, "O", "mdmfleet");
    add_name(
        name, "CN",
        apr_psprintf(fleet->pool, "mdmfleet CA %s", fleet_derive(fleet, -1, "ca", 4, fleet->pool)));
    X509_set_issuer_name(x509, name);
    add_extension(x509, x509, NID_basic_constraints, "critical,CA:TRUE");
    add_extension(x509, x509, NID_key_usage, "critical,keyCertSign,cRLSign");
    add_extension(x509, x509, NID_subject_key_identifier, "hash");
    end_certificate(x509, key);
    write_key(path_of(fleet, "ca.key"), key, "w");
    write_certificate(path_of(fleet, "ca.pem"), x509);
    EVP_PKEY_free(key);
    X509_free(x509);
}

/* The authority that issues: the given one, or the fleet's own, made if there is none. */
static void open_authority(fleet_t *fleet, const fleet_options_t *opt, X509 **ca, EVP_PKEY **key)
{
    const char *cert_path = path_of(fleet, "ca.pem"), *key_path = path_of(fleet, "ca.key");
    if (opt->ca_cert) {
        key_path = opt->ca_key;
        if (!exists(cert_path))
            copy_certificate(cert_path, opt->ca_cert);
        cert_path = opt->ca_cert;
    } else if (!exists(key_path)) {
        if (exists(cert_path))
            fleet_die("this fleet's authority is not its own: give --ca-cert and --ca-key");
        make_authority(fleet, opt->key_type);
    }
    *ca = read_certificate(cert_path);
    *key = read_key(key_path);
    if (!X509_check_private_key(*ca, *key))
        fleet_die("%s is not the key of %s", key_path, cert_path);
}

static X509 *make_certificate(const fleet_device_t *device, EVP_PKEY *key, X509 *ca,
                              EVP_PKEY *ca_key)
{
    X509 *x509 = begin_certificate(key);
    /* Real devices' subjects are empty at times. */
    if (device->index % 4 != 3) {
        X509_NAME *name = X509_get_subject_name(x509);
        add_name(name, "O", "mdmfleet");
        add_name(name, "CN", device->udid);
    }
    X509_set_issuer_name(x509, X509_get_subject_name(ca));
    add_extension(x509, ca, NID_key_usage, "critical,digitalSignature");
    add_extension(x509, ca, NID_ext_key_usage, "clientAuth");
    add_extension(x509, ca, NID_subject_key_identifier, "hash");
    if (X509_get_ext_by_NID(ca, NID_subject_key_identifier, -1) >= 0)
        add_extension(x509, ca, NID_authority_key_identifier, "keyid");
    end_certificate(x509, ca_key);
    return x509;
}

/* ---- keys --------------------------------------------------------------------------------- */

static void load_keys(fleet_t *fleet)
{
    const char *path = path_of(fleet, "keys.pem");
    FILE *file;
    EVP_PKEY *key;
    if (!exists(path))
        return;
    file = open_file(path, "r");
    while ((key = PEM_read_PrivateKey(file, NULL, NULL, NULL)))
        APR_ARRAY_PUSH(fleet->keys, EVP_PKEY *) = key;
    ERR_clear_error();
    fclose(file);
}

static void make_keys(fleet_t *fleet, const fleet_options_t *opt, int devices)
{
    const char *path = path_of(fleet, "keys.pem");
    int wanted = opt->keys < devices ? opt->keys : devices;
    while (fleet->keys->nelts < wanted && !fleet_stop) {
        EVP_PKEY *key = make_key(opt->key_type);
        write_key(path, key, "a");
        APR_ARRAY_PUSH(fleet->keys, EVP_PKEY *) = key;
    }
}

/* ---- devices ------------------------------------------------------------------------------ */

static void write_device(FILE *file, const fleet_device_t *device, apr_pool_t *pool)
{
    if (device->user)
        fprintf(file, "{\"user\":\"%s\"}\n", device->user);
    else
        fprintf(file, "{\"udid\":\"%s\",\"serial\":\"%s\",\"key\":%d,\"certificate\":\"%s\"}\n",
                device->udid, device->serial, device->key,
                fleet_base64(device->der, (size_t)device->der_len, pool));
}

static const char *make_udid(const fleet_t *fleet, int index, apr_pool_t *pool)
{
    char *hex = apr_pstrdup(pool, fleet_derive(fleet, index, "udid", 16, pool));
    for (char *p = hex; *p; p++)
        *p = (char)(*p >= 'a' ? *p - 'a' + 'A' : *p);
    return apr_psprintf(pool, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16,
                        hex + 20);
}

static fleet_device_t *add_device(fleet_t *fleet)
{
    fleet_device_t *device = apr_array_push(fleet->devices);
    memset(device, 0, sizeof(*device));
    device->index = fleet->devices->nelts - 1;
    return device;
}

/* A user channel of the device, or behind the channel, that was added last. */
static void add_user(fleet_t *fleet, const char *user)
{
    fleet_device_t *channel = add_device(fleet);
    const fleet_device_t *device = channel - 1;
    channel->udid = device->udid;
    channel->serial = device->serial;
    channel->key = device->key;
    channel->der = device->der;
    channel->der_len = device->der_len;
    channel->user = user;
    channel->id = apr_pstrcat(fleet->pool, device->udid, ":", user, NULL);
}

static void make_device(fleet_t *fleet, X509 *ca, EVP_PKEY *ca_key)
{
    fleet_device_t *device = add_device(fleet);
    unsigned char *der = NULL;
    EVP_PKEY *key;
    X509 *x509;
    device->udid = device->id = make_udid(fleet, device->index, fleet->pool);
    device->serial = apr_psprintf(fleet->pool, "FL%s%06d",
                                  fleet_derive(fleet, -1, "serial", 2, fleet->pool), device->index);
    device->key = device->index / (1 + fleet->users) % fleet->keys->nelts;
    key = APR_ARRAY_IDX(fleet->keys, device->key, EVP_PKEY *);
    x509 = make_certificate(device, key, ca, ca_key);
    device->der_len = i2d_X509(x509, &der);
    if (device->der_len <= 0)
        fleet_die("cannot encode a certificate: %s", openssl_reason());
    device->der = apr_pmemdup(fleet->pool, der, (apr_size_t)device->der_len);
    OPENSSL_free(der);
    X509_free(x509);
}

/* Whether the last device has all of its user channels: a run may have been killed while making. */
static int is_whole(const fleet_t *fleet)
{
    return fleet->devices->nelts % (1 + fleet->users) == 0;
}

static void make_devices(fleet_t *fleet, const fleet_options_t *opt)
{
    const int devices = opt->devices ? opt->devices : 1;
    const int wanted = devices * (1 + fleet->users);
    const char *path = path_of(fleet, "devices.jsonl");
    X509 *ca;
    EVP_PKEY *ca_key;
    apr_pool_t *scratch;
    FILE *file;
    if (fleet->devices->nelts >= wanted && is_whole(fleet))
        return;
    open_authority(fleet, opt, &ca, &ca_key);
    make_keys(fleet, opt, devices);
    apr_pool_create(&scratch, fleet->pool);
    file = open_file(path, "a");
    while ((fleet->devices->nelts < wanted && !fleet_stop) || !is_whole(fleet)) {
        if (!is_whole(fleet))
            add_user(fleet, make_udid(fleet, fleet->devices->nelts, fleet->pool));
        else
            make_device(fleet, ca, ca_key);
        write_device(file, fleet_device(fleet, fleet->devices->nelts - 1), scratch);
        apr_pool_clear(scratch);
        if (!opt->quiet && fleet->devices->nelts % 2000 == 0)
            fprintf(stderr, "mdmfleet: %d of %d enrollments made\n", fleet->devices->nelts, wanted);
    }
    close_file(file, path);
    apr_pool_destroy(scratch);
    EVP_PKEY_free(ca_key);
    X509_free(ca);
}

static const unsigned char *decode(const char *text, int *len, apr_pool_t *pool)
{
    size_t n = strlen(text);
    unsigned char *out = apr_palloc(pool, n / 4 * 3 + 3);
    *len = EVP_DecodeBlock(out, (const unsigned char *)text, (int)n);
    while (*len > 0 && n > 0 && text[n - 1] == '=') { /* EVP_DecodeBlock counts the padding */
        (*len)--;
        n--;
    }
    return out;
}

/* Call a function with each line of a JSON-lines file, if there is one. */
static void each_line(fleet_t *fleet, const char *name, void (*take)(fleet_t *, json_t *, int))
{
    const char *path = path_of(fleet, name);
    FILE *file;
    int line = 0;
    if (!exists(path))
        return;
    file = open_file(path, "r");
    for (;;) {
        json_error_t error;
        json_t *json = json_loadf(file, JSON_DISABLE_EOF_CHECK, &error);
        if (!json && json_error_code(&error) == json_error_premature_end_of_input && feof(file)) {
            break;
        }
        if (!json)
            fleet_die("%s, entry %d: %s; remove the directory and begin anew", path, line + 1,
                      error.text);
        take(fleet, json, line++);
        json_decref(json);
    }
    fclose(file);
}

static void take_device(fleet_t *fleet, json_t *json, int line)
{
    const char *udid, *serial, *certificate, *user;
    fleet_device_t *device;
    if (line > 0 && json_unpack(json, "{s:s}", "user", &user) == 0) {
        add_user(fleet, apr_pstrdup(fleet->pool, user));
        return;
    }
    device = add_device(fleet);
    if (json_unpack(json, "{s:s,s:s,s:i,s:s}", "udid", &udid, "serial", &serial, "key",
                    &device->key, "certificate", &certificate) != 0 ||
        device->key < 0 || device->key >= fleet->keys->nelts)
        fleet_die("%s/devices.jsonl, entry %d: not a device of this fleet", fleet->dir, line + 1);
    device->udid = device->id = apr_pstrdup(fleet->pool, udid);
    device->serial = apr_pstrdup(fleet->pool, serial);
    device->der = decode(certificate, &device->der_len, fleet->pool);
}

static void take_state(fleet_t *fleet, json_t *json, int line)
{
    json_t *answered = NULL, *item;
    size_t i;
    fleet_device_t *device;
    if (line >= fleet->devices->nelts)
        return;
    device = fleet_device(fleet, line);
    if (json_unpack(json, "{s:b,s:i,s:o}", "enrolled", &device->enrolled, "sessions",
                    &device->sessions, "answered", &answered) != 0)
        fleet_die("%s/state.jsonl, entry %d: not a device's state", fleet->dir, line + 1);
    json_array_foreach(answered, i, item)
    {
        const char *hex = json_string_value(item);
        if (hex)
            fleet_set_add(&device->answered, strtoull(hex, NULL, 16));
    }
}

void fleet_save(fleet_t *fleet)
{
    const char *path = path_of(fleet, "state.jsonl"), *fresh = path_of(fleet, "state.jsonl.new");
    FILE *file = open_file(fresh, "w");
    for (int i = 0; i < fleet->devices->nelts; i++) {
        const fleet_device_t *device = fleet_device(fleet, i);
        fprintf(file, "{\"enrolled\":%s,\"sessions\":%d,\"answered\":[",
                device->enrolled ? "true" : "false", device->sessions);
        for (int k = 0; k < device->answered.n; k++)
            fprintf(file, "%s\"%016llx\"", k ? "," : "",
                    (unsigned long long)device->answered.items[k]);
        fputs("]}\n", file);
    }
    close_file(file, fresh);
    if (rename(fresh, path) != 0)
        fleet_die("cannot write %s: %s", path, strerror(errno));
}

/* ---- the whole ---------------------------------------------------------------------------- */

static void load_settings(fleet_t *fleet, const fleet_options_t *opt)
{
    const char *path = path_of(fleet, "fleet.json");
    json_error_t error;
    json_t *json = json_load_file(path, 0, &error);
    const char *seed, *topic;
    if (!json ||
        json_unpack(json, "{s:s,s:s,s?i}", "seed", &seed, "topic", &topic, "users",
                    &fleet->users) != 0 ||
        fleet->users < 0)
        fleet_die("%s cannot be read: %s", path, json ? "not a fleet's settings" : error.text);
    if (opt->seed && strcmp(opt->seed, seed) != 0)
        fleet_die("this fleet was made with seed %s: leave --seed out, or choose another --dir",
                  seed);
    if (opt->users >= 0 && opt->users != fleet->users)
        fleet_die("this fleet was made with --users %d: leave it out, or choose another --dir",
                  fleet->users);
    fleet->seed = apr_pstrdup(fleet->pool, seed);
    fleet->topic = opt->topic ? opt->topic : apr_pstrdup(fleet->pool, topic);
    json_decref(json);
}

static void make_settings(fleet_t *fleet, const fleet_options_t *opt)
{
    unsigned char random[8];
    json_t *json;
    RAND_bytes(random, sizeof(random));
    fleet->seed = opt->seed;
    if (!fleet->seed) {
        char *hex = apr_palloc(fleet->pool, sizeof(random) * 2 + 1);
        for (size_t i = 0; i < sizeof(random); i++)
            apr_snprintf(hex + 2 * i, 3, "%02x", random[i]);
        fleet->seed = hex;
    }
    fleet->topic = opt->topic ? opt->topic
                              : apr_psprintf(fleet->pool, "com.apple.mgmt.External.%s",
                                             make_udid(fleet, -1, fleet->pool));
    fleet->users = opt->users > 0 ? opt->users : 0;
    json = json_pack("{s:s,s:s,s:i}", "seed", fleet->seed, "topic", fleet->topic, "users",
                     fleet->users);
    if (!json || json_dump_file(json, path_of(fleet, "fleet.json"), JSON_INDENT(2)) != 0)
        fleet_die("cannot write %s: %s", path_of(fleet, "fleet.json"), strerror(errno));
    json_decref(json);
}

static void lock_directory(fleet_t *fleet)
{
    const char *path = path_of(fleet, "lock");
    fleet->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fleet->lock < 0)
        fleet_die("cannot write to %s: %s", fleet->dir, strerror(errno));
    if (flock(fleet->lock, LOCK_EX | LOCK_NB) != 0)
        fleet_die("another mdmfleet is running with %s", fleet->dir);
}

static apr_status_t release(void *baton)
{
    fleet_t *fleet = baton;
    for (int i = 0; i < fleet->keys->nelts; i++)
        EVP_PKEY_free(APR_ARRAY_IDX(fleet->keys, i, EVP_PKEY *));
    for (int i = 0; i < fleet->devices->nelts; i++) {
        free(fleet_device(fleet, i)->answered.items);
        free(fleet_device(fleet, i)->not_now.items);
    }
    return APR_SUCCESS;
}

fleet_t *fleet_open(const fleet_options_t *opt, int make, int lock, apr_pool_t *pool)
{
    fleet_t *fleet = apr_pcalloc(pool, sizeof(*fleet));
    fleet->pool = pool;
    fleet->dir = opt->dir;
    fleet->keys = apr_array_make(pool, 16, sizeof(EVP_PKEY *));
    fleet->devices = apr_array_make(pool, 1000, sizeof(fleet_device_t));
    apr_pool_cleanup_register(pool, fleet, release, apr_pool_cleanup_null);
    if (make && mkdir(fleet->dir, 0700) != 0 && errno != EEXIST)
        fleet_die("cannot make %s: %s", fleet->dir, strerror(errno));
    if (!exists(path_of(fleet, "fleet.json")) && !make)
        fleet_die("there is no fleet in %s: make one with \"mdmfleet enroll\" or \"mdmfleet make\"",
                  fleet->dir);
    if (lock)
        lock_directory(fleet);
    if (exists(path_of(fleet, "fleet.json")))
        load_settings(fleet, opt);
    else
        make_settings(fleet, opt);
    if ((opt->devices ? opt->devices : 1) > MAX_DEVICES / (1 + fleet->users))
        fleet_die("at most %d devices and user channels", MAX_DEVICES);
    load_keys(fleet);
    each_line(fleet, "devices.jsonl", take_device);
    each_line(fleet, "state.jsonl", take_state);
    if (make)
        make_devices(fleet, opt);
    if (!is_whole(fleet))
        fleet_die("the last device lacks a user channel: run \"mdmfleet make\"");
    if (opt->devices > fleet->devices->nelts / (1 + fleet->users) && !fleet_stop)
        fleet_die("the fleet has only %d devices", fleet->devices->nelts / (1 + fleet->users));
    return fleet;
}

fleet_device_t *fleet_device(const fleet_t *fleet, int index)
{
    return &APR_ARRAY_IDX(fleet->devices, index, fleet_device_t);
}

int fleet_count(const fleet_t *fleet, const fleet_options_t *opt)
{
    int wanted = opt->devices * (1 + fleet->users);
    return wanted && wanted < fleet->devices->nelts ? wanted : fleet->devices->nelts;
}
