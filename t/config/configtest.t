# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# httpd -t finds mistakes and names them; a good configuration passes.
#
# Databases: sqlite3 (none is opened)

use strict;
use warnings FATAL => 'all';

use NanoMDM::Test;

my $pki     = var('pki');
my $scratch = var('scratch');
my $good    = <<"END";
NanoMDMDatabase sqlite3 $scratch/configtest.db
NanoMDMCACertificateFile $pki/ca.pem
NanoMDMAPIKey file:$scratch/api.key
<Location "/mdm">
    SetHandler nanomdm
</Location>
END

my ($status, $output) = configtest($good);
is($status, 0, 'a good configuration') or diag($output);
ok(!-e "$scratch/configtest.db", 'a test creates no database');

($status, $output) = configtest('');
is($status, 0, 'a server without any of our directives') or diag($output);

($status, $output) = configtest(<<"END");
$good
NanoMDMPushURL https://127.0.0.1:2197
NanoMDMPushCAFile $pki/ca.pem
NanoMDMPushProxy http://jane:secret\@127.0.0.1:3128
NanoMDMPushTimeout 500ms
NanoMDMPushExpiration 0
NanoMDMPushConnections 4
<Location /v1>
    SetHandler nanomdm-api
</Location>
END
is($status, 0, 'all of pushing') or diag($output);
unlike($output, qr/secret/, '… without telling the proxy\'s password');

# What is wrong, the text, what is said about it. A handler after the text makes the settings count:
# a server that only has the module loaded is not bothered.
my $endpoint = "<Location /v1>\nSetHandler nanomdm-api\n</Location>\n";
for my $case (
    ['unknown database',     'NanoMDMDatabase oracle x',            qr/sqlite3/],
    ['database, no argument', 'NanoMDMDatabase',                    qr/NanoMDMDatabase/],
    ['schema',               'NanoMDMSchema maybe',                 qr/create.*check.*off/s],
    ['no such CA file',      'NanoMDMCACertificateFile /nowhere/ca.pem', qr{/nowhere/ca\.pem}],
    ['a CA file without certificate', "NanoMDMCACertificateFile $scratch/api.key",
        qr{\Q$scratch\E/api\.key}],
    ['no such key file',     'NanoMDMAPIKey file:/nowhere/api.key', qr{/nowhere/api\.key}],
    ['an empty key',         'NanoMDMAPIKey ""',                    qr/NanoMDMAPIKey/],
    ['a flag',               'NanoMDMRetroactive Perhaps',          qr/NanoMDMRetroactive/],
    ['user authentication',  'NanoMDMUserAuthenticate sometimes',   qr/decline.*empty-digest/s],
    ['a size',               'NanoMDMMaxBody huge',                 qr/NanoMDMMaxBody/],
    ['a pool that gives up at once', 'NanoMDMDatabasePool timeout=1ms', qr/timeout=1ms.*at least 100ms/],
    ['a history of ages', 'NanoMDMHistory 36500d', qr/NanoMDMHistory.*at most 3650d/],
    ['a history of nothing', 'NanoMDMHistory 0s',                      qr/NanoMDMHistory.*from 1s/],
    ['a duration',           'NanoMDMLastSeenInterval 5parsecs',    qr/NanoMDMLastSeenInterval/],
    ['a webhook without URL', 'NanoMDMWebhook',                      qr/NanoMDMWebhook.*receiver's URL/],
    ['no webhook URL',        'NanoMDMWebhook hook.example.org',     qr/NanoMDMWebhook.*is no URL/],
    ['a webhook option',      'NanoMDMWebhook http://h/ color=red',  qr/NanoMDMWebhook.*"color=".*there are key=/],
    ['a webhook topic',       'NanoMDMWebhook http://h/ topics=mdm.Connect,mdm.Hello', qr/mdm\.Hello.*mdm\.Authenticate/],
    ['no webhook topic',      'NanoMDMWebhook http://h/ topics=,',   qr/topics= names none/],
    ['a webhook delivery',    'NanoMDMWebhook http://h/ delivery=pigeon', qr/pigeon.*durable/],
    ['a webhook retry',       'NanoMDMWebhook http://h/ retry=never', qr/retry=never.*retry=forever/],
    ['a webhook key file',    'NanoMDMWebhook http://h/ key=file:/nowhere/key', qr{/nowhere/key}],
    ['an empty webhook key',  'NanoMDMWebhook http://h/ key=',       qr/the key is empty/],
    ['a webhook CA',          'NanoMDMWebhook https://h/ ca=/nowhere/ca.pem', qr{/nowhere/ca\.pem}],
    ['a webhook CA without certificate', "NanoMDMWebhook https://h/ ca=$scratch/api.key",
        qr{NanoMDMWebhook.*\Q$scratch\E/api\.key}],
    ['a webhook twice',       "NanoMDMWebhook http://h/\nNanoMDMWebhook http://u:p\@h/ retry=1h", qr/there twice/],
    ['a webhook with two faces', "NanoMDMWebhook http://h/ key=a\n<VirtualHost *:1>\nNanoMDMWebhook http://h/ key=b\n"
        . '</VirtualHost>', qr/NanoMDMWebhook http:.*other options/],
    ['no declaration server', 'NanoMDMDeclarativeManagement ftp://h/', qr/NanoMDMDeclarativeManagement.*is no URL/],
    ['a declaration server with a query', 'NanoMDMDeclarativeManagement http://h/?a=b', qr/has a query/],
    ['a declaration option',  'NanoMDMDeclarativeManagement http://h/ key=x', qr/there are send-key=/],
    ['a declaration CA without certificate', "NanoMDMDeclarativeManagement https://h/ ca=$scratch/api.key",
        qr{NanoMDMDeclarativeManagement.*\Q$scratch\E/api\.key}],
    ['an escrow URL without TLS', 'NanoMDMEscrowKeyUnlockURL http://127.0.0.1/unlock',
        qr/NanoMDMEscrowKeyUnlockURL.*https/],
    ['an escrow CA without certificate', "NanoMDMEscrowKeyUnlockURL https://h/ ca=$scratch/api.key",
        qr{NanoMDMEscrowKeyUnlockURL.*\Q$scratch\E/api\.key}],
    ['no escrow URL',         'NanoMDMEscrowKeyUnlockURL apple',     qr/NanoMDMEscrowKeyUnlockURL.*is no URL/],
    ['an escrow option',      'NanoMDMEscrowKeyUnlockURL https://h/ key=x', qr/there is ca=/],
    ['no dump',               'NanoMDMDump "|"',                     qr/NanoMDMDump/],
    ['a push URL without TLS', 'NanoMDMPushURL http://api.push.apple.com', qr/NanoMDMPushURL.*https/s],
    ['a push URL with a path', 'NanoMDMPushURL https://api.push.apple.com/3/device', qr/NanoMDMPushURL/],
    ['no push URL',          'NanoMDMPushURL ""',                   qr/NanoMDMPushURL/],
    ['no such push CA file', 'NanoMDMPushCAFile /nowhere/ca.pem',   qr{NanoMDMPushCAFile.*/nowhere/ca\.pem}s],
    ['a push CA file without certificate', "NanoMDMPushCAFile $scratch/api.key",
        qr{NanoMDMPushCAFile.*\Q$scratch\E/api\.key}s],
    ['a push proxy',         'NanoMDMPushProxy proxy.example.org',  qr/NanoMDMPushProxy/],
    ['a push timeout',       'NanoMDMPushTimeout 0',                qr/NanoMDMPushTimeout/],
    ['a push expiration',    'NanoMDMPushExpiration -1',            qr/NanoMDMPushExpiration/],
    ['push connections',     'NanoMDMPushConnections 0',            qr/NanoMDMPushConnections.*from 1/s],
    ['identity source',      "<Location /x>\nNanoMDMIdentity cookie\n</Location>",
        qr/signature.*ssl.*header/s],
    ['header without name',  "<Location /x>\nNanoMDMIdentity header\n</Location>", qr/header/],
    ['a device endpoint without a CA',
        "NanoMDMDatabase sqlite3 $scratch/x.db\n<Location /mdm>\nSetHandler nanomdm\n</Location>",
        qr/NanoMDMCACertificateFile/],
) {
    my ($name, $text, $pattern) = @$case;
    ($status, $output) = configtest("$text\n$endpoint");
    isnt($status, 0, "$name: refused");
    like($output, $pattern, "$name: says what to write");
}

# what is wrong is told without what is secret in it
for my $text (
    'NanoMDMWebhook ftp://jane:SECRET@h/',
    'NanoMDMWebhook "https://jane:SEC RET@h/"',
    'NanoMDMWebhook https://jane:SECRET@h/#f',
    'NanoMDMWebhook https://h/ Key=SECRET',
    'NanoMDMWebhook https://h/ SECRET',
    'NanoMDMWebhook https://jane:SECRET@h/ color=red',
    "NanoMDMWebhook https://jane:SECRET\@h/\nNanoMDMWebhook https://jane:SECRET\@h/",
    'NanoMDMDeclarativeManagement ftp://jane:SECRET@h/',
    'NanoMDMDeclarativeManagement https://jane:SECRET@h/?a=b',
    'NanoMDMDeclarativeManagement https://h/ Send-Key=SECRET',
    'NanoMDMDeclarativeManagement https://h/ SECRET',
    'NanoMDMEscrowKeyUnlockURL ftp://jane:SECRET@h/',
    'NanoMDMEscrowKeyUnlockURL http://jane:SECRET@h/',
    'NanoMDMEscrowKeyUnlockURL https://h/ key=SECRET',
) {
    ($status, $output) = configtest("$text\n$endpoint");
    isnt($status, 0, "$text: refused");
    like($output, qr/NanoMDM\w+: ./, '… says why');
    unlike($output, qr/SEC ?RET|jane/, '… without what is secret');
}

done_testing;
