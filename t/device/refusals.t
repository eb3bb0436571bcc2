# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A device never gets 401 or 403, which it would take for the end of its enrollment: whatever
# refuses it on the way, the answer is 400 with a text, without a challenge, and it may go on.

use strict;
use warnings FATAL => 'all';

use NanoMDM::Test;

my @refusing = (
    ['RewriteRule [F]',             "RewriteEngine On\nRewriteRule .* - [F]"],
    ['RewriteRule [R=401]',         "RewriteEngine On\nRewriteRule .* - [R=401]"],
    ['RewriteRule [R=407]',         "RewriteEngine On\nRewriteRule .* - [R=407]"],
    ['Require all denied',          'Require all denied'],
    ['Require ip',                  'Require ip 192.0.2.1'],
    ['Require expr',                'Require expr false'],
    ['Require env',                 'Require env NO_SUCH_VARIABLE'],
    ['Require ssl, without TLS',    'Require ssl'],
    ['SSLRequireSSL, without TLS',  'SSLRequireSSL'],
    ['Deny from all',               "Order Allow,Deny\nDeny from all"],
    ['<If>',                        "<If \"true\">\nRequire all denied\n</If>"],
    ['<Limit>',                     "<Limit PUT>\nRequire all denied\n</Limit>"],
    ['ErrorDocument 403 as a path', "ErrorDocument 403 /error.html\nRequire all denied"],
    ['ErrorDocument 401 as a path',
        "ErrorDocument 401 /error.html\nErrorDocument 400 /error.html\nRewriteEngine On\nRewriteRule .* - [R=401]"],
    ['ErrorDocument 403 as a text', "ErrorDocument 403 \"gone\"\nRequire all denied"],
    ['ErrorDocument 403 to a denied path', "ErrorDocument 403 /denied.html\nRequire all denied"],
);
my $config = <<'END_CONFIG';
RewriteEngine On
RewriteRule "^/refused-by-server" - [F]
RewriteRule "^/401-by-server" - [R=401]
ErrorDocument 403 /error.html
ErrorDocument 401 /error.html
<Location "/denied.html">
    Require all denied
</Location>
<Location "/refused-by-server">
    SetHandler nanomdm
</Location>
<Location "/401-by-server">
    SetHandler nanomdm
</Location>
<Location "/mdm">
    SetHandler nanomdm
</Location>
# inherited, where configtest sees two places
<Location "/below">
    AuthType Basic
    AuthName "x"
    AuthBasicProvider nanomdm
    Require valid-user
</Location>
<Location "/below/mdm">
    SetHandler nanomdm
</Location>
<Location "/below/checkin">
    SetHandler nanomdm-checkin
    NanoMDMIdentity header X-Client-Cert
</Location>
<Location "/below/content">
    AuthMerging And
    <RequireAll>
        Require mdm-enrolled
    </RequireAll>
</Location>
# content
Alias "/content" "@dir@/content"
<Location "/content">
    Require mdm-enrolled
</Location>
<Location "/content/here">
    AuthMerging And
    Require ip 127.0.0.1
</Location>
<Location "/content/elsewhere">
    AuthMerging And
    Require ip 192.0.2.1
</Location>
<Location "/content/all">
    <RequireAll>
        Require mdm-enrolled
        Require ip 192.0.2.1
    </RequireAll>
</Location>
END_CONFIG
for my $i (0 .. $#refusing) {
    $config .= "<Location /r$i>\nSetHandler nanomdm\n$refusing[$i][1]\n</Location>\n";
}
my $httpd = server(NanoMDM::Httpd->new(config => $config, modules => ['access_compat']));
spew("$httpd->{dir}/error.html", "<html>an error page</html>\n");
mkdir "$httpd->{dir}/content";
for my $dir (qw(here elsewhere all)) {
    mkdir "$httpd->{dir}/content/$dir";
    spew("$httpd->{dir}/content/$dir/file.txt", "for enrolled devices\n");
}
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
my $device = enroll(device());

# Four tests: 400, a text, no challenge, no page.
sub refused_well {
    my ($r, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is_status($r, 400, "$name: 400");
    is($r->{headers}{'www-authenticate'}, undef, '… no challenge');
    is($r->{headers}{'proxy-authenticate'}, undef, '… of a proxy neither');
    like($r->{body}, qr/\w/, '… says something');
    unlike($r->{body}, qr/<html|<!DOCTYPE/i, '… as text');
}

for my $i (0 .. $#refusing) {
    my $mark = log_mark();
    refused_well(report($device, -path => "/r$i"), $refusing[$i][0]);
    log_like($mark, qr/instead/, '… and the log tells');
}
for my $path ('/refused-by-server', '/401-by-server') {
    my $r = report($device, -path => $path);
    like($r->{status}, qr/^(200|400)$/, "$path: neither 401 nor 403") or diag($r->{body});
}
for my $path ('/below/mdm', '/below/checkin', '/below/content/file') {
    refused_well(report($device, -path => $path), "$path, below Require valid-user");
    refused_well(report($device, -path => $path, -headers => [Authorization => 'Basic eDp5']),
        "$path, with a wrong password");
}

# AuthMerging And below Require mdm-enrolled
sub fetch {
    my ($path, $who) = @_;
    return request(GET => $path, headers => [$who ? identity_headers($who, '') : ()]);
}
my $r = fetch('/content/here/file.txt', $device);
is_status($r, 200, 'AuthMerging And: an enrolled device');
is($r->{body}, "for enrolled devices\n", '… gets the content');
refused_well(fetch('/content/here/file.txt'), 'AuthMerging And: nobody');
refused_well(fetch('/content/here/file.txt', device()), 'AuthMerging And: an unknown device');
refused_well(fetch('/content/elsewhere/file.txt', $device), 'AuthMerging And: an address that does not fit');
refused_well(fetch('/content/all/file.txt', $device), 'RequireAll: an address that does not fit');
is_status(report($device), 200, 'the device goes on');
$httpd->stop;

# Handlers that come from where configtest cannot look: no authority, perhaps no database. 503.
my $rewrite = <<'END_REWRITE';
NanoMDMDatabase sqlite3 @dir@/nanomdm.db
NanoMDMSchema create
RewriteEngine On
RewriteRule "^/rw-mdm$" - [H=nanomdm]
RewriteRule "^/rw-checkin$" - [H=nanomdm-checkin]
RewriteRule "^/v1/" - [H=nanomdm-api]
RewriteRule "^/migration$" - [H=nanomdm-migration]
RewriteRule "^/content" - [E=X:y]
END_REWRITE
my $migration = "<Location /other>\nSetHandler nanomdm-migration\nRequire ip 127.0.0.1\n</Location>\n";
for my $case (
    ['nothing set up',          $rewrite],
    ['no authority',            "$rewrite\n$migration"],
    ['an authority alone',      "$rewrite\nNanoMDMCACertificateFile \@pki\@/ca.pem\n"],
    ['a guard',                 "$rewrite\n<Location />\nRequire ip 127.0.0.1\n</Location>\n"],
) {
    my ($name, $text) = @$case;
    $httpd = server(NanoMDM::Httpd->new(base => 0, config => $text));
    ok($httpd->start, "$name: starts") or diag($httpd->{output}, $httpd->log);
    for my $path (qw(/rw-mdm /rw-checkin)) {
        my $r = checkin($device, 'Authenticate', -path => $path);
        is_status($r, 503, "$name: [H=] for $path");
        ok($r->{headers}{'retry-after'}, '… with Retry-After');
    }
    for my $path (qw(/v1/enqueue/x /migration)) {
        my $r = api(PUT => $path, checkin_plist(device(), 'Authenticate'), base => '');
        like($r->{status}, qr/^(400|403|404|503)$/, "$name: [H=] for $path") or diag($r->{error}, $httpd->log);
    }
    $httpd->stop;    # fails if a child crashed
}

# .htaccess
$httpd = server(NanoMDM::Httpd->new(config => <<'END_CONFIG'));
<Location "/mdm">
    SetHandler nanomdm
</Location>
<Directory "@dir@/www">
    AllowOverride All
</Directory>
END_CONFIG
mkdir "$httpd->{dir}/www";
spew("$httpd->{dir}/www/file.txt", "content\n");
ok($httpd->start, 'with .htaccess files');
for my $case (
    ['Require mdm-enrolled', qr/Require mdm-enrolled belongs/],
    ['SetHandler nanomdm',   qr/belongs into a <Location>/],
    ['SetHandler nanomdm-api', qr/belongs into a <Location>/],
) {
    my ($line, $pattern) = @$case;
    spew("$httpd->{dir}/www/.htaccess", "$line\n");
    my $mark = log_mark();
    for my $who (undef, $device) {
        my $r = fetch('/www/file.txt', $who);
        is_status($r, 500, ".htaccess with $line");
        unlike($r->{body}, qr/^content/, '… gives nothing away');
    }
    log_like($mark, $pattern, '… and the log says where it belongs');
}
spew("$httpd->{dir}/www/.htaccess", "Require all granted\n");
is_status(fetch('/www/file.txt'), 200, 'another .htaccess');
$httpd->stop;

done_testing;
