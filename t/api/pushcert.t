# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Push certificates by the API: what is taken, what is refused, what is stored and told again.

use strict;
use warnings FATAL => 'all';

use NanoMDM::Test;

my $topic = 'com.apple.mgmt.External.' . lc uuid();

# A push certificate and its key: (certificate, key), as PEM.
sub push_cert {
    my (%o) = @_;
    my $name = pki->issue('push-' . uuid(), issuer => 'ca', key => 'rsa', subject => "/UID=$topic/CN=APSP", %o);
    return (slurp(pki->cert($name)), slurp(pki->key($name)));
}
sub put { my ($body, %o) = @_; return api(PUT => 'pushcert', $body, %o) }
sub stored { return db('SELECT * FROM push_certs WHERE topic = ?', $topic)->[0] }

my ($cert, $key) = push_cert();
my ($not_after) = map { /notAfter=(.*)/ } NanoMDM::PKI::openssl($cert, 'x509', '-noout', '-enddate',
    '-dateopt', 'iso_8601');
$not_after =~ s/ /T/;

# nothing there, nobody let in
is_status(api(GET => "pushcert?topic=$topic", ''), 404, 'no certificate yet');
is_status(put("$cert$key", user => ''), 401, 'no credentials');
ok(!stored(), '… and nothing is stored');

# in any order, and glued together
my $mark = log_mark();
my $version;
for my $case (
    ['certificate and key',     "$cert$key"],
    ['key and certificate',     "$key$cert"],
    ['glued together',          $cert =~ s/\n\z//r . $key =~ s/\n\z//r],
    ['with carriage returns',   "$cert$key" =~ s/\n/\r\n/gr],
    ['with text around',        "Bag Attributes\n    friendlyName: x\n$key\nsubject=UID\n\n$cert\n"],
) {
    my ($name, $body) = @$case;
    my $r = put($body);
    is_status($r, 200, $name);
    is($r->{headers}{'content-type'}, 'application/json', '… content type');
    json_ok($r, { topic => $topic, not_after => $not_after }, '… topic and end');
    like($r->{body}, qr/\A\{\n\t"not_after": "[^"]+",\n\t"topic": "[^"]+"\n\}\n\z/, '… tab-indented');
    my $row = stored();
    like($row->{cert_pem}, qr/\A-----BEGIN CERTIFICATE-----/, '… the certificate is stored as PEM');
    like($row->{key_pem},  qr/\A-----BEGIN (?:RSA )?PRIVATE KEY-----/, '… and the key');
    is($row->{stale_token}, ($version // -1) + 1, '… with a version one higher');
    $version = $row->{stale_token};
}
json_ok(api(GET => "pushcert?topic=$topic", ''), { topic => $topic, not_after => $not_after },
    'GET tells the same');

# other kinds of keys, and one that has expired
for my $kind ('ec', 'rsa') {
    my ($other, $other_key) = push_cert(key => $kind);
    is_status(put("$other$other_key"), 200, "another one ($kind)");
}
my ($old, $old_key) = push_cert(start => '20200101000000Z', end => '20210101000000Z');
my $warned = log_mark();
my $r = put("$old$old_key");
is_status($r, 200, 'one that has expired');
is($r->{json}{not_after}, '2021-01-01T00:00:00Z', '… with its end');
log_like($warned, qr/\[nanomdm:warn\].*\Q$topic\E has expired/, '… and a warning');
is(stored()->{stale_token}, $version + 3, '… stored');

# what cannot be used
my $before = stored()->{stale_token};
my (undef, $wrong_key) = push_cert();
my ($other_uid, $other_uid_key) = push_cert(subject => '/UID=com.example.topic/CN=x');
my ($no_uid, $no_uid_key) = push_cert(subject => '/CN=com.apple.mgmt.x');
my $encrypted = NanoMDM::PKI::openssl($key, 'pkey', '-aes128', '-passout', 'pass:secret-phrase');
for my $case (
    ['an empty body',        ''],
    ['no PEM',               'hello'],
    ['only a certificate',   $cert],
    ['only a key',           $key],
    ['a key that is not its own', "$cert$wrong_key", qr/key/],
    ['an encrypted key',     "$cert$encrypted", qr/encrypted/],
    ['another UID',          "$other_uid$other_uid_key", qr/com\.apple\.mgmt/],
    ['no UID',               "$no_uid$no_uid_key", qr/UID/],
    ['a damaged certificate', substr($cert, 0, 300) . "\n-----END CERTIFICATE-----\n$key"],
    ['a damaged key',        $cert . substr($key, 0, 300) . "\n-----END PRIVATE KEY-----\n"],
    ['NUL bytes',            "$cert\0$key" . "\0" x 100],
) {
    my ($name, $body, $pattern) = @$case;
    $r = put($body);
    is_status($r, 400, $name);
    is(join(' ', keys %{ $r->{json} || {} }), 'error', '… with an error');
    like($r->{json}{error} // '', $pattern, '… that says why') if $pattern;
}
$r = put('x' x 1_000_000);
is_status($r, 413, 'a huge body');
ok($r->{json}{error}, '… with an error');
is(stored()->{stale_token}, $before, 'none of that is stored');

# what is asked for
for my $case (
    ['no topic', 'pushcert', 400], ['an empty topic', 'pushcert?topic=', 400],
    ['another parameter', "pushcert?tropic=$topic", 400],
    ['an unknown topic', 'pushcert?topic=com.apple.mgmt.unknown', 404],
    ['bytes', 'pushcert?topic=%00%ff', 400], ['a long one', 'pushcert?topic=' . 'x' x 300, 400],
) {
    my ($name, $path, $status) = @$case;
    $r = api(GET => $path, '');
    is_status($r, $status, "GET, $name");
    ok($r->{json}{error}, '… with an error');
}
is_status(api(GET => "pushcert?topic=" . $topic =~ s/\./%2E/gr, ''), 200, 'GET, an escaped topic');
for my $method (qw(POST DELETE PATCH)) {
    $r = api($method => 'pushcert', "$cert$key");
    is_status($r, 405, $method);
    is($r->{headers}{allow}, 'GET, PUT', '… with what is allowed');
}
is_status(api(GET => 'pushcert/x', ''), 404, 'a path below');

my $lines = join '|', map { quotemeta } grep { length > 40 } split /\n/, "$cert$key$old_key$encrypted";
log_unlike($mark, qr/$lines|secret-phrase/, 'nothing of keys and certificates is logged');

done_testing;
