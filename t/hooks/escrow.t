# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# POST escrowkeyunlock: against a server that asks for the push certificate.
use strict;
use warnings FATAL => 'all';

use NanoMDM::Receiver ();
use NanoMDM::Test;

my $apple = NanoMDM::Receiver->new(tls => 'server', client_ca => 'ca');
my $elsewhere = NanoMDM::Receiver->new(tls => 'elsewhere');
my ($apple_url, $elsewhere_url) = map { $_->url('/unlock') } $apple, $elsewhere;
my $httpd = server(NanoMDM::Httpd->new(ports => [qw(untrusted elsewhere)], config => <<"END_CONFIG"));
NanoMDMEscrowKeyUnlockURL $apple_url ca=\@pki\@/other_ca.pem
\@api\@
<VirtualHost 127.0.0.1:\@untrusted_port\@>
    NanoMDMEscrowKeyUnlockURL $apple_url
</VirtualHost>
<VirtualHost 127.0.0.1:\@elsewhere_port\@>
    NanoMDMEscrowKeyUnlockURL $elsewhere_url ca=\@pki\@/other_ca.pem
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
my $mark = log_mark();
my $r = unlock(form(%fields, imei => '1', imei2 => '2', meid => '3'));
is_status($r, 418, 'the status comes back');
is($r->{body}, '{"code":"1"}', '… the body');
is($r->{headers}{'content-type'}, 'application/x-apple', '… its type');
is($r->{headers}{'x-apple'}, 'yes', '… headers');
is($r->{headers}{'set-cookie'}, 'a=b, c=d', '… repeated ones too');
my $q = ($apple->requests)[-1];
is($q->{method}, 'POST', 'asked by POST');
my ($path, $query) = split /\?/, $q->{path};
is($path, '/unlock', '… there');
is_deeply(unform($query), { serial => 'C02 &x', productType => 'Mac14,2', imei => '1', imei2 => '2', meid => '3' }, '… the query');
is_deeply(unform($q->{body}), { map { ($_ => $fields{$_}) } qw(orgName guid escrowKey) }, '… the form');
is($q->{headers}{'content-type'}, 'application/x-www-form-urlencoded', '… its type');
like($q->{peer}, qr/\Q$topic\E/, '… with the push certificate');
log_like($mark, qr/escrow key unlock: topic="\Q$topic\E" serial="C02 &x" answered 418/, '… logged');
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

# each topic has its certificate, on connections that are kept
sub push_certificate {
    my ($name, $topic) = @_;
    pki->issue($name, issuer => 'ca', subject => "/UID=$topic/CN=$name");
    is_status(api(PUT => 'pushcert', slurp(pki->cert($name)) . slurp(pki->key($name))), 200, "push certificate $name");
    return;
}
sub peer_of {
    my ($topic) = @_;
    unlock(form(%fields, topic => $topic));
    return ($apple->requests)[-1]{peer} =~ /CN=([^\/]+)/ ? $1 : 'nobody';
}
my $second = 'com.apple.mgmt.External.' . lc uuid();
push_certificate("first-$$", $topic);
push_certificate("second-$$", $second);
my $from = $apple->count;
is(join(' ', map { peer_of($_) } ($topic, $second) x 3), join(' ', ("first-$$", "second-$$") x 3), 'two topics in turn');
my %id = map { ($_->{id} => 1) } $apple->requests($from);
is(scalar keys %id, 2, '… each on a connection of its own') unless var('mpm') eq 'prefork';
push_certificate("renewed-$$", $topic);
is(join(' ', map { peer_of($_) } ($topic, $second) x 2), join(' ', ("renewed-$$", "second-$$") x 2), 'one is renewed');

$mark = log_mark();
is_status(unlock(form(%fields), host => 'untrusted'), 502, 'a server that is not trusted');
log_like($mark, qr/:error\].*escrow key unlock: topic="\Q$topic\E" serial="C02 &x" SSL certificate problem/, '… logged');
$r = unlock(form(%fields), host => 'elsewhere');
is_status($r, 502, 'the certificate of another host');
unlike($r->{body}, qr/SSL|127\.0\.0\.1/, '… which the caller is not told');
log_like($mark, qr/escrow key unlock: .* SSL: .*subject/, '… but the log');
is($elsewhere->count, 0, '… it is told nothing');
$apple->answer(raw => "nonsense\r\n\r\n");
is_status(unlock(form(%fields)), 502, 'nonsense');
$apple->answer(raw => '');
is_status(unlock(form(%fields)), 502, 'closing early');
$apple->answer(status => 200, size => 50 * 1024 * 1024);
is_status(unlock(form(%fields)), 502, 'an endless reply');
$apple->answer(status => 500);
is_status(unlock(form(%fields)), 500, 'its error comes back');
my $other = NanoMDM::Receiver->new(tls => 'server');
for my $status (301, 307) {
    $apple->answer(status => $status, headers => [Location => $other->url('/')]);
    is_status(unlock(form(%fields)), $status, "a redirect comes back: $status");
}
is($other->count, 0, '… and none is followed');
$apple->down;
is_status(unlock(form(%fields)), 502, 'unreachable');
log_unlike(0, qr/THE-KEY|GUID-1/, 'no escrow key in the log');
$httpd->stop;
done_testing;
