# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Require mdm-enrolled: content for enrolled devices alone, whatever serves it, with every source of
# identity; who it is goes to scripts, headers and logs, the body goes on to the handler, and no
# cache keeps the reply for others.

use strict;
use warnings FATAL => 'all';

use NanoMDM::Test;

my $config = <<'END_CONFIG';
ScriptAlias "/sig/"    "@dir@/cgi/"
ScriptAlias "/ssl/"    "@dir@/cgi/"
ScriptAlias "/hdr/"    "@dir@/cgi/"
ScriptAlias "/mine/"   "@dir@/cgi/"
ScriptAlias "/plain/"  "@dir@/cgi/"
ScriptAlias "/script-cached/" "@dir@/cgi/"
Alias "/static"        "@dir@/static"
Alias "/static-ssl"    "@dir@/static"
Alias "/static-hdr"    "@dir@/static"
Alias "/static-cached" "@dir@/static"
Alias "/open"          "@dir@/static"
<IfModule mod_cgid.c>
    ScriptSock "@dir@/cgi.sock"
</IfModule>
Header set X-Seen-Enrollment "expr=%{reqenv:NANOMDM_ENROLLMENT_ID}"

<Location "/mdm">
    SetHandler nanomdm
</Location>
<Location "/mdm-ssl">
    SetHandler nanomdm
    NanoMDMIdentity ssl
</Location>
<Location "/mdm-header">
    SetHandler nanomdm
    NanoMDMIdentity header X-Client-Cert
</Location>
<Location "/sig/">
    Require mdm-enrolled
</Location>
<Location "/ssl/">
    NanoMDMIdentity ssl
    Require mdm-enrolled
</Location>
<Location "/hdr/">
    NanoMDMIdentity header X-Client-Cert
    Require mdm-enrolled
</Location>
<Location "/mine/">
    <RequireAll>
        Require mdm-enrolled
        Require expr "%{reqenv:NANOMDM_ENROLLMENT_ID} == 'THE-ONE'"
    </RequireAll>
</Location>
<Location "/static/">
    Require mdm-enrolled
    DirectoryIndex file.txt
    ErrorDocument 404 /static/file.txt
    ErrorDocument 400 /static/file.txt
    ErrorDocument 408 /static/file.txt
    ErrorDocument 413 /static/file.txt
</Location>
<Location "/static/forbidden">
    DirectoryIndex disabled
    ErrorDocument 403 /static/file.txt
</Location>
<Location "/static-ssl/">
    NanoMDMIdentity ssl
    Require mdm-enrolled
    DirectoryIndex file.txt
</Location>
<Location "/static-hdr/">
    NanoMDMIdentity header X-Client-Cert
    Require mdm-enrolled
    DirectoryIndex file.txt
</Location>
<Location "/authproxy/">
    Require mdm-enrolled
    RequestHeader unset Mdm-Signature
    RequestHeader set X-Enrollment-ID "expr=%{reqenv:NANOMDM_ENROLLMENT_ID}"
    RequestHeader set X-Trace-ID "expr=%{reqenv:UNIQUE_ID}"
    ProxyPass "http://127.0.0.1:@port@/plain/"
</Location>
<Location "/nowhere/">
    Require mdm-enrolled
    ProxyPass "http://127.0.0.1:1/" retry=0
</Location>

# caches
CacheRoot "@dir@/cache"
CacheHeader On
CacheIgnoreNoLastMod On
CacheDefaultExpire 600
CacheIgnoreQueryString Off
CacheEnable disk "/static"
CacheEnable disk "/static-cached"
CacheEnable disk "/script-cached"
CacheEnable disk "/proxy-cached"
CacheEnable disk "/open"
<Location "/static-cached/">
    Require mdm-enrolled
    Header set Cache-Control "public, max-age=600"
</Location>
<Location "/script-cached/">
    Require mdm-enrolled
</Location>
<Location "/proxy-cached/">
    Require mdm-enrolled
    ProxyPass "http://127.0.0.1:@port@/plain/"
</Location>

RequestReadTimeout body=1
<VirtualHost 127.0.0.1:@tls_port@>
    SSLEngine on
    SSLCertificateFile @pki@/server.pem
    SSLCertificateKeyFile @pki@/server.key
    SSLCACertificateFile @pki@/ca.pem
    SSLVerifyClient optional
</VirtualHost>
<VirtualHost 127.0.0.1:@down_port@>
    NanoMDMDatabase sqlite3 /dev/null/nanomdm.db
</VirtualHost>
<VirtualHost 127.0.0.1:@small_port@>
    NanoMDMMaxBody 1K
</VirtualHost>
<VirtualHost 127.0.0.1:@slow_port@>
    CacheQuickHandler Off
</VirtualHost>
END_CONFIG
my $httpd = server(NanoMDM::Httpd->new(config => $config, ports => [qw(tls down small slow)],
    modules => ['cache', 'autoindex', 'cache_disk', var('mpm') eq 'prefork' ? 'cgi' : 'cgid']));
mkdir "$httpd->{dir}/$_" for qw(cgi static static/forbidden cache);
spew("$httpd->{dir}/static/$_", "secret content\n") for qw(file.txt forbidden/file.txt);
chmod 0, "$httpd->{dir}/static/forbidden/file.txt";
my $then = time - 30 * 86400;    # old files stay fresh in a cache
utime $then, $then, "$httpd->{dir}/static/file.txt";
spew("$httpd->{dir}/cgi/echo", "#!$^X\n" . <<'END_SCRIPT');
local $/;
my $body = <STDIN> // '';
print "Cache-Control: public, max-age=600\r\n" if $ENV{QUERY_STRING} =~ /public/;
print "Content-Type: text/plain\r\n\r\n";
print "$_=", $ENV{$_} // '', "\n" for qw(NANOMDM_ENROLLMENT_ID REQUEST_METHOD CONTENT_LENGTH
    HTTP_TRANSFER_ENCODING HTTP_X_ENROLLMENT_ID HTTP_X_TRACE_ID HTTP_MDM_SIGNATURE UNIQUE_ID);
print "BODY=$body";
END_SCRIPT
chmod 0755, "$httpd->{dir}/cgi/echo";
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);

# Call content as a device, or as nobody.
sub content {
    my ($method, $path, $who, $body, %o) = @_;
    my $tls = $who && $who->{source} eq 'ssl' || ($o{host} // '') eq 'tls';
    return request($method => $path, body => $body, ($tls ? (host => 'tls') : ()),
        ($tls && $who ? (identity => $who->{identity}) : ()), %o,
        headers => [$who ? identity_headers($who, $body // '') : (), @{ $o{headers} || [] }]);
}

# Five tests: 400 with a text and without the content.
sub kept_out {
    my ($r, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is_status($r, 400, "$name: 400");
    like($r->{body}, qr/\w/, '… says something');
    unlike($r->{body}, qr/<html|<!DOCTYPE|BODY=|secret content/i, '… as text, without the content');
    is($r->{headers}{'www-authenticate'}, undef, '… no challenge');
    ok($r->{headers}{'x-trace-id'}, '… and a trace id');
}

my %device;
my $large = join '', map { chr(33 + $_ % 90) } 1 .. 200_000;
for my $case (
    ['sig', 'signature', ''],
    ['ssl', 'ssl',       'tls'],
    ['hdr', 'header',    ''],
) {
    my ($path, $source, $host) = @$case;
    my $device = $device{$source} = enroll(device(source => $source, host => $host), "$source: enrolled");
    my $r = content(GET => "/$path/echo", $device);
    is_status($r, 200, "$source: GET");
    like($r->{body}, qr/^NANOMDM_ENROLLMENT_ID=\Q$device->{id}\E$/m, '… the script knows who');
    is($r->{headers}{'x-seen-enrollment'}, $device->{id}, '… headers too');
    like($r->{headers}{'cache-control'}, qr/private/, '… for no shared cache');
    ok((eventually { $httpd->access_log =~ m{^GET /\Q$path\E/echo .* 200 .*enrollment=\Q$device->{id}\E$}m }),
        '… and the access log');
    for my $method (qw(PUT POST)) {
        for my $body ('', "a body\0of bytes", $large) {
            $r = content($method => "/$path/echo", $device, $body);
            is_status($r, 200, "$source: $method of " . length($body) . ' bytes');
            ok($r->{body} =~ /^BODY=\Q$body\E\z/ms, '… all of it reaches the script');
            like($r->{body}, qr/^CONTENT_LENGTH=@{[length $body]}$/m, '… with its length') if length $body;
        }
    }
    is_status(content(HEAD => "/$path/echo", $device), 200, "$source: HEAD");
    kept_out(content(GET => "/$path/echo", undef, undef, host => $host), "$source: nobody");
    kept_out(content(GET => "/$path/echo", device(source => $source, host => $host), undef, host => $host),
        "$source: a device that has never enrolled");
    next if $source eq 'ssl';
    for my $identity (qw(other expired wrong_eku)) {
        kept_out(content(GET => "/$path/echo", device(source => $source, identity => $identity)),
            "$source: $identity");
    }
}
my $device = $device{signature};
kept_out(request(PUT => '/sig/echo', body => 'another', headers => [identity_headers($device, 'one')]),
    'a signature over another body');
kept_out(request(GET => '/sig/echo', headers => [identity_headers($device, 'one')]),
    'a signature over a body, for GET');
kept_out(request(PUT => '/sig/echo', body => 'one', headers => [identity_headers($device, '')]),
    'a signature over nothing, for PUT');
kept_out(request(GET => '/sig/echo', headers => ['Mdm-Signature' => '!!!']), 'a broken signature');
my $chunks = join '', map { sprintf "%x\r\n%s\r\n", length, $_ } 'one', 'two', '';
my $r = request(PUT => '/sig/echo', raw => "PUT /sig/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    . "Transfer-Encoding: chunked\r\nMdm-Signature: " . sign('onetwo', $device->{identity}) . "\r\n\r\n$chunks");
is_status($r, 200, 'a chunked body');
like($r->{body}, qr/^BODY=onetwo\z/m, '… reaches the script');
like($r->{body}, qr/^CONTENT_LENGTH=6$/m, '… with its length');
is_status(content(PUT => '/sig/echo', $device, 'x' x 2000, host => 'small'), 413, 'a body over the limit');
my $mark = log_mark();
$r = content(GET => '/sig/echo', $device, undef, host => 'down');
is_status($r, 503, 'no database');
ok($r->{headers}{'retry-after'}, '… with Retry-After');
unlike($r->{body}, qr/<html/i, '… as text');
unlike($r->{body}, qr/not an enrolled device/, '… that does not say what nobody knows');
log_like($mark, qr/nanomdm:warn.*the database is not available/, '… as a warning');

# static files, an index, an error page within
$r = content(GET => '/static/file.txt', $device);
is_status($r, 200, 'a file');
is($r->{body}, "secret content\n", '… its content');
is(content(GET => '/static/', $device)->{body}, "secret content\n", 'the index of a directory');
is_status(content(GET => '/static/none', $device), 404, 'a file that is not there');
kept_out(content(GET => '/static/'), 'the index, to nobody');
kept_out(content(GET => '/static/none'), 'a file that is not there, to nobody');
for my $case (['ssl', 'ssl', 'tls'], ['hdr', 'header', '']) {
    my ($path, $source, $host) = @$case;
    is(content(GET => "/static-$path/file.txt", $device{$source})->{body}, "secret content\n", "$source: a file");
    is(content(GET => "/static-$path/", $device{$source})->{body}, "secret content\n", '… and an index');
    is_status(content(GET => "/static-$path/none", $device{$source}), 404, '… and one that is not there');
    kept_out(content(GET => "/static-$path/file.txt", undef, undef, host => $host), "$source: a file, to nobody");
    kept_out(request(GET => "/static-$path/file.txt", host => $host, headers => [identity_headers($device, '')]),
        "$source: a file, to a signature");
}

# what httpd itself would refuse with 403
for my $path ('forbidden/', 'forbidden/file.txt') {
    kept_out(content(GET => "/static/$path", $device), "/static/$path");
    kept_out(content(GET => "/static/$path"), '… to nobody');
}

# a body that does not come, whatever error page there is
for my $path ('/static/file.txt', '/sig/echo') {
    my @signed = identity_headers($device, 'x' x 100);
    kept_out(request(PUT => $path, body => 'xxx', length => 100, end => 1, headers => [@signed]),
        "$path: a body that breaks off");
    $r = request(PUT => $path, raw => "PUT $path HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfoo\r\n");
    is_status($r, 400, "$path: a body in broken chunks");
    unlike($r->{body}, qr/secret|BODY=/, '… without the content');
    $r = request(PUT => $path, body => 'xxx', length => 100, headers => [@signed]);
    is_status($r, 408, "$path: a body that stops");
    unlike($r->{body}, qr/<html|secret|BODY=/i, '… as text');
    $r = content(PUT => $path, $device, 'x' x 2000, host => 'small');
    is_status($r, 413, "$path: a body over the limit");
    unlike($r->{body}, qr/<html|secret|BODY=/i, '… as text');
}

# An enrollment is one from Authenticate on, whose certificate it then has, and CheckOut does not
# take that away.
my $new = device();
is_status(checkin($new, 'Authenticate'), 200, 'Authenticate');
is_status(content(GET => '/sig/echo', $new), 200, '… and content');
is_status(checkin($new, 'TokenUpdate'), 200, 'TokenUpdate');
is_status(checkin($new, 'CheckOut'), 200, 'CheckOut');
is_status(content(GET => '/sig/echo', $new), 200, '… and content');

# a condition on the enrollment id
my $one = enroll(device(udid => 'THE-ONE'));
is_status(content(GET => '/mine/echo', $one), 200, 'Require expr on the id: the one');
kept_out(content(GET => '/mine/echo', $device), 'Require expr on the id: another');

# a proxy (content.t has the shipped one)
$r = content(PUT => '/authproxy/echo', $device, $large, headers =>
    ['X-Enrollment-ID' => 'FORGED', 'X-Trace-ID' => 'FORGED']);
is_status($r, 200, 'a proxy');
like($r->{body}, qr/^HTTP_X_ENROLLMENT_ID=\Q$device->{id}\E$/m, '… X-Enrollment-ID, not the client\'s');
my ($trace) = split /, /, $r->{headers}{'x-trace-id'} || 'none';
like($r->{body}, qr/^HTTP_X_TRACE_ID=\Q$trace\E$/m, '… X-Trace-ID');
like($r->{body}, qr/^HTTP_MDM_SIGNATURE=$/m, '… no signature');
ok($r->{body} =~ /^BODY=\Q$large\E\z/ms, '… and the whole body');
kept_out(content(GET => '/authproxy/echo'), 'a proxy: nobody');
like(content(GET => '/nowhere/', $device)->{status}, qr/^50[23]$/, 'an unreachable target');

# caches: first the device, which would fill them, then nobody
content(GET => '/open/file.txt');
is(content(GET => '/open/file.txt')->{headers}{'x-cache'} =~ /^HIT/ ? 1 : 0, 1,
    'the cache works where everybody may read');
for my $host ('', 'slow') {
    for my $path ('/static/file.txt', '/static-cached/file.txt', '/script-cached/echo?public',
        '/proxy-cached/echo?public')
    {
        for (1, 2) {
            $r = content(GET => $path, $device, undef, host => $host);
            is_status($r, 200, "cache: $path for the device" . ($host && ', checked first'));
            unlike($r->{headers}{'x-cache'} // '', qr/^HIT/, '… not from the cache');
        }
        kept_out(content(GET => $path, undef, undef, host => $host), "cache: $path for nobody");
        kept_out(content(GET => $path, device(), undef, host => $host), '… and for a stranger');
        $r = content(GET => $path, $one, undef, host => $host);
        is($r->{headers}{'x-seen-enrollment'}, 'THE-ONE', '… and another device gets its own');
    }
}
$httpd->stop;

# an authority that is missing where configtest does not look
$httpd = server(NanoMDM::Httpd->new(base => 0, config => <<'END_CONFIG'));
NanoMDMDatabase @database@
NanoMDMSchema   create
<Location "/">
    NanoMDMIdentity ssl
    Require mdm-enrolled
</Location>
<Location "/sig/">
    NanoMDMIdentity signature
</Location>
END_CONFIG
ok($httpd->start, 'starts without NanoMDMCACertificateFile') or diag($httpd->{output}, $httpd->log);
$mark = log_mark();
$r = content(GET => '/sig/', $device);
is_status($r, 503, 'a signature there');
unlike($r->{body}, qr/not an enrolled device|<html/i, '… says so');
log_like($mark, qr/nanomdm:error.*NanoMDMCACertificateFile is not set/, '… as an error');
$httpd->stop;

done_testing;
