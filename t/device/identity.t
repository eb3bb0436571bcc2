# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Who is calling: every kind of signature and certificate that must be accepted, and those that
# must be refused, always with 400.

use strict;
use warnings FATAL => 'all';

use MIME::Base64 qw(encode_base64 decode_base64);

use NanoMDM::Test;

sub authenticate {
    my (%o) = @_;
    return checkin(device(%o), 'Authenticate');
}

# Signatures of all kinds. The identities of the PKI belong to one device each from here on, so a
# kind of signature gets an identity of its own.
for my $case (
    ["Apple's: BER, SHA-1, RSA, no attributes", 'rsa',  { md => 'sha1', noattr => 1, indef => 1 }],
    ['DER, SHA-1, no attributes',               'rsa',  { md => 'sha1', noattr => 1 }],
    ['SHA-256, RSA, attributes',                'rsa',  { md => 'sha256' }],
    ['SHA-384, RSA, attributes, BER',           'rsa',  { md => 'sha384', indef => 1 }],
    ['SHA-512, RSA, no attributes',             'rsa',  { md => 'sha512', noattr => 1 }],
    ['SHA-256, ECDSA P-256, attributes',        'ec',   { md => 'sha256' }],
    ['SHA-256, ECDSA P-256, no attributes',     'ec',   { md => 'sha256', noattr => 1 }],
    ['SHA-384, ECDSA P-384',                    'ec',   { md => 'sha384' }],
) {
    my ($name, $key, $sign) = @$case;
    $key = 'ec384' if $name =~ /P-384/;
    my $identity = pki->issue('sig-' . uuid(), key => $key, issuer => 'ca');
    is_status(authenticate(identity => $identity, sign => $sign), 200, $name);
}

# Certificates. The same rules for a signature and a header; with TLS they are mod_ssl's.
my @good = (
    ['an empty subject',       { subject => '/' }],
    ['no extended key usage',  { ext => 'bare' }],
    ['any extended key usage', { ext => 'any' }],
    ['an odd key usage',       { ext => 'odd' }],
    ['an intermediate issuer', { issuer => 'intermediate' }],
);
for my $source (qw(signature header)) {
    for my $case (@good) {
        my ($name, $o) = @$case;
        my $identity = pki->issue('good-' . uuid(), issuer => 'ca', %$o);
        is_status(authenticate(identity => $identity, source => $source), 200, "$source: $name");
    }
    for my $identity (qw(wrong_eku expired not_yet other self_signed)) {
        my $mark = log_mark();
        my $r = authenticate(identity => $identity, source => $source);
        is_status($r, 400, "$source: $identity");
        log_like($mark, qr/nanomdm/, "$source: $identity: logged");
    }
    my $r = checkin(device(identity => 'via', source => $source, host => 'root_only'), 'Authenticate');
    is_status($r, 400, "$source: an intermediate issuer that is not configured");
}

# TLS: only SUCCESS counts
my $device = device(source => 'ssl');
is_status(checkin($device, 'Authenticate'), 200, 'ssl: a verified certificate');
my $generous = device(source => 'ssl', host => 'tls_generous', identity => 'other');
is_status(checkin($generous, 'Authenticate'), 400, 'ssl: GENEROUS is no identity');
is_status(request(PUT => '/mdm-ssl', body => report_plist($device), host => 'tls'), 400,
    'ssl: no certificate');
is_status(request(PUT => '/mdm-ssl', body => report_plist($device)), 400, 'ssl: no TLS');
is(checkin(device(source => 'ssl', identity => 'other'), 'Authenticate')->{status}, 0,
    'ssl: another authority fails the handshake');

# No identity, and broken ones
$device = enroll(device());
my $body = report_plist($device);
my $good = sign($body, $device->{identity});
my $der  = decode_base64($good);
for my $case (
    ['no header',                      undef],
    ['an empty header',                ''],
    ['no base64',                      '!!!!'],
    ['base64 of something else',       encode_base64('hello', '')],
    ['a signature of another body',    sign("$body ", $device->{identity})],
    ['a truncated signature',          encode_base64(substr($der, 0, -20), '')],
    ['trailing bytes',                 encode_base64("$der\1", '')],
    ['no certificate inside',          sign($body, $device->{identity}, nocerts => 1)],
    ['two signers', sign($body, $device->{identity},
        extra => ['-signer', pki->cert('ec'), '-inkey', pki->key('ec')])],
    ['over 10 KiB',                    encode_base64("0\x82\x2a\xf8" . "\0" x 11000, '')],
) {
    my ($name, $header) = @$case;
    my $r = request(PUT => '/mdm', body => $body,
        headers => [defined $header ? ('Mdm-Signature' => $header) : ()]);
    is_status($r, 400, $name);
}
is_status(request(PUT => '/mdm', body => $body, headers => ['Mdm-Signature' => $good]), 200,
    '… and the good one');
is_status(report($device, -path => '/mdm-default'), 200, 'signature is the default');

# Forms of the header
$device = device(source => 'header');
my $name = $device->{identity};
my $pem  = slurp(pki->cert($name));
$pem =~ s/\A.*?(?=-----BEGIN)//s;
my $message = checkin_plist($device, 'Authenticate');
(my $escaped = $pem) =~ s/([^A-Za-z0-9\-._~])/sprintf '%%%02X', ord $1/ge;
(my $folded = $pem) =~ s/\n/ /g;
(my $plus = $escaped) =~ s/%20/+/g;
(my $unescaped_plus = $escaped) =~ s/%2B/+/g;
for my $case (
    ['RFC 9440',                  ':' . encode_base64(pki->der($name), '') . ':', 200],
    ['percent-encoded PEM',       $escaped, 200],
    ['… with + for the spaces',   $plus, 200],
    ['… with a bare + in base64', $unescaped_plus, 200],
    ['folded PEM',                $folded, 200],
    ['no closing colon',          ':' . encode_base64(pki->der($name), ''), 400],
    ['nonsense',                  'nonsense', 400],
    ['empty',                     '', 400],
    ['(null)',                    '(null)', 400],
) {
    my ($kind, $value, $status) = @$case;
    my $r = request(PUT => '/mdm-header', body => $message, headers => [
        'Content-Type' => 'application/x-apple-aspen-mdm-checkin', 'X-Client-Cert' => $value]);
    is_status($r, $status, "header: $kind");
}

done_testing;
