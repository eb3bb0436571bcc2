# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Require mdm-enrolled and what httpd makes of one request: internal redirects (RewriteRule in a
# directory, Action, a script's Location, ErrorDocument) and subrequests. Who it is, the trace id
# and the body go with the request, but only as far as they hold, and no detour leads in. Without
# mod_unique_id, which would care for the trace id.

use strict;
use warnings FATAL => 'all';

use NanoMDM::Receiver ();
use NanoMDM::Test;

my $backend = NanoMDM::Receiver->new;
my $target  = $backend->url('/');
my $headers = <<'END_HEADERS';
    RequestHeader set X-Enrollment-ID "expr=%{reqenv:NANOMDM_ENROLLMENT_ID}"
    RequestHeader set X-Trace-ID "expr=%{reqenv:UNIQUE_ID}"
END_HEADERS
my $config = <<"END_CONFIG";
ScriptAlias "/script/" "\@dir\@/cgi/"
ScriptAlias "/mine/"   "\@dir\@/cgi/"
ScriptAlias "/ssl/"    "\@dir\@/cgi/"
ScriptAlias "/hdr/"    "\@dir\@/cgi/"
ScriptAlias "/open/"   "\@dir\@/cgi/"
Alias       "/files"   "\@dir\@/files"
<IfModule mod_cgid.c>
    ScriptSock "\@dir\@/cgi.sock"
</IfModule>
Header always set X-Seen-Enrollment "expr=%{reqenv:NANOMDM_ENROLLMENT_ID}"
Action acted /script/echo virtual

<Location "/mdm">
    SetHandler nanomdm
</Location>
<Location "/mdm-header">
    SetHandler nanomdm
    NanoMDMIdentity header X-Client-Cert
</Location>
<Location "/files/">
    Require mdm-enrolled
    ErrorDocument 404 /proxy/error
</Location>
<Location "/files/acted">
    SetHandler acted
</Location>
<Location "/script/">
    Require mdm-enrolled
</Location>
<Location "/proxy/">
    Require mdm-enrolled
$headers
    ProxyPass "$target" retry=0
</Location>
<Location "/mine/">
    <RequireAll>
        Require mdm-enrolled
        Require expr "%{reqenv:NANOMDM_ENROLLMENT_ID} == 'THE-ONE'"
    </RequireAll>
</Location>
<Location "/ssl/">
    NanoMDMIdentity ssl
    Require mdm-enrolled
</Location>
<Location "/hdr/">
    NanoMDMIdentity header X-Client-Cert
    Require mdm-enrolled
</Location>
<Directory "\@dir\@/files">
    Options +FollowSymLinks +Includes
    AddType text/html .shtml
    AddOutputFilter INCLUDES .shtml
    RewriteEngine On
    RewriteRule "^to/(.*)" "/\$1"
</Directory>
SetEnvIf X-Enrollment-ID "(.+)" NANOMDM_ENROLLMENT_ID=\$1
END_CONFIG
my $httpd = server(NanoMDM::Httpd->new(config => $config, without => ['unique_id'],
    modules => ['actions', 'include', var('mpm') eq 'prefork' ? 'cgi' : 'cgid']));
mkdir "$httpd->{dir}/$_" for qw(cgi files);
spew("$httpd->{dir}/files/file.txt", "secret content\n");
spew("$httpd->{dir}/files/page.shtml", '<!--#include virtual="/mine/echo" -->');
spew("$httpd->{dir}/cgi/move", "#!$^X\nprint \"Location: /\$ENV{QUERY_STRING}\\r\\n\\r\\n\";\n");
spew("$httpd->{dir}/cgi/echo", "#!$^X\n" . <<'END_SCRIPT');
local $/;
my $body = <STDIN> // '';
print "Content-Type: text/plain\r\n\r\n";
print "$_=", $ENV{$_} // '', "\n" for qw(NANOMDM_ENROLLMENT_ID UNIQUE_ID REQUEST_METHOD);
print "BODY=$body";
END_SCRIPT
chmod 0755, "$httpd->{dir}/cgi/$_" for qw(move echo);
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);

sub content {
    my ($method, $path, $who, $body, @headers) = @_;
    return request($method => $path, body => $body,
        headers => [$who ? identity_headers($who, $body // '') : (), @headers]);
}
sub trace { my ($r) = @_; return (split /, /, $r->{headers}{'x-trace-id'} // '')[0] // 'none' }

my $one     = enroll(device(udid => 'THE-ONE'));
my $another = enroll(device());
my $body    = join '', map { chr(33 + $_ % 90) } 1 .. 200_000;

# to a script
for my $case (['a script itself', '/script/echo'], ['RewriteRule', '/files/to/script/echo'],
    ['Action', '/files/acted'], ['Require expr', '/mine/echo'], ['RewriteRule, Require expr', '/files/to/mine/echo'],
    ['RewriteRule, Action', '/files/to/files/acted'])
{
    my ($name, $path) = @$case;
    for my $method (qw(GET PUT POST)) {
        my $sent = $method eq 'GET' ? '' : $body;
        my $r = content($method => $path, $one, $sent);
        is_status($r, 200, "$name: $method");
        like($r->{body}, qr/^NANOMDM_ENROLLMENT_ID=THE-ONE$/m, '… the script knows who');
        like($r->{body}, qr/^UNIQUE_ID=\Q@{[trace($r)]}\E$/m, '… and the trace id');
        like($r->{body}, qr/^REQUEST_METHOD=$method$/m, '… and the method');
        ok($r->{body} =~ /^BODY=\Q$sent\E\z/m, '… and has the body');
        is($r->{headers}{'x-seen-enrollment'}, 'THE-ONE', '… headers too');
    }
}
is_status(content(GET => '/files/to/mine/echo', $another), 400, 'RewriteRule, Require expr: another');

# to a backend
for my $case (['RewriteRule', PUT => '/files/to/proxy/x', $body], ['RewriteRule', GET => '/files/to/proxy/x', ''],
    ['a script', PUT => '/script/move?proxy/x', $body, ''], ['a script', GET => '/script/move?proxy/x', ''],
    ['ErrorDocument', GET => '/files/none', ''])
{
    my ($name, $method, $path, $sent, $got) = @$case;
    my $n = $backend->count;
    my $r = content($method => $path, $one, $sent, 'X-Enrollment-ID' => 'FORGED');
    is_status($r, 200, "$name to a backend: $method");
    is($backend->count, $n + 1, '… comes there');
    my $q = ($backend->requests)[-1];
    is($q->{headers}{'x-enrollment-id'}, 'THE-ONE', '… with who it is');
    is($q->{headers}{'x-trace-id'}, trace($r), '… and the trace id');
    ok($q->{body} eq ($got // $sent), '… and the body');
}

# within one location, and to where nobody is asked
my $r = content(GET => '/files/to/files/file.txt', $one);
is_status($r, 200, 'within the location');
is($r->{headers}{'x-seen-enrollment'}, 'THE-ONE', '… who it is');
is(content(GET => '/files/to/open/echo', $one)->{headers}{'x-seen-enrollment'}, 'THE-ONE', 'to an open place');
ok((eventually { $httpd->access_log =~ m{^GET /files/to/open/echo .* 200 .*enrollment=THE-ONE$}m }),
    '… and the access log');
like(content(GET => '/files/page.shtml', $one)->{body}, qr/^NANOMDM_ENROLLMENT_ID=THE-ONE$/m, 'a subrequest');
unlike(content(GET => '/files/page.shtml', $another)->{body}, qr/^NANOMDM/m, '… of another');

# what one source of identity says does not hold for another one
my $n = $backend->count;
is_status(content(GET => '/files/to/ssl/echo', $one), 400, 'from a signature to TLS');
is_status(content(GET => '/files/to/hdr/echo', $one), 400, 'from a signature to a header');
my $other = enroll(device(source => 'header'));
is_status(content(GET => '/hdr/move?script/echo', $other), 400, 'from a header to a signature');
is_status(content(GET => '/hdr/move?hdr/echo', $other), 200, 'from a header to a header');
$r = content(GET => '/files/to/hdr/echo', $one, '', identity_headers($other, ''));
like($r->{body}, qr/^NANOMDM_ENROLLMENT_ID=\Q$other->{id}\E$/m, 'from a signature to a header, with both');

# nobody
for my $path ('/files/to/script/echo', '/files/acted', '/script/move?proxy/x', '/files/none', '/files/page.shtml',
    '/open/move?script/echo', '/open/move?proxy/x', '/open/move?mine/echo')
{
    for my $who (undef, device()) {
        $r = content(GET => $path, $who, '', 'X-Enrollment-ID' => 'THE-ONE');
        is_status($r, 400, "$path: " . ($who ? 'a stranger' : 'nobody'));
        unlike($r->{body}, qr/^BODY=/m, '… without the content');
    }
}
is($backend->count, $n, '… does not get there');
is_status(content(GET => '/open/move?script/echo', $one), 200, 'from an open place: a device');
$httpd->stop;

done_testing;
