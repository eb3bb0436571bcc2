# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Access control around devices at configtest: what could answer 401 or 403 to a device is refused
# with a sentence that says so, what cannot is accepted. Then what other modules and files must be
# there for.
#
# Databases: sqlite3 (none is opened)

use strict;
use warnings FATAL => 'all';

use NanoMDM::Test;

my $pki     = var('pki');
my $scratch = var('scratch');
my $basic   = "AuthType Basic\nAuthName x\nAuthBasicProvider nanomdm\n";
my $server  = <<"END_SERVER";
NanoMDMDatabase sqlite3 $scratch/configtest.db
NanoMDMCACertificateFile $pki/ca.pem
NanoMDMAPIKey file:$scratch/api.key
END_SERVER

sub device_location { return "$server<Location /mdm>\nSetHandler nanomdm\n$_[0]\n</Location>\n" }
sub content { return "$server<Location /content>\n$_[0]\n</Location>\n" }

my @accepted = (
    ['Require ssl',                    device_location('Require ssl')],
    ['Require ip, twice',              device_location("Require ip 10.0.0.0/8\nRequire ip 127.0.0.1")],
    ['Require all granted',            device_location('Require all granted')],
    ['Require not ip', device_location(
        "<RequireAll>\nRequire all granted\nRequire not ip 192.0.2.1\n</RequireAll>")],
    ['Require expr within <If>',       device_location("<If \"true\">\nRequire expr true\n</If>")],
    ['SetHandler in another case',     device_location('SetHandler NanoMDM')],
    ['mdm-enrolled',                   content('Require mdm-enrolled')],
    ['mdm-enrolled and ip in RequireAll', content(
        "<RequireAll>\nRequire mdm-enrolled\nRequire ip 127.0.0.1\n</RequireAll>")],
    ['… and a choice of others', content("<RequireAll>\nRequire mdm-enrolled\n<RequireAny>\n"
        . "Require ip 127.0.0.1\nRequire ip 127.0.0.2\n</RequireAny>\n</RequireAll>")],
    ['AuthMerging And below', content('Require mdm-enrolled')
        . "<Location /content/sub>\nAuthMerging And\nRequire ip 127.0.0.1\n</Location>\n"],
    ['valid-user elsewhere', device_location('') . "<Location /else>\n${basic}Require valid-user\n</Location>\n"],
    ['Satisfy any elsewhere', device_location('') . "<Location /else>\n${basic}Satisfy any\n</Location>\n"],
    ['Satisfy any above, all within', "<Location />\nSatisfy any\n</Location>\n"
        . content("Require mdm-enrolled\nSatisfy all")],
    ['Satisfy any above, all for the same path', "<Location />\nSatisfy any\n</Location>\n"
        . "<Location /content>\nSatisfy All\n</Location>\n" . content('Require mdm-enrolled')],
    ['Satisfy any below, where another Require takes its place', content('Require mdm-enrolled')
        . "<Location /content/sub>\nRequire ip 127.0.0.1\nSatisfy any\n</Location>\n"],
    ['Satisfy any beside', content('Require mdm-enrolled') . "<Location /content2>\nSatisfy any\n</Location>\n"],
    ['Satisfy any in another virtual host', "<VirtualHost *:1>\n<Location />\nSatisfy any\n</Location>\n"
        . "</VirtualHost>\n<VirtualHost *:1>\n" . content('Require mdm-enrolled') . "</VirtualHost>\n"],
    ['a location of others below', content('Require mdm-enrolled')
        . "<Location /content/sub>\nOptions None\n</Location>\n"],
    ['AuthMerging Or elsewhere', content('Require mdm-enrolled')
        . "<Location /else>\nAuthMerging Or\nRequire ip 127.0.0.1\n</Location>\n"],
    ['AuthMerging Or below one that took its place', content('Require mdm-enrolled')
        . "<Location /content/sub>\nRequire ip 127.0.0.1\n</Location>\n"
        . "<Location /content/sub/sub>\nAuthMerging Or\nRequire ip 127.0.0.2\n</Location>\n"],
    ['AuthzProviderAlias of others', "<AuthzProviderAlias ip mine \"127.0.0.1\">\n</AuthzProviderAlias>\n"
        . "<Location /else>\nRequire mine\n</Location>\n" . content('Require mdm-enrolled')],
    ['NanoMDMIdentity ssl without a CA file', "NanoMDMDatabase sqlite3 $scratch/configtest.db\n"
        . "<Location /mdm>\nSetHandler nanomdm\nNanoMDMIdentity ssl\nRequire ssl\n</Location>\n"],
    ['… and the other way round', "NanoMDMDatabase sqlite3 $scratch/configtest.db\n"
        . "<Location /mdm>\nNanoMDMIdentity ssl\nSetHandler nanomdm\n</Location>\n"],
    ['… for content', "NanoMDMDatabase sqlite3 $scratch/configtest.db\n"
        . "<Location /content>\nNanoMDMIdentity ssl\nRequire mdm-enrolled\n</Location>\n"],
);
for my $case (@accepted) {
    my ($name, $text) = @$case;
    my ($status, $output) = configtest($text, with => [qw(access_compat authz_groupfile)]);
    is($status, 0, "accepted: $name") or diag($output);
}

my @refused = (
    ['valid-user',         device_location("${basic}Require valid-user"),          qr/"Require valid-user".*401/],
    ['user',               device_location("${basic}Require user jane"),           qr/"Require user".*401/],
    ['group',              device_location("${basic}AuthGroupFile x\nRequire group staff"),         qr/"Require group".*401/],
    ['valid-user in <Limit>', device_location("$basic<Limit PUT>\nRequire valid-user\n</Limit>"),
        qr/"Require valid-user".*401/],
    ['valid-user in <LimitExcept>', device_location(
        "$basic<LimitExcept GET>\nRequire valid-user\n</LimitExcept>"), qr/"Require valid-user".*401/],
    ['valid-user in <If>', device_location("$basic<If \"true\">\nRequire valid-user\n</If>"),
        qr/"Require valid-user".*401/],
    ['valid-user in <Else>', device_location(
        "$basic<If \"false\">\n</If>\n<Else>\nRequire valid-user\n</Else>"), qr/"Require valid-user".*401/],
    ['valid-user in <RequireAll>', device_location(
        "$basic<RequireAll>\nRequire ip 127.0.0.1\nRequire valid-user\n</RequireAll>"),
        qr/"Require valid-user".*401/],
    ['valid-user in <RequireAny>', device_location(
        "$basic<RequireAny>\nRequire ip 127.0.0.1\nRequire valid-user\n</RequireAny>"),
        qr/"Require valid-user".*401/],
    ['valid-user, in a virtual host', "<VirtualHost *:1>\n"
        . device_location("${basic}Require valid-user") . "</VirtualHost>\n", qr/"Require valid-user".*401/],
    ['a handler in <If>', "$server<Location /mdm>\n<If \"true\">\nSetHandler nanomdm\n</If>\n"
        . "${basic}Require valid-user\n</Location>\n", qr/<Location>/],
    ['valid-user beside mdm-enrolled', content(
        "$basic<RequireAll>\nRequire mdm-enrolled\nRequire valid-user\n</RequireAll>"),
        qr/"Require valid-user".*401/],
    ['Satisfy any',        device_location('Satisfy any'),                         qr/Satisfy any/],
    ['Satisfy any, content', content("Require mdm-enrolled\nSatisfy Any"),         qr/Satisfy any/],
    ['Satisfy any above',  "<Location />\nSatisfy any\n</Location>\n" . content('Require mdm-enrolled'),
        qr{/content.*Satisfy any.*Satisfy all}],
    ['Satisfy any above, with a slash', "<Location />\nSatisfy any\n</Location>\n"
        . "$server<Location /content/>\nRequire mdm-enrolled\n</Location>\n", qr{/content/.*Satisfy any}],
    ['Satisfy any above, for one method', "<Location />\n<Limit PUT>\nSatisfy any\n</Limit>\n</Location>\n"
        . content('Require mdm-enrolled'), qr{/content.*Satisfy any}],
    ['Satisfy any for the same path', content('Require mdm-enrolled')
        . "<Location /content>\nSatisfy any\n</Location>\n", qr{/content.*Satisfy any}],
    ['Satisfy any below',  content('Require mdm-enrolled')
        . "<Location /content/sub>\nSatisfy any\n</Location>\n", qr{/content/sub.*Satisfy any}],
    ['Satisfy any below, with AuthMerging', content('Require mdm-enrolled') . "<Location /content/sub>\n"
        . "AuthMerging And\nRequire ip 127.0.0.1\nSatisfy any\n</Location>\n", qr{/content/sub.*Satisfy any}],
    ['Satisfy any for the server, content in a virtual host', "<Location />\nSatisfy any\n</Location>\n"
        . "<VirtualHost *:1>\n" . content('Require mdm-enrolled') . "</VirtualHost>\n", qr{/content.*Satisfy any}],
    ['Satisfy any in a pattern', content('Require mdm-enrolled')
        . "<LocationMatch ^/con>\nSatisfy any\n</LocationMatch>\n", qr{/content.*Satisfy any}],
    ['AuthMerging Or below', content('Require mdm-enrolled')
        . "<Location /content/sub>\nAuthMerging Or\nRequire ip 127.0.0.1\n</Location>\n",
        qr{/content/sub.*AuthMerging Or}],
    ['AuthMerging Or further below', content('Require mdm-enrolled')
        . "<Location /content/sub>\nAuthMerging And\nRequire ip 127.0.0.1\n</Location>\n"
        . "<Location /content/sub/sub>\nAuthMerging Or\nRequire ip 127.0.0.1\n</Location>\n",
        qr{/content/sub/sub.*AuthMerging Or}],
    ['AuthzProviderAlias', "<AuthzProviderAlias mdm-enrolled x \"\">\n</AuthzProviderAlias>\n"
        . content('Require x'), qr{AuthzProviderAlias.*Require mdm-enrolled}],
    ['AuthzProviderAlias with another one\'s settings', "<AuthzProviderAlias mdm-enrolled x \"\">\n"
        . "AuthName x\n</AuthzProviderAlias>\n" . content('Require x'),
        qr{AuthzProviderAlias.*Require mdm-enrolled}],
    ['AuthMerging Or',     content("AuthMerging Or\nRequire mdm-enrolled"),        qr/AuthMerging Or/],
    ['AuthMerging Or, device', device_location("AuthMerging or\nRequire ip 127.0.0.1"), qr/AuthMerging Or/],
    ['RequireAny',         content("<RequireAny>\nRequire mdm-enrolled\nRequire ip 127.0.0.1\n</RequireAny>"),
        qr/RequireAny/],
    ['RequireNone', content("<RequireAll>\nRequire all granted\n<RequireNone>\nRequire mdm-enrolled\n"
        . "</RequireNone>\n</RequireAll>"), qr/RequireNone|negative/],
    ['RequireAny within RequireAll', content("<RequireAll>\nRequire ip 127.0.0.1\n<RequireAny>\n"
        . "Require mdm-enrolled\nRequire ip 127.0.0.2\n</RequireAny>\n</RequireAll>"), qr/RequireAny/],
    ['not mdm-enrolled', content("<RequireAll>\nRequire all granted\nRequire not mdm-enrolled\n</RequireAll>"),
        qr/mdm-enrolled/],
    ['beside ip',          content("Require mdm-enrolled\nRequire ip 127.0.0.1"),  qr/RequireAll/],
    ['beside ip, in <Limit>', content("<Limit GET>\nRequire mdm-enrolled\nRequire ip 127.0.0.1\n</Limit>"),
        qr/RequireAll/],
    ['beside a container', content("Require mdm-enrolled\n<RequireAll>\nRequire ip 127.0.0.1\n</RequireAll>"),
        qr/RequireAll/],
    ['an argument',        content('Require mdm-enrolled devices'),                qr/no argument/],
    ['a handler as an expression', "$server<Location /mdm>\nSetHandler \"expr=nanomdm\"\n</Location>\n",
        qr/unknown handler|expr/],
    ['a handler of no such name', "$server<Location /mdm>\nSetHandler nanomdm-comand\n</Location>\n",
        qr/nanomdm-command/],
    ['a handler in <Directory>', "$server<Directory />\nSetHandler nanomdm\n</Directory>\n", qr/<Location>/],
    ['a handler in <Files>', "$server<Files x>\nSetHandler nanomdm\n</Files>\n", qr/<Location>/],
    ['a handler for all',  "${server}SetHandler nanomdm\n",                        qr/<Location>/],
    ['the API in a pattern', "$server<LocationMatch ^/v1>\nSetHandler nanomdm-api\n</LocationMatch>\n",
        qr/<Location>/],
    ['no API key', "NanoMDMDatabase sqlite3 $scratch/configtest.db\n<Location /v1/>\nSetHandler nanomdm-api\n"
        . "${basic}Require valid-user\n</Location>\n", qr/NanoMDMAPIKey/],
    ['a pool that never waits',     "NanoMDMDatabasePool wait=0\n" . device_location(''), qr/wait=0.*100ms/],
    ['a pool that hardly waits',    "NanoMDMDatabasePool wait=99ms\n" . device_location(''), qr/100ms/],
    ['a pool of no connection',     "NanoMDMDatabasePool max=0\n" . device_location(''),  qr/1 to 10000/],
    ['an unknown option',           "NanoMDMDatabasePool min=1\n" . device_location(''),  qr/max=/],
    ['a prefix with a quote',       "NanoMDMTablePrefix x'\n" . device_location(''),
        qr/NanoMDMTablePrefix: "x'" is no prefix: use up to 20 small letters/],
    ['last seen never written',     "NanoMDMLastSeenInterval 0\n" . device_location(''),  qr/100ms/],
    ['a body of no bytes',          "NanoMDMMaxBody 0\n" . device_location(''),           qr/NanoMDMMaxBody/],
);
for my $case (@refused) {
    my ($name, $text, $pattern) = @$case;
    my ($status, $output) = configtest($text, with => [qw(access_compat authz_groupfile)]);
    isnt($status, 0, "refused: $name");
    like($output, $pattern, "$name: says what to write");
}

# modules that are not there
my $ssl = "${server}<Location /mdm>\nSetHandler nanomdm\nNanoMDMIdentity ssl\n</Location>\n";
my ($status, $output) = configtest($ssl, without => ['ssl']);
isnt($status, 0, 'NanoMDMIdentity ssl without mod_ssl: refused');
like($output, qr/NanoMDMIdentity ssl.*mod_ssl/, '… says why');
($status, $output) = configtest(device_location(''), without => ['ssl']);
is($status, 0, 'no mod_ssl, and nobody needs it') or diag($output);
($status, $output) = configtest(device_location(''),
    without => [qw(rewrite headers proxy_http proxy alias dir env mime reqtimeout setenvif unique_id
        auth_basic authn_file authz_user authz_host authn_core authz_core ssl)]);
is($status, 0, 'no module but ours') or diag($output);
($status, $output) = configtest("<Location /v1/>\n${basic}Require valid-user\nSetHandler nanomdm-api\n</Location>\n$server",
    without => [qw(auth_basic)]);
isnt($status, 0, 'AuthBasicProvider without mod_auth_basic: refused');
like($output, qr/auth_basic/, '… says which module');

# secrets that cannot be read
my $secret = "$scratch/unreadable.key";
spew($secret, "key\n");
chmod 0, $secret;
for my $directive ("NanoMDMAPIKey file:$secret", "NanoMDMGetToken com.apple.maid file:$secret") {
    ($status, $output) = configtest($server . "$directive\n");
    isnt($status, 0, "$directive: refused");
    like($output, qr/\Q$secret\E.*ermission denied/, '… names the file and the reason');
    unlike($output, qr/^key$/m, '… and not its content');
}
chmod 0600, $secret;
unlink $secret;

done_testing;
