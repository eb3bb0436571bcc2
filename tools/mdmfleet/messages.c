/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What simulated devices say: check-ins, command reports, and the values in them, which are
 * derived from the fleet's seed so that a later run speaks as the same devices.
 */
#include <apr_strings.h>
#include <string.h>

#include "mdmfleet.h"

#define HEAD                                                                                       \
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"                                                 \
    "<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" "                                      \
    "\"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n"                                        \
    "<plist version=\"1.0\">\n<dict>\n"
#define TAIL "</dict>\n</plist>\n"
/* What storing, quoting and reading again may spoil: quotes, backslashes, a format, line ends,
 * blanks at their end, characters of two, three and four bytes. */
#define AWKWARD                                                                                    \
    "\t<!-- it's \"100%s\" \\' \\\\ \\n $1 {p} ; \r\n \t \xc3\xa9 e\xcc\x81 \xe2\x82\xac "         \
    "\xf0\x9f\x8d\x8f -->  \n"

const char *fleet_kind_name(fleet_kind_t kind)
{
    static const char *const names[FLEET_KINDS] = {"authenticate", "token-update", "idle",
                                                   "acknowledged", "error",        "not-now",
                                                   "check-out",    "enqueue"};
    return names[kind];
}

const char *fleet_derive(const fleet_t *fleet, int index, const char *what, int len,
                         apr_pool_t *pool)
{
    const char *text = apr_psprintf(pool, "%s/%d/%s", fleet->seed, index, what);
    unsigned char hash[EVP_MAX_MD_SIZE];
    char *hex = apr_palloc(pool, (apr_size_t)len * 2 + 1);
    EVP_Digest(text, strlen(text), hash, NULL, EVP_sha256(), NULL);
    for (int i = 0; i < len; i++)
        apr_snprintf(hex + 2 * i, 3, "%02x", hash[i]);
    return hex;
}

static const char *derive_data(const fleet_t *fleet, int index, const char *what, int copies,
                               apr_pool_t *pool)
{
    unsigned char *data = apr_palloc(pool, (apr_size_t)copies * EVP_MAX_MD_SIZE);
    size_t len = 0;
    for (int i = 0; i < copies; i++) {
        const char *text = apr_psprintf(pool, "%s/%d/%s/%d", fleet->seed, index, what, i);
        unsigned int n = 0;
        EVP_Digest(text, strlen(text), data + len, &n, EVP_sha256(), NULL);
        len += n;
    }
    return fleet_base64(data, len, pool);
}

/* A command's UUID is the server's text: it may need escaping. */
static const char *escape(const char *text, apr_pool_t *pool)
{
    char *out, *p;
    if (!strpbrk(text, "&<>"))
        return text;
    out = p = apr_palloc(pool, strlen(text) * 5 + 1);
    for (; *text; text++) {
        const char *as = *text == '&'   ? "&amp;"
                         : *text == '<' ? "&lt;"
                         : *text == '>' ? "&gt;"
                                        : NULL;
        if (as) {
            memcpy(p, as, strlen(as));
            p += strlen(as);
        } else {
            *p++ = *text;
        }
    }
    *p = '\0';
    return out;
}

static const char *pair(const char *key, const char *value, apr_pool_t *pool)
{
    return apr_psprintf(pool, "\t<key>%s</key>\n\t<string>%s</string>\n", key, value);
}

/* Who speaks. */
static const char *identifiers(const fleet_device_t *device, apr_pool_t *pool)
{
    const char *udid = pair("UDID", device->udid, pool);
    if (!device->user)
        return udid;
    return apr_pstrcat(pool, udid, pair("UserID", device->user, pool),
                       pair("UserLongName", "Jane Appleseed", pool),
                       pair("UserShortName", "jane", pool), NULL);
}

static const char *authenticate(const fleet_t *fleet, const fleet_device_t *device,
                                apr_pool_t *pool)
{
    return apr_pstrcat(pool, HEAD, pair("BuildVersion", "24G84", pool),
                       pair("DeviceName", apr_psprintf(pool, "Mac %d", device->index), pool),
                       pair("MessageType", "Authenticate", pool), pair("Model", "Mac15,12", pool),
                       pair("ModelName", "MacBook Air", pool), pair("OSVersion", "15.6", pool),
                       pair("ProductName", "Mac15,12", pool),
                       pair("SerialNumber", device->serial, pool),
                       pair("Topic", fleet->topic, pool), identifiers(device, pool), TAIL, NULL);
}

static const char *token_update(const fleet_t *fleet, const fleet_device_t *device,
                                apr_pool_t *pool)
{
    const char *magic = fleet_derive(fleet, device->index, "magic", 16, pool);
    const char *unlock = "";
    if (!device->user)
        unlock = apr_psprintf(pool, "\t<key>UnlockToken</key>\n\t<data>\n\t%s\n\t</data>\n",
                              derive_data(fleet, device->index, "unlock", 40, pool));
    return apr_psprintf(pool,
                        HEAD "\t<key>AwaitingConfiguration</key>\n\t<false/>\n"
                             "%s%s\t<key>Token</key>\n\t<data>\n\t%s\n\t</data>\n%s%s%s" TAIL,
                        pair("MessageType", "TokenUpdate", pool), pair("PushMagic", magic, pool),
                        derive_data(fleet, device->index, "token", 1, pool),
                        pair("Topic", fleet->topic, pool), identifiers(device, pool), unlock);
}

static const char *device_information(const fleet_device_t *device, apr_pool_t *pool)
{
    return apr_psprintf(pool,
                        "\t<key>QueryResponses</key>\n\t<dict>\n"
                        "\t\t<key>AvailableDeviceCapacity</key>\n\t\t<real>%d.5</real>\n"
                        "\t\t<key>BuildVersion</key>\n\t\t<string>24G84</string>\n"
                        "\t\t<key>DeviceName</key>\n\t\t<string>Mac %d</string>\n"
                        "\t\t<key>HostName</key>\n\t\t<string>mac-%d.example.com</string>\n"
                        "\t\t<key>IsSupervised</key>\n\t\t<true/>\n"
                        "\t\t<key>Model</key>\n\t\t<string>Mac15,12</string>\n"
                        "\t\t<key>ModelName</key>\n\t\t<string>MacBook Air</string>\n"
                        "\t\t<key>OSVersion</key>\n\t\t<string>15.6</string>\n"
                        "\t\t<key>ProductName</key>\n\t\t<string>Mac15,12</string>\n"
                        "\t\t<key>SerialNumber</key>\n\t\t<string>%s</string>\n"
                        "\t\t<key>UDID</key>\n\t\t<string>%s</string>\n"
                        "\t</dict>\n",
                        100 + device->index % 400, device->index, device->index, device->serial,
                        device->udid);
}

static const char *applications(apr_pool_t *pool)
{
    const char *list = "\t<key>InstalledApplicationList</key>\n\t<array>\n";
    for (int i = 0; i < 40; i++)
        list = apr_psprintf(pool,
                            "%s\t\t<dict>\n\t\t\t<key>BundleSize</key>\n"
                            "\t\t\t<integer>%d</integer>\n"
                            "\t\t\t<key>Identifier</key>\n"
                            "\t\t\t<string>com.example.application%d</string>\n"
                            "\t\t\t<key>Name</key>\n\t\t\t<string>Application %d</string>\n"
                            "\t\t\t<key>ShortVersion</key>\n\t\t\t<string>1.%d</string>\n"
                            "\t\t</dict>\n",
                            list, 1000000 + i * 4096, i, i, i);
    return apr_pstrcat(pool, list, "\t</array>\n", NULL);
}

static const char *report(const fleet_device_t *device, fleet_kind_t kind, const char *uuid,
                          const char *request_type, apr_pool_t *pool)
{
    const char *status = kind == FLEET_IDLE      ? "Idle"
                         : kind == FLEET_NOT_NOW ? "NotNow"
                         : kind == FLEET_ERROR   ? "Error"
                                                 : "Acknowledged";
    const char *answer = "";
    if (kind == FLEET_ERROR)
        answer = "\t<key>ErrorChain</key>\n\t<array>\n\t\t<dict>\n"
                 "\t\t\t<key>ErrorCode</key>\n\t\t\t<integer>12021</integer>\n"
                 "\t\t\t<key>ErrorDomain</key>\n\t\t\t<string>MCMDMErrorDomain</string>\n"
                 "\t\t\t<key>LocalizedDescription</key>\n"
                 "\t\t\t<string>The simulated device declines.</string>\n"
                 "\t\t</dict>\n\t</array>\n";
    else if (kind == FLEET_ACKNOWLEDGED && request_type &&
             !strcmp(request_type, "DeviceInformation"))
        answer = device_information(device, pool);
    else if (kind == FLEET_ACKNOWLEDGED && request_type &&
             !strcmp(request_type, "InstalledApplicationList"))
        answer = applications(pool);
    return apr_pstrcat(pool, HEAD, uuid ? pair("CommandUUID", escape(uuid, pool), pool) : "",
                       answer, pair("Status", status, pool), identifiers(device, pool), TAIL, NULL);
}

const char *fleet_message(const fleet_t *fleet, const fleet_device_t *device, fleet_kind_t kind,
                          const char *uuid, const char *request_type, apr_pool_t *pool)
{
    switch (kind) {
    case FLEET_AUTHENTICATE:
        return authenticate(fleet, device, pool);
    case FLEET_TOKEN_UPDATE:
        return token_update(fleet, device, pool);
    case FLEET_CHECK_OUT:
        return apr_pstrcat(pool, HEAD, pair("MessageType", "CheckOut", pool),
                           pair("Topic", fleet->topic, pool), identifiers(device, pool), TAIL,
                           NULL);
    default:
        return report(device, kind, uuid, request_type, pool);
    }
}

const char *fleet_command(const char *uuid, const char *request_type, apr_pool_t *pool)
{
    const char *queries = "";
    if (!strcmp(request_type, "DeviceInformation"))
        queries = "\t\t<key>Queries</key>\n\t\t<array>\n"
                  "\t\t\t<string>DeviceName</string>\n\t\t\t<string>OSVersion</string>\n"
                  "\t\t\t<string>SerialNumber</string>\n\t\t</array>\n";
    return apr_pstrcat(pool, HEAD AWKWARD "\t<key>Command</key>\n\t<dict>\n", queries,
                       "\t\t<key>RequestType</key>\n\t\t<string>", escape(request_type, pool),
                       "</string>\n\t</dict>\n\t<key>CommandUUID</key>\n\t<string>",
                       escape(uuid, pool), "</string>\n" TAIL, NULL);
}
