# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# POST escrowkeyunlock: against a server that asks for the push certificate.
use strict;
use warnings FATAL => 'all';

use NanoMDM::Receiver ();
use NanoMDM::Test;

my $apple = NanoMDM::Receiver->new(tls => 'server', client_ca => 'ca');
my $apple_url = $apple->url('/unlock');
my $api = <<'END_API';
<Location "/v1/">
    SetHandler nanomdm-api
    AuthType Basic
    AuthName "nanomdm"
    AuthBasicProvider nanomdm
    Require valid-user
</Location>
END_API
my $httpd = server(NanoMDM::Httpd->new(ports => [qw(untrusted)], config => <<"END_CONFIG"));
NanoMDMEscrowKeyUnlockURL $apple_url ca=\@pki\@/other_ca.pem
$api
<VirtualHost 127.0.0.1:\@untrusted_port\@>
    NanoMDMEscrowKeyUnlockURL $apple_url
</VirtualHost>
END_CONFIG
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);

my $topic = 'com.apple.mgmt.External.' . lc uuid();
my $cert = pki->issue("push-$topic", issuer => 'ca', subject => "/UID=$topic/CN=APSP");
is_status(api(PUT => 'pushcert', slurp(pki->cert($cert)) . slurp(pki->key($cert))), 200, 'a push certificate');

my %fields = (topic => $topic, serial => 'C02 &x', productType => 'Mac14,2', escrowKey => 'THE-KEY+/=',
    orgName => "Org \xc3\xa4 & Co", guid => 'GUID-1');
sub form {
    my (%f) = @_;
    return join '&', map { my $v = $f{$_}; utf8::encode($v) if utf8::is_utf8($v);
        $v =~ s/([^A-Za-z0-9.])/sprintf '%%%02X', ord $1/ge; "$_=$v" } grep { defined $f{$_} } sort keys %f;
}
sub unform {
    my ($text) = @_;
    return { map { my ($n, $v) = split /=/, $_, 2; $v =~ tr/+/ /; $v =~ s/%(..)/chr hex $1/ge; ($n => $v) } split /&/, $text };
}
sub unlock { my ($form, %o) = @_; return api(POST => 'escrowkeyunlock', $form,
    headers => ['Content-Type' => 'application/x-www-form-urlencoded'], %o) }

$apple->answer(status => 418, body => '{"code":"1"}', headers => ['Content-Type' => 'application/x-apple',
    'X-Apple' => 'yes', 'Connection' => 'keep-alive', 'Set-Cookie' => 'a=b', 'Set-Cookie' => 'c=d']);
my $r = unlock(form(%fields, imei => '1', meid => '3'));
is_status($r, 418, 'the status comes back');
is($r->{body}, '{"code":"1"}', '… the body');
is($r->{headers}{'content-type'}, 'application/x-apple', '… its type');
is($r->{headers}{'x-apple'}, 'yes', '… headers');
is($r->{headers}{'set-cookie'}, 'a=b, c=d', '… repeated ones too');
my $q = ($apple->requests)[-1];
is($q->{method}, 'POST', 'asked by POST');
my ($path, $query) = split /\?/, $q->{path};
is($path, '/unlock', '… there');
is_deeply(unform($query), { serial => 'C02 &x', productType => 'Mac14,2', imei => '1', meid => '3' }, '… the query');
is_deeply(unform($q->{body}), { map { ($_ => $fields{$_}) } qw(orgName guid escrowKey) }, '… the form');
is($q->{headers}{'content-type'}, 'application/x-www-form-urlencoded', '… its type');
like($q->{peer}, qr/\Q$topic\E/, '… with the push certificate');
$apple->answer(status => 200);
is_status(unlock(form(%fields)), 200, 'without options');
is_deeply(unform((split /\?/, ($apple->requests)[-1]{path})[1]), { serial => 'C02 &x', productType => 'Mac14,2' },
    '… without what is not given');

my $n = $apple->count;
for my $name (sort keys %fields) {
    $r = unlock(form(%fields, $name => undef));
    is_status($r, 400, "without $name");
    like($r->{json}{error}, qr/the field $name is missing/, '… says so');
    is_status(unlock(form(%fields, $name => '')), 400, "with an empty $name");
}
is_status(unlock('%zz=1'), 400, 'no form');
is_status(unlock('x' x 100_000), 413, 'a large form');
is_status(unlock(form(%fields, topic => 'com.apple.mgmt.other')), 404, 'an unknown topic');
is_status(unlock(form(%fields, topic => 'x' x 300)), 404, 'a long one');
is_status(api(GET => 'escrowkeyunlock', ''), 405, 'GET');
is_status(unlock(form(%fields), password => 'wrong'), 401, 'no key');
is($apple->count, $n, 'nobody was asked');

my $mark = log_mark();
is_status(unlock(form(%fields), host => 'untrusted'), 502, 'a server that is not trusted');
log_like($mark, qr/escrow key unlock: SSL certificate problem/, '… logged');
$apple->answer(status => 200, size => 50 * 1024 * 1024);
is_status(unlock(form(%fields)), 502, 'an endless reply');
$apple->answer(status => 301, headers => [Location => 'https://127.0.0.1:1/']);
is_status(unlock(form(%fields)), 301, 'a redirect comes back');
$apple->down;
is_status(unlock(form(%fields)), 502, 'unreachable');
log_unlike(0, qr/THE-KEY/, 'no escrow key in the log');
$httpd->stop;
done_testing;
